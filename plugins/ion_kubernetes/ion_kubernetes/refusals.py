"""What the API server's refusals mean: ``Status`` bodies as errors that callers tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ion_core.errors import PermanentError, ProviderError, TransientError

_LATER = frozenset({401, 408, 429})
"""Refusals that say nothing of what was asked: credentials may be renewed, room may come."""


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong with an object. ``field`` is its path, ``reason`` Kubernetes' word for the kind."""

    field: str
    reason: str
    message: str


class ApiUnavailable(TransientError):
    """No answer, or one that says nothing of what was asked. Whether the call was done is not known without an answer.

    ``status`` is that of HTTP, None without an answer. ``retry_after`` is how many seconds the server asks to wait
    before the next call, which the caller does; None where it says nothing.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ApiRefused(PermanentError):
    """The API server answered, and said no. Nothing was changed.

    ``status`` is that of HTTP; ``reason`` (AlreadyExists, …), ``message`` and ``details`` are those of its
    ``Status`` body, empty where there was none.
    """

    def __init__(self, where: str, status: int, reason: str, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(f"{where}: {message or reason or f'HTTP status {status}'}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details

    @property
    def causes(self) -> Sequence[Cause]:
        """What is wrong with the object, of a 422."""
        found = self.details.get("causes") or ()
        return tuple(Cause(it.get("field", ""), it.get("reason", ""), it.get("message", "")) for it in found)

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def already_exists(self) -> bool:
        """An object of that name is there; also while it is being deleted."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def being_deleted(self) -> bool:
        """The name is taken by an object that goes: the same call succeeds once it is gone."""
        return self.already_exists and self.message.startswith("object is being deleted")

    @property
    def conflict(self) -> bool:
        """It is not the object, or not the version of it, that was meant."""
        return self.status == 409 and self.reason == "Conflict"

    @property
    def over_quota(self) -> bool:
        """There is no room now. Only the text tells this from a policy, both are 403."""
        return self.status == 403 and "exceeded quota:" in self.message

    @property
    def forbidden(self) -> bool:
        """Not allowed, by rights, policy or limits that are missing: waiting does not help."""
        return self.status == 403 and not self.over_quota

    @property
    def invalid(self) -> bool:
        """What was sent cannot be, or a ``test`` of a JSON patch did not hold."""
        return self.status in (400, 422)

    @property
    def expired(self) -> bool:
        """The resource version is too old: list again."""
        return self.status == 410


def refusal(where: str, status: int, body: Any, retry_after: str | None = None) -> ProviderError:
    """What an answer of 400 and above means. ``body`` as decoded, ``retry_after`` the header of that name."""
    told: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    said = str(told.get("message") or "") or (body.strip() if isinstance(body, str) else "")
    reason = str(told.get("reason") or "")
    if status == 401:
        said = f"{said or reason}. Who is sent is not known there: look at the credentials"
    if status >= 500 or status in _LATER:
        message = f"{where}: {said or reason or 'no reason given'} (HTTP status {status})."
        return ApiUnavailable(message, status=status, retry_after=_seconds(retry_after))
    details = told.get("details")
    return ApiRefused(where, status, reason, said, details if isinstance(details, Mapping) else {})


def _seconds(text: str | None) -> float | None:
    """Kubernetes gives whole seconds; a date, which others may give, is passed over."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
