"""JSON as others send it, read strictly: what ``json`` lets through (NaN, duplicate keys) is refused."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from itertools import accumulate
from typing import Any, NoReturn

from ion_core.errors import InvalidEvent
from ion_core.words import counted

MOST_LEVELS = 64
"""How deep arrays and objects may be nested. The interpreter's own limit is another one in each version of Python."""

_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
_NO_BRACKETS = re.compile("[^][{}]+")


class _TooDeep(ValueError):
    pass


def _check_depth(text: str) -> None:
    """Raises _TooDeep. Before parsing, which in a text that ends early may be stopped by the one or by the other."""
    if text.count("[") + text.count("{") <= MOST_LEVELS:
        return
    if "\\" in text:  # so that every quotation mark begins or ends a string
        text = text.replace("\\\\", "").replace('\\"', "")
    outside = "".join(text.split('"')[::2]).replace(",", "").replace(":", "")
    brackets = _NO_BRACKETS.sub("", outside)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MOST_LEVELS:
        raise _TooDeep(f"nested too deeply, {MOST_LEVELS} levels are allowed")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {text[:80]} is too large")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} appears twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def loads(raw: bytes, *, what: str, limit: int) -> Any:
    """The value in ``raw``, which must be UTF-8 without a byte order mark and at most ``limit`` bytes.

    Raises InvalidEvent whose message starts with ``what`` and names position or limit.
    """
    if len(raw) > limit:
        raise InvalidEvent(
            f"{what}: is {counted(len(raw), 'byte')} long, the limit is {limit:,}. Pass large data as files."
        )
    if not raw.strip():
        raise InvalidEvent(f"{what}: is empty, not JSON")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"{what}: is not UTF-8 (byte {error.start}). Write it as UTF-8.") from None
    if text.startswith("\ufeff"):
        raise InvalidEvent(f"{what}: starts with a byte order mark. Write it as UTF-8 without one.")
    try:
        _check_depth(text)
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise InvalidEvent(f"{what}:{error.lineno}:{error.colno}: is not JSON: {error.msg}") from None
    except UnicodeEncodeError:
        raise InvalidEvent(
            f"{what}: has half of a surrogate pair in a string (an unpaired \\ud800 to \\udfff)"
        ) from None
    except _TooDeep as error:
        raise InvalidEvent(f"{what}: is {error}. A few are enough for anything here.") from None
    except ValueError as error:
        if "integer string conversion" in str(error):  # Python's own words, which tell its user to set it otherwise
            most = sys.get_int_max_str_digits()
            raise InvalidEvent(f"{what}: has a number of more than {most:,} digits. Write it as text.") from None
        raise InvalidEvent(f"{what}: is not JSON: {error}") from None
    return value


def loads_any(raw: str | bytes) -> Any:
    """JSON as ``json`` has it, NaN and duplicate keys included: for files of others that are only compared.

    Raises ValueError for what is none, and for what is nested in more than MOST_LEVELS.
    """
    text = raw if isinstance(raw, str) else raw.decode(json.detect_encoding(raw), "surrogatepass")
    _check_depth(text)
    return json.loads(text)


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8, one form for one value: what is compared and stored."""
    return _ENCODER.encode(value).encode("utf-8")
