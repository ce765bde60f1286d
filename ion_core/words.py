"""How numbers are said."""

from __future__ import annotations


def counted(count: int, what: str) -> str:
    """``1 event``, ``2 events``, ``1,000 events``; ``what`` is one of them, or those words of which the last is."""
    return f"{count:,} {what if count == 1 else plural(what)}"


def plural(what: str) -> str:
    """Of regular nouns: case, address, entry, search."""
    if what.endswith(("s", "x", "ch", "sh")):
        return what + "es"
    return what[:-1] + "ies" if what.endswith("y") and what[-2:-1] not in "aeiou" else what + "s"


def in_seconds(value: float) -> str:
    """A time in seconds, without the unit, with three digits: ``0.016``, ``1.25``, ``1,204``."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"
