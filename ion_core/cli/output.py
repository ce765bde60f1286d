"""What is printed: results on stdout, everything else for people on stderr. Foreign text cannot steer the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterable, Iterable, Sequence
from typing import Any

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def say(text: str) -> None:
    """A line for people."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def out(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def plain(text: str) -> str:
    """``text`` in one line, with every control character escaped."""
    return _CONTROL.sub(_escaped, text)


def plain_lines(text: str) -> str:
    """``text`` with line ends and tabs as they are, and every other control character escaped."""
    return _CONTROL_IN_LINES.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def shortened(text: str, width: int) -> str:
    """``text`` in one line of at most ``width`` characters."""
    text = plain(text[: width + 1])
    return text if len(text) <= width else text[: max(width - 1, 0)] + mark("…", ".")


def encodes(text: str) -> bool:
    """Whether standard output can show ``text``."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def mark(text: str, instead: str) -> str:
    """``text`` where standard output can show it."""
    return text if encodes(text) else instead


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that this standard output can carry, compact unless indented."""
    import json

    separators = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=not encodes("é…"), separators=separators, indent=indent)
    return _CONTROL_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def out_json(value: Any, *, indent: int | None = None) -> None:
    """One JSON value and a newline."""
    out(to_json(value, indent=indent))


def out_array(values: Iterable[Any]) -> None:
    """A JSON array, one element a line."""
    array = JsonArray()
    for value in values:
        array.add(value)
    array.end()


async def out_array_of(values: AsyncIterable[Any]) -> None:
    """A JSON array, one element a line, each printed as it comes."""
    array = JsonArray()
    async for value in values:
        array.add(value)
    array.end()


class JsonArray:
    """A JSON array that is printed while it is made."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, value: Any) -> None:
        sys.stdout.write((",\n" if self._count else "[\n") + to_json(value))
        self._count += 1

    def end(self) -> None:
        sys.stdout.write("\n]\n" if self._count else "[]\n")


def out_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; the last one is not padded. Nothing for no rows."""
    if not rows:
        return
    lines = [list(headers), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(headers) - 1)]
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)]
        out("  ".join(padded).rstrip())
