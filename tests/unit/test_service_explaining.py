"""What a service is told of an event as people are told it, against embedded providers."""

from __future__ import annotations

import base64
import typing
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ion_core.app import App
from ion_core.contracts.looking import LetterId, WhyState, WhyView
from ion_core.contracts.service import ServiceHost
from ion_core.embedded.sqlite.database import Access
from ion_core.errors import TransientError
from ion_core.rules import MODULE_FAILED
from ion_core.why import JobState
from tests.unit.test_service_host import configured, host_of, nothing, served


@pytest_asyncio.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    config, _ = configured(tmp_path, nothing)
    async with App.open(config) as app:
        yield app


def test_the_states_of_the_contract_are_those_of_the_command() -> None:
    assert list(typing.get_args(WhyState)) == [it.value for it in JobState]


async def test_it_is_told_by_which_rule_an_event_died_and_what_to_type(tmp_path: Path) -> None:
    async def looks(host: ServiceHost) -> tuple[str, Sequence[WhyView], str, Sequence[WhyView]]:
        dead = (await host.publish("photo.broken")).context
        done = (await host.publish("photo.received")).context
        for it in (dead, done):
            await host.outcome(it.correlation_id, within=timedelta(seconds=50))
        while not (await host.dead_letters()).items:  # its log is written before
            pass
        told = await host.why(dead.event_id), await host.why(done.event_id)
        return dead.event_id, told[0], done.correlation_id, told[1]

    id, [bad], done, told = await served(tmp_path, looks)
    assert (bad.module, bad.taken, bad.state, bad.attempt, bad.ahead) == ("bad", True, "dead letter", None, None)
    assert (bad.rule.name, bad.rule.what) == (MODULE_FAILED.name, MODULE_FAILED.what)
    assert (bad.rule.settled, bad.rule.counted) == (MODULE_FAILED.settled, MODULE_FAILED.counted)
    assert bad.reason.startswith("exit code 1")
    assert (bad.since is None, bad.until) == (False, None)
    assert bad.letter.queue == "bad"
    assert bad.next == [
        f"ion-core logs {id} --module bad",
        f"ion-core debug {id} --module bad",
        f"ion-core dlq redrive {bad.letter.id}",
    ]
    assert [(it.module, it.state, it.attempt, it.rule) for it in told] == [
        ("first", "committed", 1, None),
        ("second", "committed", 1, None),
    ]
    assert [it.next for it in told] == [[f"ion-core trace flow {done}"], []]


async def test_what_waits_is_told_with_how_many_before_it(app: App) -> None:
    host = await host_of(app)
    events = [(await host.publish("photo.received")).context for _ in range(3)]
    told = await host.why(events[2].event_id)
    assert [(it.module, it.state, it.attempt, it.ahead) for it in told] == [
        ("first", "waiting", 1, 2),
        ("second", "waiting", 1, 2),
    ]
    assert [it.next for it in told] == [["ion-core module list"]] * 2, "this process serves"
    assert await host.why("none") == []
    assert [it.module for it in await host.why(events[0].event_id, correlation_id="none")] == ["first", "second"]


async def test_what_runs_here_is_told_with_since_when(tmp_path: Path) -> None:
    go = tmp_path / "go"

    async def looks(host: ServiceHost) -> Sequence[WhyView]:
        event = await host.publish("photo.slow")
        async for _ in host.follow(event.context.event_id, wait=True):
            found = await host.why(event.context.event_id)
            go.touch()
            return found
        raise AssertionError

    waits = f"echo here; until [ -e {go} ]; do :; done"
    module = f"  slow: {{command: [sh, -c, '{waits}'], source: ., subscribes: [photo.slow]}}\n"
    [slow] = await served(tmp_path, looks, modules=module)
    assert (slow.module, slow.state, slow.attempt) == ("slow", "running", 1)
    assert slow.since is not None
    assert slow.next[0].endswith("--module slow --follow")


async def test_what_only_a_queue_shows_is_told_and_what_must_not_be_shown_is_masked(tmp_path: Path) -> None:
    config, _ = configured(
        tmp_path,
        nothing,
        modules="  hides: {command: ['true'], source: ., subscribes: [hides], env: {KEY: '${env:KEY}'}}\n",
        environ={"KEY": "why-canary-0123456789"},
    )
    async with App.open(config) as app:
        host = await host_of(app)
        event = await host.publish("photo.broken")
        broker, documents = await app.broker(), await app.documents()
        await documents.delete("eventMeta", event.context.event_id)
        async with broker.subscribe("bad", prefetch=1) as deliveries:
            await (await anext(deliveries)).dead_letter("said why-canary-0123456789")
        [letter] = await broker.dead_letters("bad")
        [bad] = await host.why(event.context.event_id)
        assert (bad.module, bad.letter) == ("bad", LetterId("bad", letter.id))
        assert bad.reason == "said ********"


async def test_a_report_is_the_page_of_a_flow_with_pictures_and_without_what_must_not_be_shown(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"0" * 40

    async def looks(host: ServiceHost) -> bytes | None:
        (host.work / "upload").write_bytes(png)
        files = {"photo.png": host.work / "upload"}
        data = [("hostile", "<script>\x1b\u202e</script>"), ("told", "report-canary-0123456789")]
        event = await host.publish("photo.received", data=data, files=files)
        await host.outcome(event.context.correlation_id, within=timedelta(seconds=50))
        assert await host.report("none") is None
        return await host.report(event.context.correlation_id)

    module = "  hides: {command: ['true'], source: ., subscribes: [hides], env: {KEY: '${env:KEY}'}}\n"
    environ = {"KEY": "report-canary-0123456789"}
    page = (await served(tmp_path, looks, modules=module, environ=environ)).decode()
    assert page.startswith("<!doctype html>")
    assert page.count("<b>second</b>") == 2
    assert f"data:image/png;base64,{base64.b64encode(png).decode()}" in page
    assert "Worker logs" in page
    assert r"&lt;script&gt;\x1b\u202e&lt;/script&gt;" in page
    assert "told=********" in page
    assert "canary" not in page


async def test_what_is_damaged_hides_no_other_and_a_broker_that_is_away_leaves_things_unknown(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await host_of(app)
    event = await host.publish("photo.broken")
    child = await host.publish("photo.broken", correlation_id=event.context.correlation_id)
    documents: Any = await app.documents()

    def damage(connection: Any) -> None:
        connection.execute("UPDATE documents SET body = '{' WHERE id = ?", (child.context.event_id,))

    await documents.database.call(damage, Access.WRITE)
    assert [it.state for it in await host.why(event.context.event_id)] == ["waiting"]

    async def away(*_: Any) -> Any:
        raise TransientError("away")

    monkeypatch.setattr(await app.broker(), "stats", away)
    [bad] = await host.why(event.context.event_id)
    assert (bad.state, bad.next[-1]) == ("not known", "ion-core check --connect")
