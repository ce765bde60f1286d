"""What came from outside of the file and must not be shown, wherever it turns up in a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from urllib.parse import quote, unquote, urlsplit

MASK = "********"

SHORTEST = 4
"""Characters from which a value is looked for: what is shorter is in every other text."""
_ANYWHERE = 8
"""Characters from which it is looked for inside of longer words too."""
_WORDS = frozenset({"true", "false", "null", "none"})


class Hidden:
    """Every value that ``${env:…}``, ``${file:…}`` and ``ION_…`` variables brought into one configuration."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = frozenset(values)
        forms = {form for value in self._values for form in _forms(value) if is_looked_for(form)}
        # Longer ones first: one may be the beginning of another.
        patterns = [_pattern(form) for form in sorted(forms, key=lambda form: (-len(form), form))]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __repr__(self) -> str:
        return "Hidden()"

    def with_those_of(self, other: Hidden) -> Hidden:
        """What either of two hides."""
        return Hidden(self._values | other._values)

    def masked(self, text: str) -> str:
        """``text`` with ``********`` wherever one of the values is in it, as it is or as URLs and JSON write it."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)


def is_looked_for(form: str) -> bool:
    """Whether it can be told from other texts: what is short, or a word of every file, cannot."""
    return len(form) >= SHORTEST and form.lower() not in _WORDS


def _pattern(form: str) -> str:
    pattern = re.escape(form)
    return pattern if len(form) >= _ANYWHERE else rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"


def _forms(value: str) -> Iterator[str]:
    """How it may be found: whole, in part where it consists of parts, and as others write it."""
    for part in (value, *_parts(value)):
        yield from (part, quote(part, errors="replace"), quote(part, safe="", errors="replace"), repr(part)[1:-1])
        yield from (json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1])


def _parts(value: str) -> Iterator[str]:
    lines = [line.strip() for line in value.splitlines()]
    yield from lines if lines != [value] else ()
    if "/" in value:
        yield str(PurePath(value))
    try:
        password = urlsplit(value).password if "://" in value else None
    except ValueError:
        return
    if password:
        yield from (password, unquote(password))
