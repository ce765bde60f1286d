"""Watches of the fake API server: one event is one line, told in the order of the versions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from plugins.ion_kubernetes.tests.fake.faults import OpenWatch, Order
from plugins.ion_kubernetes.tests.fake.selectors import Matches, selecting
from plugins.ion_kubernetes.tests.fake.statuses import Refused, expired, status
from plugins.ion_kubernetes.tests.fake.store import Change, Store

Json = dict[str, Any]


async def watch(
    request: web.Request, store: Store, watches: list[OpenWatch], resource: str, namespace: str | None
) -> web.StreamResponse:
    """From ``resourceVersion`` on until ``timeoutSeconds`` are over, the client has gone or a test orders its end."""
    query = dict(request.query)
    matches = selecting(query.get("labelSelector", ""), query.get("fieldSelector", ""))
    try:
        start = int(query.get("resourceVersion") or 0)
    except ValueError:
        # What a real one answers too.
        raise Refused(
            status(500, "InternalError", f"strconv.ParseUint: parsing {query['resourceVersion']!r}")
        ) from None
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    it = OpenWatch(resource, start or store.version, query)
    watches.append(it)
    store.tell()
    try:
        async with asyncio.timeout(float(query.get("timeoutSeconds") or 1800)):
            if start == 0:
                for object in store.listed(resource, namespace):
                    if matches(object):
                        await _tell(response, "ADDED", object)
            await _follow(request, response, store, it, namespace, matches)
    except (TimeoutError, ConnectionError):
        pass  # the time that was asked for is over, or the client has gone
    finally:
        watches.remove(it)
    return response


async def _follow(
    request: web.Request,
    response: web.StreamResponse,
    store: Store,
    it: OpenWatch,
    namespace: str | None,
    matches: Matches,
) -> None:
    while True:
        if it.version < store.oldest or Order.EXPIRE in it.orders:
            await _tell(response, "ERROR", expired(it.version, store.oldest))
            return
        if not it.silent:
            for change in _new(store.changes, it.version):
                it.version = change.version
                if change.resource == it.resource and namespace in (
                    None,
                    change.object["metadata"].get("namespace", ""),
                ):
                    for kind in _kinds(change, matches):
                        await _tell(response, kind, change.object)
        while it.orders:
            order = it.orders.pop(0)
            if order is Order.BOOKMARK and it.query.get("allowWatchBookmarks") in ("1", "true"):
                it.version = max(it.version, store.version)
                await _tell(response, "BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(it.version)}})
            elif order is Order.END:
                return
            elif order is Order.CUT:
                if request.transport is not None and not request.transport.is_closing():
                    await response.write(b'{"type":"MODIFIED","object":{"kind":"Pod","metada')
                    request.transport.close()
                return
        if it.silent or (not it.orders and store.version <= it.version):
            await store.change()


def _new(changes: Sequence[Change], version: int) -> Iterator[Change]:
    """Those after the version; versions grow by one at least, so that most are passed over at once."""
    first = len(changes)
    while first and changes[first - 1].version > version:
        first -= 1
    yield from list(changes[first:])


def _kinds(change: Change, matches: Matches) -> Iterator[str]:
    """To who selects, an object comes and goes as it begins and ceases to match."""
    did = change.before is not None and matches(change.before)
    does = matches(change.object) and change.kind != "DELETED"
    if does:
        yield "MODIFIED" if did else "ADDED"
    elif did:
        yield "DELETED"


async def _tell(response: web.StreamResponse, kind: str, object: Json) -> None:
    await response.write(json.dumps({"type": kind, "object": object}).encode() + b"\n")
