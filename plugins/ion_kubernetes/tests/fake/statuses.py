"""The ``Status`` objects by which an API server refuses, worded as the recorded ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class Refused(Exception):
    """Answered with its ``status`` object and code, and the headers given."""

    def __init__(self, status: Json, headers: dict[str, str] | None = None) -> None:
        super().__init__(status["message"])
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True)
class Problem:
    """One cause of a refusal. ``reason`` is Kubernetes' word, such as FieldValueInvalid."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def invalid(field: str, value: Any, why: str) -> Problem:
    return Problem(field, "FieldValueInvalid", f"Invalid value: {value}: {why}")


def required(field: str, why: str = "") -> Problem:
    return Problem(field, "FieldValueRequired", f"Required value{f': {why}' if why else ''}")


def unsupported(field: str, value: str, supported: Sequence[str]) -> Problem:
    listed = ", ".join(f'"{it}"' for it in supported)
    return Problem(field, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {listed}')


def status(code: int, reason: str, message: str, details: Json | None = None) -> Json:
    body: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    body |= {"reason": reason} if reason else {}
    return body | ({"details": details} if details else {}) | {"code": code}


def _named(resource: str) -> Json:
    plural, _, group = resource.partition(".")
    return {"kind": plural} | ({"group": group} if group else {})


def not_found(resource: str, name: str) -> Refused:
    details = {"name": name, **_named(resource)}
    return Refused(status(404, "NotFound", f'{resource} "{name}" not found', details))


def already_exists(resource: str, name: str, *, terminating: bool) -> Refused:
    being = "object is being deleted: " if terminating else ""
    details = {"name": name, **_named(resource)}
    return Refused(status(409, "AlreadyExists", f'{being}{resource} "{name}" already exists', details))


def conflict(resource: str, name: str, why: str) -> Refused:
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return Refused(status(409, "Conflict", message, {"name": name, **_named(resource)}))


def forbidden(resource: str, name: str, why: str) -> Refused:
    details = {"name": name, **_named(resource)}
    return Refused(status(403, "Forbidden", f'{resource} "{name}" is forbidden: {why}', details))


def bad_request(message: str) -> Refused:
    return Refused(status(400, "BadRequest", message))


def invalid_object(kind: str, name: str, problems: Sequence[Problem]) -> Refused:
    """``kind`` with its group, as in Job.batch."""
    said = str(problems[0]) if len(problems) == 1 else f"[{', '.join(map(str, problems))}]"
    causes = [{"reason": it.reason, "message": it.message, "field": it.field} for it in problems]
    plain, _, group = kind.partition(".")
    details = {"name": name, "kind": plain, "causes": causes} | ({"group": group} if group else {})
    return Refused(status(422, "Invalid", f'{kind} "{name}" is invalid: {said}', details))


def expired(wanted: int, oldest: int) -> Json:
    return status(410, "Expired", f"too old resource version: {wanted} ({oldest})")
