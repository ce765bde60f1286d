"""What a combination leaves, without what no two runs have alike, and in which of it two of them differ."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tests.everywhere.running import Json, Left

WHERE_AND_WHICH = ("image", "imageDigest")
"""Of a document: what it ran in, which says the runtime."""
OF_ONE_RUN = ("message", "token")
"""Of a document: ids that are made anew for each attempt, or for each message."""
SHOWN = 6


def comparable(left: Left) -> Mapping[str, Any]:
    """By a name that each has in every run: documents as lists of the same name, dead letters, files."""
    found: dict[str, Any] = {}
    tokens = _tokens(left.documents)
    for document in left.documents:
        plain = _plain(document, tokens)
        context = plain["context"]
        name = f"{context['documentType']} of {context['name']} for {context['eventId']}"
        found.setdefault(name, []).append(plain)
    for letter in left.dead_letters:
        name = f"dead letter of {letter['module']} for {letter['eventId']}"
        found.setdefault(name, []).append(_plain({**letter, "id": "ID"}, []))
    for documents in found.values():
        documents.sort(key=lambda it: json.dumps(it, sort_keys=True))
    return found | {f"file {name}": digest for name, digest in left.files.items()}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """A line for each thing in which they differ."""
    for name in sorted(one.keys() | other.keys()):
        if name not in other:
            yield f"{name}: is missing"
        elif name not in one:
            yield f"{name}: is there as well"
        elif one[name] != other[name]:
            yield f"{name}: {_what(one[name], other[name])}"


def _what(one: Any, other: Any, where: str = "") -> str:
    """The first place where they differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                return _what(one.get(key), other.get(key), f"{where}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for n, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right:
                return _what(left, right, f"{where}[{n}]")
    return f"{where.lstrip('.')} is {other!r} instead of {one!r}"


def _tokens(documents: list[Json]) -> list[str]:
    """What makes the keys of an attempt its own, and those of what came in from outside."""
    found = {document["token"] for document in documents if "token" in document}
    keys = (blob["key"] for document in documents for blob in document.get("blobs", ()))
    return sorted(found | {key.split("/")[3] for key in keys if key.split("/")[2] == "_"})


def _plain(value: Any, tokens: list[str], key: str = "") -> Any:
    if key.endswith("At") or key == "seconds":
        return "TIME" if value else value  # that there is one counts
    if key in OF_ONE_RUN or key in WHERE_AND_WHICH:
        return key
    if isinstance(value, Mapping):
        return {name: _plain(it, tokens, name) for name, it in value.items()}
    if isinstance(value, list):
        return [_plain(it, tokens) for it in value]
    if isinstance(value, str):
        for token in tokens:
            value = value.replace(token, "TOKEN")
        if key == "logs":
            return _log(value)
    return value


def _log(text: str) -> list[str]:
    """Its lines, without those of where it ran: a workspace that was kept, and what a step printed itself."""
    return [line for line in text.splitlines() if not line.startswith(("workspace kept in ", "ion-core: "))]


def in_short(found: list[str]) -> str:
    """The first of them, and how many there are of each kind."""
    kinds = Counter(re.sub(r" for \S+:", ":", line) for line in found)
    lines = [f"{count} x {line}" for line, count in kinds.most_common(SHOWN)]
    more = [f"and {len(kinds) - SHOWN} others"] if len(kinds) > SHOWN else []
    return "\n".join([*lines, *more])
