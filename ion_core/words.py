"""How numbers of things are said."""

from __future__ import annotations


def counted(count: int, what: str) -> str:
    """``1 event``, ``2 events``, ``1,000 events``; ``what`` is one of them, or those words of which the last is."""
    return f"{count:,} {what if count == 1 else plural(what)}"


def plural(what: str) -> str:
    """Of regular nouns: case, address, entry, search."""
    if what.endswith(("s", "x", "ch", "sh")):
        return what + "es"
    return what[:-1] + "ies" if what.endswith("y") and what[-2:-1] not in "aeiou" else what + "s"
