"""What a service may look at through its host, against embedded providers."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ion_core.app import App, looking
from ion_core.app.host import Host
from ion_core.app.looking import LOOKED_AT
from ion_core.contracts.looking import FlowView, Link, Page
from ion_core.contracts.service import ServiceHost
from ion_core.contracts.storage import Document
from ion_core.errors import BlobCorrupt, BlobNotFound, InvalidCursor, PermanentError, TransientError
from ion_core.flows import Flow, aside
from ion_core.flows.flow import SHORT
from tests.unit.test_service_host import configured, host_of, nothing, served


@pytest_asyncio.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    config, _ = configured(tmp_path, nothing)
    async with App.open(config) as app:
        yield app


async def test_a_service_has_its_name_and_a_directory_of_its_own(app: App) -> None:
    host = await host_of(app)
    assert host.name == "front"
    assert host.directory == app.state.path / "services" / "front"
    assert host.work.parent == host.directory
    assert host.directory.is_dir()


async def test_the_pipeline_says_who_takes_and_makes_what(app: App) -> None:
    pipeline = (await host_of(app)).pipeline()
    assert [it.name for it in pipeline.modules] == ["first", "second", "bad"]
    first, _, bad = pipeline.modules
    assert (first.subscribes, first.publishes, first.image) == (("photo.received",), ("photo.seen",), None)
    assert (bad.retries, bad.concurrency, bad.timeout) == (0, 1, timedelta(minutes=10))
    assert set(pipeline.links) == {
        Link(source="", type="photo.received", target="first"),
        Link(source="", type="photo.received", target="second"),
        Link(source="first", type="photo.seen", target="second"),
        Link(source="", type="photo.broken", target="bad"),
    }


async def test_a_flow_that_was_served_is_shown_whole(tmp_path: Path) -> None:
    async def looks(host: ServiceHost) -> tuple[Any, ...]:
        photo = host.work / "upload"
        photo.write_bytes(b"a photo")
        event = await host.publish("photo.received", data=[("a", "1")], files={"photo.jpg": photo})
        broken = await host.publish("photo.broken")
        flow = event.context.correlation_id
        for id in (flow, broken.context.correlation_id):
            await host.outcome(id, within=timedelta(seconds=50))
        view = await host.flow(flow)
        assert view is not None
        logs = await host.logs(event.context.event_id)
        [file] = await host.files(flow)
        async with host.file(flow, file.file.key) as content:
            data = b"".join([chunk async for chunk in content.chunks])
        return event, broken, view, logs, file, data, await host.flows(), await host.flows(outcomes={"dead"})

    event, broken, view, logs, file, data, every, dead = await served(tmp_path, looks)
    assert isinstance(view, FlowView)
    assert (view.summary.outcome, view.summary.over, view.summary.events) == ("done", True, 2)
    assert (view.summary.type, view.summary.data, view.summary.files) == (
        "photo.received",
        (("a", "1"),),
        ("photo.jpg",),
    )
    assert [it.type for it in view.events] == ["photo.received", "photo.seen"]
    assert view.events[1].parent_event_id == view.events[0].event_id == event.context.event_id
    assert [(it.module, it.state, len(it.attempts)) for it in view.jobs] == [
        ("first", "committed", 1),
        ("second", "committed", 1),
        ("second", "committed", 1),
    ]
    assert view.jobs[0].events == [view.events[1].event_id]
    [attempt] = view.jobs[0].attempts
    assert attempt.started_at is not None
    assert attempt.finished_at is not None
    assert attempt.seconds["all"] > 0
    assert view.jobs[0].committed_by == (attempt.number, attempt.token)
    assert sorted(it.module for it in logs) == ["first", "second"]
    assert all("Worker logs" in it.text for it in logs)
    assert (file.file.name, file.module, file.came_in, file.event_id) == (
        "photo.jpg",
        "front",
        True,
        event.context.event_id,
    )
    assert (data, file.file.size) == (b"a photo", 7)
    assert file.file.sha256 == hashlib.sha256(data).hexdigest()
    assert [it.correlation_id for it in every.items] == [broken.context.correlation_id, event.context.correlation_id]
    assert [(it.correlation_id, it.outcome, it.failing) for it in dead.items] == [
        (broken.context.correlation_id, "dead", ("bad",))
    ]
    assert every.cursor is None


async def test_flows_are_had_by_page_and_what_waits_is_running(app: App) -> None:
    host = await host_of(app)
    ids = [(await host.publish("photo.received")).context.correlation_id for _ in range(7)]
    found: list[str] = []
    after = None
    while True:
        page = await host.flows(limit=3, after=after)
        assert all(it.outcome == "running" for it in page.items)
        found += [it.correlation_id for it in page.items]
        if (after := page.cursor) is None:
            break
    assert found == ids[::-1]
    assert [it.correlation_id for it in (await host.flows(module="bad")).items] == []
    assert [it.correlation_id for it in (await host.flows(containing=ids[3].upper())).items] == [ids[3]]
    assert (await host.flows(containing="nothing of this")).items == []
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert (await host.flows(since=soon)).items == []
    assert len((await host.flows(since=soon - timedelta(hours=2), type="photo.received")).items) == 7
    with pytest.raises(InvalidCursor):
        await host.flows(after="no cursor")


async def test_a_page_of_what_no_document_tells_ends_and_goes_on(app: App) -> None:
    host = await host_of(app)
    documents = await app.documents()
    context = {"name": "cli", "parentEventId": ""}
    for n in range(LOOKED_AT // 500 * 500 + 10):
        body = {"context": context | {"eventId": f"{n}", "correlationId": "one"}, "type": "photo.seen"}
        await documents.put(Document(kind="eventMeta", id=f"{n}", correlation_id="one", body=body))
    first = await host.flows(outcomes={"done"})
    assert (first.items, first.cursor is None) == ([], False)
    second = await host.flows(outcomes={"done"}, after=first.cursor)
    assert ([it.correlation_id for it in second.items], second.cursor) == (["one"], None)


async def test_documents_are_had_by_page_in_both_orders(app: App) -> None:
    host = await host_of(app)
    events = [await host.publish("photo.broken") for _ in range(5)]
    ids = [it.context.event_id for it in events]
    first = await host.documents("eventMeta", limit=2)
    assert [it.id for it in first.items] == ids[:2]
    rest = await host.documents("eventMeta", after=first.cursor)
    assert ([it.id for it in rest.items], rest.cursor) == (ids[2:], None)
    back = await host.documents("eventMeta", after=rest.items[0].cursor, newest_first=True)
    assert [it.id for it in back.items] == ids[1::-1]
    of_flow = await host.documents(correlation_id=events[0].context.correlation_id)
    assert [it.id for it in of_flow.items] == ids[:1]


async def test_what_is_damaged_is_told_and_hides_nothing(app: App) -> None:
    host = await host_of(app)
    ids = [(await host.publish("photo.broken")).context.event_id for _ in range(3)]
    documents: Any = await app.documents()
    from ion_core.embedded.sqlite.database import Access

    def damage(connection: Any) -> None:
        connection.execute("UPDATE documents SET body = '{' WHERE id = ?", (ids[1],))

    await documents.database.call(damage, Access.WRITE)
    page = await host.documents("eventMeta")
    assert [it.id for it in page.items] == [ids[0], ids[2]]
    assert len(page.damaged) == 1
    assert ids[1] in page.damaged[0]
    flows = await host.flows()
    assert [it.event_id for it in flows.items] == [ids[2], ids[0]]
    assert flows.damaged == page.damaged


async def _with_file(app: App, content: bytes) -> tuple[Host, str, str]:
    host = await host_of(app)
    upload = host.work / "upload"
    upload.write_bytes(content)
    event = await host.publish("photo.broken", files={"photo.jpg": upload})
    [file] = await host.files(event.context.correlation_id)
    return host, event.context.correlation_id, file.file.key


async def test_a_file_is_streamed_in_parts_and_leaves_nothing(app: App) -> None:
    content = bytes(range(256)) * 10_000
    host, flow, key = await _with_file(app, content)
    async with host.file(flow, key) as file:
        chunks = [chunk async for chunk in file.chunks]
    assert b"".join(chunks) == content
    assert 1 < len(chunks) == -(-len(content) // (1 << 20))
    for start in (0, 1, 1 << 20, len(content) - 1, len(content), len(content) + 1):
        async with host.file(flow, key, start=start) as file:
            assert b"".join([chunk async for chunk in file.chunks]) == content[start:]
    async with host.file(flow, key) as file:
        await anext(file.chunks)  # who hangs up in the middle
    assert [*(host.directory / ".shown").iterdir()] == []


async def test_only_files_of_the_flow_are_given(app: App) -> None:
    host, _, key = await _with_file(app, b"one")
    other = await host.publish("photo.broken")
    for flow, asked in ((other.context.correlation_id, key), ("none", key), (other.context.correlation_id, "../id")):
        with pytest.raises(BlobNotFound, match="has no file of the key"):
            async with host.file(flow, asked):
                pass


async def test_a_file_that_is_gone_or_other_than_it_was_is_not_given(app: App) -> None:
    host, flow, key = await _with_file(app, b"a photo")
    [path] = [it for it in (app.state.path / "blobs").rglob("*") if it.is_file() and it.read_bytes() == b"a photo"]
    path.chmod(0o644)
    path.write_bytes(b"another")
    with pytest.raises(BlobCorrupt):
        async with host.file(flow, key):
            pass
    path.unlink()
    with pytest.raises(BlobNotFound):
        async with host.file(flow, key):
            pass
    assert [*(host.directory / ".shown").iterdir()] == []


async def test_what_is_not_there_is_none_and_what_is_away_is_said(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await host_of(app)
    assert await host.flow("none") is None
    assert await host.logs("none") == []
    assert await host.files("none") == []
    assert await host.flows() == Page(items=[])

    def away(*_: Any, **__: Any) -> Any:
        raise TransientError("away")

    monkeypatch.setattr(await app.documents(), "find", away)
    for look in (host.flows(), host.flow("x"), host.documents(), host.files("x"), host.logs("x", correlation_id="x")):
        with pytest.raises(TransientError, match="away"):
            await asyncio.wait_for(look, 10)
    assert issubclass(InvalidCursor, PermanentError)


async def test_however_many_ask_two_flows_are_read_at_a_time(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await host_of(app)
    under_way, most = 0, 0

    async def read(*given: Any, **how: Any) -> Flow:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return Flow(correlation_id="f", roots=[])

    monkeypatch.setattr(looking, "read_flow", read)
    assert await asyncio.gather(*(host.flow("f") for _ in range(20))) == [None] * 20
    assert most == looking.AT_ONCE


async def test_of_a_long_flow_a_tree_is_made_beside_the_event_loop() -> None:
    here = threading.get_ident()
    assert await aside(SHORT, threading.get_ident) == here
    assert await aside(SHORT + 1, threading.get_ident) != here
