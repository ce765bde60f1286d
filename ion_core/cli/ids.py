"""Ids as people give them: whole, the beginning of the one that is meant, or as it was shown: cut in its middle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ion_core.cli.output import plain
from ion_core.errors import DocumentNotFound, UsageError
from ion_core.events import EVENT_META, MODULE_LOGS, parse_context
from ion_core.jobs import log_id

if TYPE_CHECKING:
    from ion_core.contracts.storage import DocumentStore
    from ion_core.modules import Module

SHORTEST = 4
"""Characters that the beginning of an id must have to stand for it."""
NAMED = 5
"""Of ids that are meant by one beginning, so many are named."""


async def whole_id(documents: DocumentStore, id: str, modules: Iterable[Module]) -> tuple[str, str | None]:
    """The whole id of an event, and its correlation id: None for one that left logs but no document of its own.

    Logs of ``modules``, under their former names too, come before the beginning of another id; all that others left
    are looked through only where no id begins so. Raises DocumentNotFound, UsageError where several begin so.
    """
    events = await _events(documents, id)
    if id in events:
        return id, events[id]
    for name in (name for module in modules for name in (module.name, *module.formerly)):
        async for log in documents.find(MODULE_LOGS, id_begins=log_id(name, id, ""), limit=1):
            if parse_context(log.body, what="log", problems=[]).event_id == id:
                return id, None
    if (whole := the_one(events, id, what="events")) is not None:
        return whole, events[whole]
    async for log in documents.find(MODULE_LOGS):
        if parse_context(log.body, what="log", problems=[]).event_id == id:
            return id, None
    await check_is_no_flow(documents, id)
    raise DocumentNotFound(f"no event {id!r}.{too_short(id)} `ion-core trace flow` shows the events of a flow.")


async def check_is_no_flow(documents: DocumentStore, id: str) -> None:
    """Raises DocumentNotFound that says how to see the events where, for want of one, it is the id of a flow."""
    flows = [id] if await _is_flow(documents, id) else [*await _flows(documents, id)]
    if len(flows) == 1:
        raise DocumentNotFound(
            f"{plain(flows[0])!r} is the id of a flow. Its events: ion-core trace flow {plain(flows[0])}"
        )


async def whole_flow(documents: DocumentStore, id: str) -> str:
    """The whole correlation id. Raises DocumentNotFound, UsageError where several begin so."""
    if await _is_flow(documents, id):
        return id
    events, flows = await _events(documents, id), await _flows(documents, id)
    if id not in events and (whole := the_one(flows, id, what="flows")) is not None:
        return whole
    if (event := the_one(events, id, what="events")) is not None:
        whose = f"Its flow: ion-core trace flow {plain(events[event])}"
        raise DocumentNotFound(f"{plain(event)!r} is the id of an event. {whose}")
    raise DocumentNotFound(_unknown_flow(id))


async def flow_or_event(documents: DocumentStore, id: str) -> tuple[str, str | None]:
    """The correlation id that is meant, and the event's id if an event was. Raises as ``whole_flow``."""
    if await _is_flow(documents, id):
        return id, None
    events = await _events(documents, id)
    if id in events:
        return events[id], id
    flows = await _flows(documents, id)
    whole = the_one({**events, **flows}, id, what="flows and events")
    if whole is None:
        raise DocumentNotFound(_unknown_flow(id))
    return (whole, None) if whole in flows else (events[whole], whole)


async def newest_flow(documents: DocumentStore, kind: str = EVENT_META) -> str | None:
    """The correlation id of the newest document of that kind."""
    async for document in documents.find(kind, newest_first=True, limit=1):
        return document.correlation_id
    return None


def fits(id: str, given: str) -> bool:
    """Whether ``given`` is the beginning of ``id``, or beginning and end of it with ``…`` or ``...`` between."""
    begin, _, end = _cut(given)
    both = id.startswith(begin) and id.endswith(end) and len(id) >= len(begin) + len(end)
    return both or id.startswith(given)


def is_enough(given: str) -> bool:
    """Whether it is long enough to stand for another."""
    begin, _, end = _cut(given)
    return len(begin) + len(end) >= SHORTEST


def _cut(given: str) -> tuple[str, str, str]:
    return given.partition("…" if "…" in given else "...")


def the_one(ids: Iterable[str], id: str, *, what: str) -> str | None:
    """The only one of ``ids``; None where there is none. Raises UsageError naming them where there are several."""
    found = sorted(ids)
    if len(found) > 1:
        more = ", …" if len(found) > NAMED else ""
        some = ", ".join(plain(it) for it in found[:NAMED])
        raise UsageError(f"{id!r}: {len(found):,} {what} have an id that begins so: {some}{more}. Give more of it.")
    return found[0] if found else None


async def _is_flow(documents: DocumentStore, id: str) -> bool:
    async for _ in documents.find(correlation_id=id, limit=1):
        return True
    return False


async def _events(documents: DocumentStore, id: str) -> dict[str, str]:
    """The event of this id, or those whose id begins so; each with its correlation id."""
    try:
        return {id: (await documents.get(EVENT_META, id)).correlation_id}
    except DocumentNotFound:
        if not is_enough(id):
            return {}
    found = documents.find(EVENT_META, id_begins=_cut(id)[0])
    return {document.id: document.correlation_id async for document in found if fits(document.id, id)}


async def _flows(documents: DocumentStore, id: str) -> dict[str, str]:
    """Flows with an event whose id begins so, each by itself."""
    if not is_enough(id):
        return {}
    found = documents.find(EVENT_META, correlation_id_begins=_cut(id)[0])
    return {it.correlation_id: it.correlation_id async for it in found if fits(it.correlation_id, id)}


def _unknown_flow(id: str) -> str:
    unknown = f"nothing is stored under the correlation id {plain(id)!r}.{too_short(id)}"
    return f"{unknown} `ion-core trace list` shows the newest ones."


def too_short(id: str) -> str:
    """`` The beginning …``, or nothing: what is too short is of no id, though one begins so."""
    return "" if is_enough(id) else f" The beginning of an id must have {SHORTEST} characters or more."
