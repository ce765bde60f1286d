"""What a process holds in memory, in MiB, from /proc."""

from __future__ import annotations

import re
from pathlib import Path


def resident(pid: int) -> float:
    """At this moment."""
    return _figure(pid, "VmRSS")


def peak(pid: int) -> float:
    """At most, since ``forget_peak``."""
    return _figure(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """It is what is resident now, and counts from here on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _figure(pid: int, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1024
