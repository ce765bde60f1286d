"""Processes as the system sees them: which one a number means, whether it lives, who belongs together, and their end.

A number alone names nothing: it is used again. A process is known by its number, when it started and since which boot;
those of one container by a variable in their environment.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MARK = "ION_SLOT"
_PROC = Path("/proc")
_PATIENCE = 5.0
"""Seconds to look for processes that come and go as we look."""
_MOMENT = 0.001
_LOOKS = 10
"""How often, so many seconds apart, an empty environment is looked at until it is believed."""
_FEW = 50
_DEATH = 1000
"""Milliseconds for a killed process to be gone."""
_PAGE = 4096
"""Bytes of which the kernel gives fewer only at the end of such a file."""
_MOST = 1 << 16
_KERNEL = 0x200000
"""The flag of the kernel's own threads."""


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    pid: int
    started: str
    boot: str


@cache
def boot_id() -> str:
    """Changes with every boot; '' where the system does not tell."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identify(pid: int) -> ProcessId | None:
    """Who ``pid`` is now; None if it is nobody, or dead and not yet waited for."""
    started = _started(pid)
    return None if started is None else ProcessId(pid=pid, started=started, boot=boot_id())


def is_alive(process: ProcessId) -> bool:
    return identify(process.pid) == process


def signal_group(pid: int, number: int) -> None:
    """To all of the process group that ``pid`` leads; nothing if there is none."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def marked(mark: str, since: int = 0, *, by: str = MARK, begins: bool = False) -> list[int]:
    """Processes with this mark but ourselves, in the order of their numbers; those that came after ``since``.

    ``by`` is the variable that has it; with ``begins``, every mark that begins so counts. Empty where the system does
    not show environments. Blocks.
    """
    entry = _entry(mark, by, begins)
    if since and _last_pid() < since:
        since = 0  # the numbers have started again from the bottom
    found: list[int] = []
    seen: set[int] = set()
    empty: Counter[int] = Counter()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        there = set(_pids(since))
        looking, seen = sorted(there - seen | empty.keys()), there
        is_all = True
        for pid in looking:
            environment = _environment(pid)
            if environment is None:
                is_all = False  # it has ended: perhaps it had a child since we listed them
            elif not environment and empty[pid] < _LOOKS and _is_a_program(pid):
                empty[pid] += 1  # has none, or is on its way from one program to another
                continue
            elif pid != os.getpid() and _is_in(environment, entry):
                found.append(pid)
            del empty[pid]
        if empty:
            time.sleep(_MOMENT)
        elif is_all:
            break
    return sorted(found)


def nobody_left(mark: str, pid: int) -> bool:
    """Whether a quick look at those that came after ``pid`` shows that none has this mark.

    False also where that look does not tell: then ``kill_marked`` has to.
    """
    last = _last_pid()
    if not 0 <= last - pid < _FEW:
        return False
    entry = _entry(mark, MARK, False)
    for other in range(pid + 1, last + 1):
        if os.path.exists(f"/proc/{other}"):
            environment = _environment(other)
            if environment is None or _is_in(environment, entry):
                return False
            if not environment and _is_a_program(other):
                return False
    return True


def kill_marked(mark: str, since: int = 0, *, by: str = MARK, begins: bool = False) -> None:
    """End every process with this mark, also those that left their group, and wait until they are gone. Blocks."""
    entry = _entry(mark, by, begins)
    deadline = time.monotonic() + _PATIENCE
    while found := marked(mark, since, by=by, begins=begins):
        for fd in [fd for pid in found if (fd := _kill(pid, entry)) is not None]:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(_DEATH)
            os.close(fd)
        if time.monotonic() > deadline:
            return


def signal_inside(pid: int, number: int) -> None:
    """Send a signal to what bubblewrap runs, not to bubblewrap itself and its first process: they would just die."""
    first, *inside = descendants(pid) or [0]
    for one in inside if first else ():
        with suppress(ProcessLookupError):
            os.kill(one, number)


def is_running(pid: int) -> bool:
    """Whether it has not ended; one that has ended and was not waited for counts as ended."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in ("Z", "X")


def descendants(pid: int) -> list[int]:
    """Children of ``pid``, their children and so on, parents first. Linux only."""
    children: dict[int, list[int]] = {}
    for other in _pids(0):
        if fields := _stat(other):
            children.setdefault(int(fields[1]), []).append(other)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _content(path: str) -> bytes:
    """Of a file below /proc: with half the system calls that ``open`` makes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.read(fd, _MOST)
        if len(found) < _PAGE:
            return found
        pieces = [found]
        while piece := os.read(fd, _MOST):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def _entry(mark: str, by: str, begins: bool) -> bytes:
    """What ``_is_in`` looks for."""
    return f"\0{by}={mark}".encode() + (b"" if begins else b"\0")


def _is_in(environment: bytes, entry: bytes) -> bool:
    return entry in b"\0%b\0" % environment


def _environment(pid: int) -> bytes | None:
    """As given to its program; nothing but a NUL if it is not ours to see, None if it has just ended."""
    try:
        return _content(f"/proc/{pid}/environ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return b"\0"


def _is_a_program(pid: int) -> bool:
    """Neither dead nor a thread of the kernel."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX" and not int(fields[6]) & _KERNEL


def _last_pid() -> int:
    try:
        return int(_content("/proc/loadavg").split()[-1])
    except (OSError, ValueError):
        return 0


def _pids(since: int) -> list[int]:
    """From ``since`` on. To list all takes a machine long, so few that may have come since are asked for one by one."""
    if since and 0 <= (last := _last_pid()) - since < _FEW:
        return [pid for pid in range(since, last + 1) if os.path.exists(f"/proc/{pid}")]
    try:
        return [pid for name in os.listdir(_PROC) if name.isdecimal() and (pid := int(name)) >= since]
    except OSError:
        return []


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/<pid>/stat`` from the state on: the name before them may hold anything."""
    try:
        return _content(f"/proc/{pid}/stat").rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return None


def _started(pid: int) -> str | None:
    fields = _stat(pid)
    if fields is not None or _PROC.is_dir():
        return None if fields is None or fields[0] in "ZX" else fields[19]
    found = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = found.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def _kill(pid: int, entry: bytes) -> int | None:
    """A descriptor that tells when it is gone, None if it was."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
    try:
        # Asked again now that the number cannot come to mean another.
        if _is_in(_environment(pid) or b"", entry):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            return fd
    except (ProcessLookupError, PermissionError):
        pass
    os.close(fd)
    return None
