"""Flows by page: each once, whatever happens meanwhile, and with nothing read of what a page has no part in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from ion_core.contracts.messaging import MessageBroker, RetryPolicy
from ion_core.contracts.storage import Document
from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.errors import InvalidCursor, TransientError
from ion_core.events import EVENT_META, FAILURE, MODULE_LOGS
from ion_core.flows import DEAD, DONE, FAILED, RUNNING, FlowInShort, FlowPage, Queues, Wanted, list_flows
from ion_core.modules import Module

MODULES = [
    Module(name="first", subscribes=("photo",), publishes=("face",)),
    Module(name="second", subscribes=("face",)),
]


class World:
    """Documents of flows as serving leaves them, and a page of them."""

    def __init__(self) -> None:
        self.documents = MemoryDocumentStore()
        self.opened = MemoryBroker()
        self.damaged: set[str] = set()

    async def broker(self) -> MessageBroker:
        return self.opened

    async def event(
        self, flow: str, id: str, type: str = "photo", parent: str = "", name: str = "cli", **brings: Any
    ) -> None:
        context = {"name": name, "eventId": id, "correlationId": flow, "parentEventId": parent}
        body = {"context": context, "type": type, "files": [], "data": [], **brings}
        await self.documents.put(Document(kind=EVENT_META, id=id, correlation_id=flow, body=body))

    async def ended(self, flow: str, event: str, module: str, outcome: str, at: str = "2026-01-01T10:00:00Z") -> None:
        context = {"name": module, "eventId": event, "correlationId": flow}
        body: dict[str, Any] = {"context": context, "attempt": 1, "outcome": outcome, "startedAt": at, "finishedAt": at}
        body |= {"succeeded": outcome == "committed", "logs": "", "token": event}
        log = Document(kind=MODULE_LOGS, id=f"{module} {event}", correlation_id=flow, body=body)
        await self.documents.put(log)
        if outcome in ("dead-lettered", "retried"):
            await self.documents.put(Document(kind=FAILURE, id=f"{module} {event}", correlation_id=flow, body=body))

    async def done(self, flow: str, *, faces: int = 1) -> None:
        await self.event(flow, f"{flow} photo")
        await self.ended(flow, f"{flow} photo", "first", "committed")
        for n in range(faces):
            await self.event(flow, f"{flow} face {n}", "face", f"{flow} photo", "first")
            await self.ended(flow, f"{flow} face {n}", "second", "committed")

    async def page(
        self, limit: int = 5, after: str | None = None, look_at: int | None = None, **wanted: Any
    ) -> FlowPage:
        return await list_flows(
            self.documents,
            MODULES,
            Queues(self.broker),
            Wanted(**wanted),
            limit=limit,
            after=after,
            look_at=look_at,
            damaged=self.damaged,
        )

    async def pages(self, limit: int = 5, **asked: Any) -> AsyncIterator[list[FlowInShort]]:
        page = await self.page(limit, **asked)
        yield list(page.flows)
        while page.cursor is not None:
            page = await self.page(limit, after=page.cursor, **asked)
            yield list(page.flows)

    async def listed(self, limit: int = 5, **asked: Any) -> list[str]:
        return [flow.correlation_id async for page in self.pages(limit, **asked) for flow in page]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("limit", [1, 3, 20, 100])
async def test_pages_have_every_flow_once_the_newest_first(world: World, limit: int) -> None:
    for n in range(20):
        await world.done(f"{n}", faces=n % 4)
    assert await world.listed(limit) == [f"{n}" for n in range(19, -1, -1)]


async def test_pages_hold_while_flows_go_on_and_come_and_go(world: World) -> None:
    for n in range(20):
        await world.done(f"{n}")
    found: list[str] = []
    async for page in world.pages(3):
        found += [flow.correlation_id for flow in page]
        n = len(found)
        await world.done(f"new {n}")
        await world.event("0", f"0 late {n}", "face", "0 photo", "first")  # it goes on, and is not moved
        await world.event(page[0].correlation_id if page else "0", f"again {n}")
        for document in [it async for it in world.documents.find(correlation_id="9")]:
            await world.documents.delete(document.kind, document.id)
    assert found == [f"{n}" for n in range(19, -1, -1) if n != 9]


async def test_a_page_reads_nothing_of_flows_that_are_on_others(world: World) -> None:
    read = []
    for n in range(60):
        await world.done(f"{n}")
        if n in (4, 59):
            before = world.documents.looked_at
            page = await world.page()
            read.append(world.documents.looked_at - before)
    for _ in range(11):
        before = world.documents.looked_at
        page = await world.page(after=page.cursor)
        read.append(world.documents.looked_at - before)
    assert max(read) <= read[0] + 10, f"so many documents were read by each page: {read}"


async def test_those_that_failed_are_found_without_reading_others(world: World) -> None:
    await world.event("dead", "d")
    await world.ended("dead", "d", "first", "dead-lettered")
    await world.event("failed", "f")
    await world.ended("failed", "f", "first", "retried")
    await world.event("mended", "m")
    await world.ended("mended", "m", "first", "dead-lettered")
    await world.ended("mended", "m", "first", "committed")
    for n in range(100):
        await world.done(f"{n}")
    before = world.documents.looked_at
    assert await world.listed(outcomes=frozenset({DEAD, FAILED})) == ["failed", "dead"]
    assert await world.listed(outcomes=frozenset({DEAD})) == ["dead"]
    assert world.documents.looked_at - before < 50


async def test_how_a_flow_stands_takes_the_queues_into_account(world: World) -> None:
    await world.opened.declare("first", topics=["photo"], retry=RetryPolicy())
    await world.opened.publish("photo", b"{}", headers={})
    await world.event("waits", "w")
    await world.event("of nobody", "n", "other")
    await world.done("done")
    assert await world.listed(outcomes=frozenset({RUNNING})) == ["waits"]
    assert await world.listed(outcomes=frozenset({DONE})) == ["done", "of nobody"]
    await world.opened.drop("first")
    assert await world.listed(outcomes=frozenset({DONE})) == ["done", "of nobody", "waits"]
    world.opened.failing = TransientError("away")
    assert await world.listed(outcomes=frozenset({RUNNING})) == ["waits"], "what cannot be told is thought to wait"


async def test_a_page_ends_where_it_has_looked_at_enough(world: World) -> None:
    await world.event("one", "o")
    await world.ended("one", "o", "first", "dead-lettered")
    for n in range(50):
        await world.done(f"{n}")
    pages, after = 0, None
    while True:
        before = world.documents.looked_at
        page = await world.page(after=after, look_at=20, module="first", outcomes=frozenset({DEAD, DONE}), type="none")
        assert world.documents.looked_at - before <= 20 + 10 * 11, "and at the flows of these"
        assert page.flows == []
        pages, after = pages + 1, page.cursor
        if after is None:
            break
    assert 5 <= pages <= 7
    assert await world.listed(look_at=1, type="face") == [f"{n}" for n in range(49, -1, -1)]


async def test_those_of_a_type_are_found_once_though_they_have_many_events_of_it(world: World) -> None:
    for n in range(8):
        await world.done(f"{n}", faces=n % 3)
    assert await world.listed(2, type="face") == [f"{n}" for n in range(7, -1, -1) if n % 3]
    assert await world.listed(2, type="photo", module="second") == [f"{n}" for n in range(7, -1, -1) if n % 3]


async def test_those_of_a_time_are_those_in_which_something_was_stored_since(world: World) -> None:
    for n in range(6):
        await world.done(f"{n}")
    then = (await world.documents.get(EVENT_META, "5 photo")).stored_at
    assert then is not None
    soon = (then + timedelta(hours=1)).isoformat()
    await world.ended("1", "1 photo", "first", "committed", at=soon)  # replaces one: nothing is stored anew
    await world.ended("5", "5 photo", "first", "committed", at=soon)
    await world.event("new", "n")
    assert await world.listed(1, since=then) == ["new", "5"]
    assert await world.listed(1, since=then, type="face") == ["5"]
    assert await world.listed(1, since=then + timedelta(hours=2)) == []


async def test_those_containing_a_text_have_it_in_their_id_or_their_first_event(world: World) -> None:
    await world.event("flow-1", "id-2", "type.3", files=["file-4.JPG"], data=[{"key": "key-5", "value": "Straße-6"}])
    await world.event("flow-1", "child", "later", "id-2", "first", files=["file-7"])
    await world.done("other")
    for text in ("FLOW-1", "Id-2", "TYPE.3", "file-4.jpg", "KEY", "STRASSE-6", "-1"):
        assert await world.listed(containing=text) == ["flow-1"], text
    for text in ("file-7", "later", "key-5=", "first", "none"):
        assert await world.listed(containing=text) == [], text
    assert await world.listed(containing="") == ["other", "flow-1"]
    assert await world.listed(containing="o", type="face") == ["other"]
    assert await world.listed(containing="flow", type="face") == []
    assert await world.listed(containing="flow", type="later") == ["flow-1"]


async def test_those_containing_a_text_are_found_by_the_first_event_whatever_else_is_wanted(world: World) -> None:
    await world.event("one", "o", data=[{"key": "who", "value": "Ada"}])
    await world.ended("one", "o", "first", "dead-lettered")
    await world.event("two", "t", data=[{"key": "who", "value": "Bob"}])
    then = (await world.documents.get(EVENT_META, "o")).stored_at
    failed = frozenset({DEAD, FAILED})
    assert await world.listed(containing="ada", outcomes=failed) == ["one"]
    assert await world.listed(containing="bob", since=then) == ["two"]
    assert await world.listed(containing="bob", module="first") == ["two"]


async def test_a_first_event_that_names_a_cause_or_left_no_document_is_looked_for_in_its_flow(world: World) -> None:
    await world.event("of another", "late", "face", "somewhere", "first", files=["a.jpg"])
    await world.event("foreign", "child", "face", "parent", "first", files=["a.jpg"])
    await world.ended("foreign", "parent", "first", "committed")
    assert await world.listed(containing="a.jpg") == ["of another"], "what is not there is no cause"
    assert await world.listed(containing="parent") == ["foreign"]


async def test_of_flows_that_contain_no_such_text_only_documents_of_events_are_read(world: World) -> None:
    await world.event("wanted", "w", data=[{"key": "who", "value": "Ada"}])
    for n in range(200):
        await world.done(f"{n}", faces=0)
        await world.ended(f"{n}", f"{n} photo", "second", "committed")
    before = world.documents.looked_at
    assert await world.listed(containing="ada") == ["wanted"]
    assert world.documents.looked_at - before < 200 + 20
    page = await world.page(containing="ada", look_at=50)
    assert (page.flows, page.cursor is None) == ([], False)


async def test_what_is_damaged_is_told_and_hides_no_other(world: World) -> None:
    for n in range(3):
        await world.done(f"{n}")
    world.documents.documents[EVENT_META, "1 face 0"] = Document(
        kind=EVENT_META,
        id="1 face 0",
        correlation_id="1",
        body=None,  # type: ignore[arg-type]
    )
    assert await world.listed(2) == ["2", "1", "0"]
    assert len(world.damaged) == 1
    with pytest.raises(InvalidCursor):
        await world.page(after="nowhere")
