"""Whether this process is ready, and the gate that stops it from taking work it could not keep."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ion_core.errors import storage_error

log = logging.getLogger(__name__)

PROBE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Red:
    """A part that has a problem, and since when it has had one without a pause."""

    part: str
    problem: str
    since: datetime


class Health:
    """Named problems, set and cleared by whoever sees them; and ``room``, set while there is space to work in.

    ``probe`` tries whether there is, and raises OSError if not.
    """

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._problems: dict[str, Red] = {}
        self.others: Callable[[], Iterable[Red]] = tuple
        """What others know of, such as workers: told along with ours. May be called from any thread."""
        self.room = asyncio.Event()
        self.room.set()
        self.full = asyncio.Event()

    def red(self, part: str, problem: str) -> None:
        """``part`` has this problem. Logged when it is new."""
        before = self._problems.get(part)
        if before is None or before.problem != problem:
            log.warning("not ready: %s: %s", part, problem)
        since = datetime.now(UTC) if before is None else before.since
        self._problems[part] = Red(part=part, problem=problem, since=since)

    def green(self, part: str) -> None:
        """``part`` is well again."""
        if self._problems.pop(part, None) is not None:
            log.info("ready again: %s", part)

    def problems(self) -> Sequence[str]:
        return [f"{red.part}: {red.problem}" for red in self.reds()]

    def reds(self) -> Sequence[Red]:
        """The problems by part. May be called from any thread."""
        found: dict[str, Red] = {}
        for red in [*self._problems.copy().values(), *self.others()]:
            found.setdefault(red.part, red)
        return sorted(found.values(), key=lambda red: red.part)

    def storage_full(self, problem: str) -> None:
        """Take no more deliveries until there is space again."""
        self.red("storage", problem)
        self.room.clear()
        self.full.set()

    async def look_for_space(self, directory: Path) -> None:
        """Raises StorageFull when there is none now. Writes only where hardly any is left in ``directory``."""
        found = await asyncio.to_thread(os.statvfs, directory)
        if found.f_bavail * found.f_frsize < PROBE_BYTES or (found.f_files and not found.f_favail):
            await self.check_space()

    async def check_space(self) -> None:
        """Raises StorageFull when there is no space now."""
        try:
            await asyncio.to_thread(self._probe)
        except OSError as error:
            raise storage_error("state directory", error) from error

    async def watch_space(self, *, every: float) -> None:
        """For ever: when storage was found full, look every ``every`` seconds whether it still is."""
        while True:
            await self.full.wait()
            await asyncio.sleep(every)
            try:
                await asyncio.to_thread(self._probe)
            except OSError as error:
                self.red("storage", f"no space left ({error.strerror}). Free some; work goes on by itself then.")
                continue
            self.full.clear()
            self.green("storage")
            self.room.set()


def write_probe(directory: Path) -> None:
    """Write, flush and remove 1 MiB in ``directory``. Raises OSError when it does not fit."""
    probe = directory / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with probe.open("xb") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)
