"""JSON patch (RFC 6902) as the API server applies it: add, remove, replace, test."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from plugins.ion_kubernetes.tests.fake.statuses import Refused, bad_request, status

Json = dict[str, Any]
_NOTHING = object()


def patched(target: Json, operations: Sequence[Json]) -> Json:
    """A changed copy. Raises Refused: 422 where a test fails or a path leads nowhere, and nothing is changed."""
    result = copy.deepcopy(target)
    for it in operations:
        _apply(result, it)
    return result


def _apply(target: Json, it: Json) -> None:
    how, path = it.get("op"), str(it.get("path", ""))
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    place: Any = target
    for part in way:
        place = _child(place, part)
    if place is _NOTHING:
        raise _failed(f"{how} operation does not apply: doc is missing path: {path}: missing value")
    if how == "test":  # what is not there is null, if there is where it would be
        found = _child(place, last)
        if (None if found is _NOTHING else found) != it.get("value"):
            raise _failed(f"testing value {path} failed: test failed")
    elif how in ("remove", "replace") and _child(place, last) is _NOTHING:
        raise _failed(f"{how} operation does not apply: doc is missing path: {path}: missing value")
    elif how == "remove":
        del place[int(last) if isinstance(place, list) else last]
    elif how in ("add", "replace"):
        _set(place, last, it["value"], insert=how == "add")
    else:
        raise bad_request(f"unsupported operation {how!r}")


def _set(place: Any, last: str, value: Any, *, insert: bool) -> None:
    if not isinstance(place, list):
        place[last] = value
    elif insert:
        place.insert(len(place) if last == "-" else int(last), value)
    else:
        place[int(last)] = value


def _child(place: Any, part: str) -> Any:
    if isinstance(place, dict):
        return place.get(part, _NOTHING)
    if isinstance(place, list) and part.isdigit() and int(part) < len(place):
        return place[int(part)]
    return _NOTHING


def _failed(why: str) -> Refused:
    return Refused(status(422, "Invalid", f"the server rejected our request due to an error in our request: {why}"))


def merged(target: Any, patch: Json) -> Json:
    """A merge patch (RFC 7396)."""
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value) if isinstance(value, dict) else value
    return result
