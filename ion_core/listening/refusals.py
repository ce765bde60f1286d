"""Requests that are answered with an error, whatever speaks HTTP: problems as RFC 9457 has them."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
RETRY_AFTER = "5"
"""Seconds after which a client is asked to come again."""

LONGEST_TYPE = 128
"""Characters of an event type that are compared with those that are taken."""


class Refused(Exception):
    """A request that is answered with an error.

    ``detail`` says what would do, ``problems`` each mistake with its path. ``error`` names the class of
    ``ion_core.errors`` that it is to whoever asks from Python, where the status does not tell.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        problems: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        error: str = "",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = problems
        self.headers = dict(headers or {})
        self.error = error

    @property
    def body(self) -> dict[str, Any]:
        """What is answered, as JSON."""
        found: dict[str, Any] = {"title": self.status.phrase, "status": int(self.status), "detail": self.detail}
        if self.problems:
            found["problems"] = [*self.problems]
        if self.error:
            found["error"] = self.error
        return found

    @property
    def closes(self) -> bool:
        """Whether the connection is to be closed, which the header alone does not do."""
        return self.headers.get("Connection") == "close"


def later(status: HTTPStatus, detail: str, *, close: bool = False, error: str = "") -> Refused:
    """For what may be had later; ``close``: on another connection."""
    closing = {"Connection": "close"} if close else {}
    return Refused(status, detail, headers={"Retry-After": RETRY_AFTER, **closing}, error=error)


def no_room(error: OSError) -> Refused:
    """Where a file cannot be written on its way in; the log says which and why."""
    log.error("a file on its way in cannot be written: %s", error)
    return later(HTTPStatus.SERVICE_UNAVAILABLE, "There is no room for files at this moment.", error="StorageFull")


def of_nobody(event_type: str, types: Sequence[str]) -> Refused:
    """For an event of a type that no module takes; ``types`` are those that are taken."""
    near = difflib.get_close_matches(event_type[:LONGEST_TYPE], types, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return Refused(
        HTTPStatus.NOT_FOUND, f"No module takes events of type {event_type[:80]!r}.{hint}", error="Unroutable"
    )
