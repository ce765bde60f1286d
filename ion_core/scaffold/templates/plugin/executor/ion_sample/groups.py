"""Process groups: a program and what it has started, as long as that stays in its session."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def kill(group: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def runs(group: int) -> bool:
    """Whether a process of it does more than wait to be reaped."""
    return any(fields[0] != "Z" and fields[2] == str(group) for fields in _processes())


def began(process: int) -> str:
    """When it began, in ticks of the machine: with that its number is nobody else's. '' where it is gone."""
    try:
        return _fields(Path(f"/proc/{process}"))[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _processes() -> Iterator[list[str]]:
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield _fields(path)


def _fields(path: Path) -> list[str]:
    """Of its status, what stands behind the name: state, parent, group and so on."""
    return (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
