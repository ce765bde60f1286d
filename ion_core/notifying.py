"""What a supervisor such as systemd is told: that we are ready, that we live, that we stop (``sd_notify(3)``).

Lines go as datagrams to the unix socket that ``NOTIFY_SOCKET`` names. Without it nobody is told anything. The sign of
life comes from the event loop, so that one that stalls is noticed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

log = logging.getLogger(__name__)

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"


@dataclass(frozen=True, kw_only=True)
class Supervisor:
    """Whom to tell, at ``address``; ``watchdog`` is how long it waits for a sign of life, None where for none."""

    address: str
    watchdog: timedelta | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Supervisor | None:
        """The one that started us, as it says in the environment; None where none did, or it cannot be told."""
        path = environ.get(SOCKET, "")
        if not path:
            return None
        if path[0] not in "/@":
            log.warning("%s is no address of a unix socket: %s. Nobody is told that we are ready.", SOCKET, path[:80])
            return None
        address = "\0" + path[1:] if path[0] == "@" else path
        return cls(address=address, watchdog=_watchdog(environ))

    def tell(self, *lines: str) -> None:
        """Send these lines, each ``NAME=value``, without waiting. What cannot be sent is logged, no more."""
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.sendto("\n".join(lines).encode(), self.address)
        except OSError as error:
            log.warning("the supervisor was not told %s: %s", lines[0], error.strerror or error)

    async def keep_told(self, stop: asyncio.Event, status: Callable[[], str]) -> None:
        """Until cancelled: that we are ready, then that we live, and, once ``stop`` is set, that we stop.

        ``status`` is said along, in a line for people; again only where it has changed.
        """
        said = status()
        self.tell(READY, f"STATUS={said}")
        every = None if self.watchdog is None else self.watchdog.total_seconds() / 3
        while not stop.is_set():
            try:
                async with asyncio.timeout(every):
                    await stop.wait()
            except TimeoutError:
                now = status()
                self.tell(ALIVE, *([f"STATUS={now}"] if now != said else []))
                said = now
        self.tell(STOPPING, "STATUS=draining")
        while every is not None:  # a drain may take long
            await asyncio.sleep(every)
            self.tell(ALIVE)


def _watchdog(environ: Mapping[str, str]) -> timedelta | None:
    """How long we may be silent; None where nobody listens for us."""
    pid, microseconds = environ.get(WATCHDOG_PID, ""), environ.get(WATCHDOG, "")
    if pid and pid != str(os.getpid()):
        return None
    if not microseconds.isdecimal() or len(microseconds) > 18 or not int(microseconds):
        return None
    return timedelta(microseconds=int(microseconds))
