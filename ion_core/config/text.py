"""Durations and sizes as one writes them: what ``contracts.settings`` parses, the other way round."""

from __future__ import annotations

from datetime import timedelta

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def duration_text(value: timedelta) -> str:
    """``1h30m``; what is below a millisecond is rounded."""
    left = round(value / timedelta(milliseconds=1))
    parts = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def size_text(value: int) -> str:
    """``512MiB`` where that is exact, bytes otherwise."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if value and value % 1024**power == 0:
            return f"{value // 1024**power}{unit}"
    return str(value)
