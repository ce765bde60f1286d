"""JSON as pairs: an event has texts under texts, and JSON has more than that."""

from __future__ import annotations

import json
from typing import Any

from ion_core import strict_json
from ion_core.errors import InvalidEvent
from ion_core.events import parse_pairs
from ion_core.words import counted


def read_json(raw: bytes, *, limit: int, max_pairs: int) -> list[tuple[str, str]]:
    """The pairs in a body: ``[{"key": …, "value": …}, …]`` as they are, an object flattened. Empty is none.

    Raises InvalidEvent with each mistake and its path.
    """
    if not raw:
        return []
    return pairs_of(strict_json.loads(raw, what="body", limit=limit), max_pairs=max_pairs)


def pairs_of(value: Any, *, max_pairs: int) -> list[tuple[str, str]]:
    """The same of what has been read."""
    if isinstance(value, list):
        problems: list[str] = []
        pairs = list(parse_pairs(value, what="body", problems=problems))
        if problems:
            raise InvalidEvent(problems)
    elif isinstance(value, dict):
        pairs = flattened(value)
    else:
        raise InvalidEvent('body: must be an object, or an array of {"key": "…", "value": "…"}')
    if len(pairs) > max_pairs:
        raise InvalidEvent(
            f"body: has {counted(len(pairs), 'pair')}, {max_pairs:,} are allowed. Pass large data as files."
        )
    return pairs


def flattened(value: dict[str, Any]) -> list[tuple[str, str]]:
    """``{"a": {"b": [1, "x"]}}`` is ``a.b.0`` = ``1`` and ``a.b.1`` = ``x``.

    Text is as it is; any other value, and an object or array with nothing in it, is as JSON writes it. Raises
    InvalidEvent where two of them come out under one key.
    """
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        _flatten(item, key, pairs)
    seen: set[str] = set()
    twice = [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    if twice:
        raise InvalidEvent(
            [f"body: two values come out as the key {key[:80]!r}. Rename one of them." for key in dict.fromkeys(twice)]
        )
    return pairs


def _flatten(value: Any, path: str, pairs: list[tuple[str, str]]) -> None:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _flatten(item, f"{path}.{key}", pairs)
    elif isinstance(value, list) and value:
        for n, item in enumerate(value):
            _flatten(item, f"{path}.{n}", pairs)
    else:
        pairs.append((path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
