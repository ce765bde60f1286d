"""How numbers are said, and how the texts of others are."""

from __future__ import annotations

import re

_CONTROL_IN_LINES = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
"""Compiled when it is first used: most processes never do."""


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


def size(count: int) -> str:
    """Of a file, in units of 1,024 bytes."""
    if count < 1024:
        return f"{count} B"
    value, unit = float(count), "B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - it is the last one that is used
        value /= 1024
        if value < 1000:
            break
    return f"{value:.1f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def plain_lines(text: str) -> str:
    """``text`` with line ends and tabs as they are, and every other control character escaped."""
    return re.sub(_CONTROL_IN_LINES, escaped, text)


def escaped(match: re.Match[str]) -> str:
    """What was found, in ASCII."""
    return match[0].encode("unicode_escape").decode("ascii")
