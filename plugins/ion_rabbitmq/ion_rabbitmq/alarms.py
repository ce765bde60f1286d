"""Alarms: RabbitMQ stops publishers when memory or disk run out, and says on their connections why.

aiormq logs that and tells nobody; so its handlers of the two frames are wrapped. Should they get other names, an alarm
has no reason any more, and a test says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

CURES = {
    "memory": "give the server more memory, or take what waits there",
    "disk": "free disk space on the server",
}
BLOCKED = "_Connection__handle_connection_blocked"
UNBLOCKED = "_Connection__handle_connection_unblocked"


class Alarm:
    """What a connection was told. ``clock`` counts seconds."""

    def __init__(self, connection: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reason: str | None = None
        self._since = 0.0
        self._wrap(connection, BLOCKED, lambda frame: self._raised(str(frame.reason)))
        self._wrap(connection, UNBLOCKED, lambda frame: self._over())

    def _wrap(self, connection: Any, name: str, told: Callable[[Any], None]) -> None:
        handler = getattr(connection, name, None)
        if handler is None:
            return

        async def heard(frame: Any) -> None:
            told(frame)
            await handler(frame)

        setattr(connection, name, heard)

    def _raised(self, reason: str) -> None:
        self._reason, self._since = reason, self._clock()

    def _over(self) -> None:
        self._reason = None

    def __bool__(self) -> bool:
        """Whether it is on."""
        return self._reason is not None

    def __str__(self) -> str:
        cure = next((cure for what, cure in CURES.items() if what in (self._reason or "")), "look into its log")
        seconds = self._clock() - self._since
        return (
            f"RabbitMQ has taken no messages for {seconds:.0f} s: it is {self._reason}. "
            f"Its operator should {cure} (rabbitmqctl status shows alarms); publishing goes on by itself then"
        )
