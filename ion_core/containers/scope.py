"""What a container's control group counts, looked at whenever that changes: systemd removes it with its last process.

The kernel tells of a change of ``memory.events`` and ``pids.events`` (control groups of version 2) as of urgent data,
before it kills; so a file of which it never told anything has counted nothing, even if it cannot be read any more.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ion_core.containers.limits import ControlGroup, Hits

MEMORY = "oom_kill"
LIMIT = "oom"
"""Counted before the kill, where the limit of the group or of one in it was met. A machine that runs out of memory
kills without it, and that is counted as ``oom_kill`` as well."""
PIDS = "max"


class Counter:
    """One line of one file of events. ``told``: the kernel tells of its changes, so that silence is none.

    ``cause`` is a line of the same file without which what is counted has other reasons than the group's.
    """

    def __init__(self, path: Path, key: str, cause: str = "") -> None:
        self.path = path
        self._key, self._cause = key.encode(), cause.encode()
        self._highest = 0
        self._others = 0
        self._is_quiet = True
        self.told = False
        self.file: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def look(self) -> bool:
        """Whether it could be read. That also makes the kernel tell of the next change."""
        try:
            text = os.pread(self.file, 1 << 12, 0) if self.file is not None else b""
        except OSError:  # it was removed
            text = b""
        lines = dict(line.split(b" ", 1) for line in text.splitlines())
        if self._key not in lines:
            self.close()
            return False
        count = int(lines[self._key])
        if self._cause in lines and not int(lines[self._cause]):
            self._others = count
        else:
            self._highest = max(self._highest, count)
        return True

    def changed(self) -> None:
        """The kernel told of a change."""
        self._is_quiet = False
        self.look()

    def count(self) -> int | None:
        """As far as that can be known; None if what happened last was not to be seen."""
        if self.look() or self._highest or self._others or (self.told and self._is_quiet):
            return self._highest
        return None

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None


class Scope:
    """The control group of a container, watched from ``watch`` to ``close``."""

    def __init__(self, group: ControlGroup) -> None:
        self._group = group
        self._memory: Sequence[Counter] = ()
        self._pids: Sequence[Counter] = ()
        self._epoll: select.epoll | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self) -> None:
        """Needs a running event loop. Nothing where there is no such control group."""
        self._memory = [*_counters(self._group.event_files("memory"), MEMORY, LIMIT)]
        self._pids = [*_counters(self._group.event_files("pids"), PIDS)]
        counters = [*self._memory, *self._pids]
        if not counters:
            return
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        for counter in counters:
            assert counter.file is not None
            with suppress(OSError):  # some file systems tell of nothing
                self._epoll.register(counter.file, select.EPOLLPRI)
                counter.told = True
        self._loop.add_reader(self._epoll.fileno(), self.look)

    def look(self) -> None:
        """At what the kernel has told of."""
        if self._epoll is None:
            return
        changed = {file for file, _ in self._epoll.poll(0)}
        for counter in (*self._memory, *self._pids):
            if counter.file in changed:
                counter.changed()  # a file that is gone is closed by that, which ends its watch

    def hits(self) -> Hits:
        """What was counted up to now."""
        self.look()
        counted = self._group.hits()
        return Hits(
            memory=_highest(self._memory) if self._memory else counted.memory,
            pids=_highest(self._pids) if self._pids else counted.pids,
        )

    def close(self) -> None:
        """Idempotent."""
        if self._epoll is not None and self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        for counter in (*self._memory, *self._pids):
            counter.close()


def _counters(files: Sequence[Path], key: str, cause: str = "") -> Sequence[Counter]:
    found = []
    for file in files:
        with suppress(OSError):
            found.append(Counter(file, key, cause))
    return found


def _highest(counters: Sequence[Counter]) -> int | None:
    """A hit is counted in some of them; none was if all say so."""
    counts = [counter.count() for counter in counters]
    known = [count for count in counts if count is not None]
    if any(known) or (known and len(known) == len(counts)):
        return max(known)
    return None
