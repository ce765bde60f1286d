"""Which part of a file is asked for, if any, as RFC 9110 has it: conditions by the file's hash, one range of bytes."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from ion_core.listening.refusals import Refused
from ion_core.words import counted

if TYPE_CHECKING:
    from aiohttp import web

_ANY = "*"
_RANGE = re.compile(r"bytes=(?=.*[0-9])([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


def is_known(request: web.BaseRequest, tag: str) -> bool:
    """Whether the client has it already, by ``If-None-Match``. Raises Refused (412) where it wants another."""
    if request.if_match is not None and not any(
        it.value == _ANY or (it.value == tag and not it.is_weak) for it in request.if_match
    ):
        raise Refused(HTTPStatus.PRECONDITION_FAILED, "The file is not the one that If-Match names.")
    return any(it.value in (_ANY, tag) for it in request.if_none_match or ())


def part_of(request: web.BaseRequest, size: int, tag: str) -> range | None:
    """The bytes that are asked for; None for all of them. Raises Refused (416) where there are none of these.

    What is no range of bytes, or several of them, is as if it were not there, and so is one that was meant for another
    file (``If-Range``).
    """
    given = request.headers.getall("Range", [])
    if request.method != "GET" or len(given) != 1 or request.headers.get("If-Range", f'"{tag}"') != f'"{tag}"':
        return None
    if (asked := _RANGE.fullmatch(given[0])) is None:
        return None
    first, last = asked.groups()
    if first:
        if last and int(last) < int(first):
            return None
        found = range(int(first), min(int(last) + 1, size) if last else size)
    elif not size and int(last or 0):
        return None  # the last so many of an empty file are all there is
    else:
        found = range(max(0, size - int(last or 0)), size)
    if found:
        return found
    raise Refused(
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        f"The file has {counted(size, 'byte')}, and none of what is asked for.",
        headers={"Content-Range": f"bytes */{size}"},
    )
