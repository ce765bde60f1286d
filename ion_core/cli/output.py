"""What is printed: results on stdout, everything else for people on stderr. Foreign text cannot steer the terminal."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from bisect import bisect_left
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TextIO

from ion_core.words import escaped

# Patterns are compiled when they are first used: most processes use few of them.
_CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
_CONTROL_IN_JSON = "[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"


LEAST = 16
"""Characters of the last column of a table that are shown, however narrow the terminal."""

SHORT = 8
"""Characters of a UUID that are shown of it, at least."""
LONG, HEAD, TAIL = 28, 7, 20
"""Characters of any other id that is shown as it is; of a longer one its first, at least, and its last so many are.

The end of what is named after a time is that time.
"""

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))

_hide: Callable[[str], str] = str


def hide_with(hide: Callable[[str], str]) -> None:
    """Let everything that is printed for people from now on go through ``hide``."""
    global _hide
    _hide = hide


def hidden(text: str) -> str:
    """``text`` without what must not be shown."""
    return _hide(text)


def hidden_in(value: Any) -> Any:
    """A JSON value without what must not be shown. Events and documents, which are what was asked for, need no such."""
    if isinstance(value, str):
        return _hide(value)
    if isinstance(value, dict):
        return {key: hidden_in(below) for key, below in value.items()}
    return [hidden_in(below) for below in value] if isinstance(value, list | tuple) else value


_ours: TextIO | None = None
"""Standard output, while a command runs; None where there is none."""


def results() -> TextIO:
    """Standard output, where results go and nothing else does."""
    return sys.stdout if _ours is None else _ours


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """While a command runs: within, standard output can be kept for its results."""
    global _ours
    before, _ours = _ours, sys.stdout
    try:
        yield
    finally:
        give_back()
        _ours = before


def keep_for_results() -> None:
    """From now on what plugins and libraries print goes to standard error: they may do so any time, on any thread."""
    if _ours is not None:
        sys.stdout = sys.stderr


def give_back() -> None:
    """Everybody may print to standard output again, as the command of a plugin does."""
    if _ours is not None:
        sys.stdout = _ours


@contextlib.contextmanager
def led_to_stderr() -> Iterator[None]:
    """Meanwhile what goes past ``sys.stdout``, as programs that are started do, goes to standard error as well.

    Where standard output is no file of its own, as under a test, there is nothing to lead anywhere.
    """
    stdout = results()
    try:
        number, target = stdout.fileno(), sys.stderr.fileno()
        stdout.flush()
        kept = os.dup(number)
    except (OSError, ValueError, AttributeError):
        yield
        return
    try:
        os.dup2(target, number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


RED, YELLOW = "31", "33"
"""Of what was given up, and of what failed and is to be tried again."""


def coloured(text: str, colour: str | None, stream: TextIO | None = None) -> str:
    """``text`` in that colour where ``stream`` (standard output) is a terminal that may have some: see NO_COLOR."""
    shown_on = results() if stream is None else stream
    if colour is None or not shown_on.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def say(text: str) -> None:
    """A line for people, behind the results there are so far where both go to the same place."""
    results().flush()
    sys.stderr.write(_hide(text) + "\n")
    sys.stderr.flush()


def out(text: str, *, whole: bool = False) -> None:
    """A line of the result. ``whole``: it is the place where what was asked for is to be found."""
    results().write((text if whole else _hide(text)) + "\n")


def plain(text: str) -> str:
    """``text`` in one line, with every control character escaped."""
    return re.sub(_CONTROL, escaped, text)


def shortened(text: str, width: int) -> str:
    """``text`` in one line of at most ``width`` characters."""
    text = plain(text[: width + 1])
    return text if len(text) <= width else text[: max(width - 1, 0)] + mark("…", ".")


def short_id(id: str) -> str:
    """Enough of an id to tell it from most others: every command takes it, see ``cli.ids``.

    Of one that is no UUID the end matters more: ids of one maker begin alike. What is too long is cut in its middle.
    """
    return short_ids([id])[id]


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """What each of them is shown as: short, and unlike that of all others, also as what is given to a command."""
    known = sorted(set(ids))
    alike: dict[str, list[str]] = {}
    for id in known:
        alike.setdefault(id[-TAIL:], []).append(id)
    shown = {}
    for n, id in enumerate(known):
        if re.fullmatch(_UUID, id, re.IGNORECASE):
            shown[id] = id[: max(SHORT, _told_apart(known, n))]
            continue
        others = alike[id[-TAIL:]]
        head = max(HEAD, _told_apart(others, bisect_left(others, id)))
        is_cut = len(id) > LONG and head + TAIL < len(id)
        shown[id] = plain(id[:head]) + mark("…", "...") + plain(id[-TAIL:]) if is_cut else plain(id)
    return shown


def _told_apart(ids: Sequence[str], n: int) -> int:
    """How many characters of the one at ``n`` no other begins with; they are sorted."""
    beside = (ids[it] for it in (n - 1, n + 1) if 0 <= it < len(ids))
    return max((_alike(ids[n], it) + 1 for it in beside), default=0)


def _alike(one: str, other: str) -> int:
    """How many characters they begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (mine, its) in pairs if mine != its), min(len(one), len(other)))


def shown_ids(ids: Iterable[str], *, whole: bool = False) -> dict[str, str]:
    """Ids in a table: short on a terminal, where people read them; whole where it is piped, or ``whole`` is wanted."""
    return short_ids(ids) if results().isatty() and not whole else {id: plain(id) for id in ids}


def ago(then: datetime, now: datetime) -> str:
    """How long it was until ``now``, in the largest unit that says anything."""
    seconds = max((now - then).total_seconds(), 0.0)
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def encodes(text: str) -> bool:
    """Whether standard output can show ``text``."""
    try:
        text.encode(results().encoding or "ascii")
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
    return re.sub(_CONTROL_IN_JSON, lambda match: f"\\u{ord(match[0]):04x}", text)


def out_json(value: Any, *, indent: int | None = None) -> None:
    """One JSON value and a newline. It is for programs, and as it is: see ``hidden_in``."""
    out(to_json(value, indent=indent), whole=True)


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
        results().write((",\n" if self._count else "[\n") + to_json(value))
        self._count += 1

    def end(self) -> None:
        results().write("\n]\n" if self._count else "[]\n")


def cut(text: str, width: int | None) -> str:
    """``text`` in one line, of at most ``width`` characters if there is a width."""
    return plain(text) if width is None else shortened(text, width)


def out_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    fit: bool = False,
    cuttable: Sequence[str] = (),
    spare: Sequence[str] = (),
    colours: Sequence[str | None] = (),
) -> None:
    """Columns as wide as they need to be; the last one is not padded. Nothing for no rows.

    ``fit``: on a terminal what does not fit its width is cut off the last column, and if that leaves it no room, off
    the widest of those that are ``cuttable``, by their headers. Where that is not enough those that are ``spare`` are
    left out, one after the other. ``colours`` are those of the rows.
    """
    if not rows:
        return
    of_lines = [None, *colours, *[None] * (len(rows) - len(colours))]
    lines = [list(headers), *([plain(cell) for cell in row] for row in rows)]
    widths = _widths(lines)
    room = None
    if fit and results().isatty():
        import shutil  # and so four ways to pack files

        columns = shutil.get_terminal_size().columns
        for header in spare:
            if _least(headers, lines, cuttable) <= columns:
                break
            n = list(headers).index(header)
            headers = [*headers[:n], *headers[n + 1 :]]
            lines = [[*line[:n], *line[n + 1 :]] for line in lines]
        widths = _widths(lines)
        last = min(max(len(line[-1]) for line in lines), LEAST)
        _narrow(widths, [n for n in range(len(widths)) if headers[n] in cuttable], columns - last - 2 * len(widths))
        room = max(columns - sum(widths) - 2 * len(widths), last)
    for line, colour in zip(lines, of_lines, strict=True):
        padded = [shortened(cell, width).ljust(width) for cell, width in zip(line[:-1], widths, strict=True)]
        out(coloured("  ".join([*padded, cut(line[-1], room)]).rstrip(), colour))


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Of all columns but the last."""
    return [max(len(line[n]) for line in lines) for n in range(len(lines[0]) - 1)]


def _least(headers: Sequence[str], lines: Sequence[Sequence[str]], cuttable: Sequence[str]) -> int:
    """How wide the table is once all is cut that may be."""
    widths = [
        min(width, LEAST // 2) if header in cuttable else width
        for header, width in zip(headers, _widths(lines), strict=False)
    ]
    return sum(widths) + 2 * len(widths) + min(max(len(line[-1]) for line in lines), LEAST)


def _narrow(widths: list[int], cuttable: Sequence[int], room: int) -> None:
    """Take from the widest of the ``cuttable`` columns until all fit into ``room``, or nothing is left of them."""
    while sum(widths) > room and cuttable:
        widest = max(cuttable, key=widths.__getitem__)
        if widths[widest] <= LEAST // 2:
            return
        widths[widest] -= 1
