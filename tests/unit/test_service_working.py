"""What a service is shown of the work under way, and the dead letters that it may mend, against embedded providers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ion_core.app import App
from ion_core.app.host import Host
from ion_core.contracts.looking import DeadLetterView, LetterFilter, LetterGroup, LetterId, LogLine, RunningView
from ion_core.contracts.messaging import DeadLetter, RetryPolicy
from ion_core.contracts.service import ServiceHost
from ion_core.errors import DeadLetterNotFound, InvalidCursor, TransientError
from ion_core.events import Event
from ion_core.letters import shown
from tests.unit.test_service_host import configured, host_of, nothing, served


@pytest_asyncio.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    config, _ = configured(tmp_path, nothing)
    async with App.open(config) as app:
        yield app


async def dies(app: App, queue: str, *, reason: str, body: bytes | None = None, topic: str = "photo.broken") -> None:
    """One more dead letter of ``queue``."""
    broker = await app.broker()
    if body is None:
        await (await host_of(app)).publish(topic)
    else:
        await broker.publish(topic, body, headers={})
    async with broker.subscribe(queue, prefetch=1) as deliveries:
        await (await anext(deliveries)).dead_letter(reason)


def ids(found: Sequence[DeadLetterView]) -> list[LetterId]:
    return [LetterId(it.letter.queue, it.letter.id) for it in found]


async def test_queues_are_told_with_counts_and_since_when_the_oldest_waits(app: App) -> None:
    host = await host_of(app)
    before = datetime.now(UTC) - timedelta(seconds=1)
    first = await host.publish("photo.broken")
    await host.publish("photo.broken")
    await host.publish("photo.seen")
    await (await app.broker()).declare("stray", topics=["else"], retry=RetryPolicy())
    await (await app.broker()).publish("else", b"no event", headers={})
    found = {it.name: it for it in await host.queues()}
    assert list(found) == ["bad", "first", "second", "stray"]
    assert (found["bad"].stats.ready, found["second"].stats.ready, found["first"].stats.ready) == (2, 1, 0)
    assert found["bad"].oldest == (await (await app.documents()).get("eventMeta", first.context.event_id)).stored_at
    assert found["bad"].oldest is not None
    assert found["bad"].oldest > before
    assert found["first"].oldest is None
    assert (found["stray"].taken, found["stray"].topics, found["stray"].oldest) == (False, ["else"], None)
    assert all(found[name].taken for name in ("bad", "first", "second"))


async def test_queues_that_are_not_counted_in_time_are_an_error(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await host_of(app)

    async def hangs(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(await app.broker(), "stats", hangs)
    monkeypatch.setattr("ion_core.app.working.QUEUES_WITHIN", 0.01)
    with pytest.raises(TransientError, match="not counted within"):
        await host.queues()


async def test_what_runs_is_told_and_followed(tmp_path: Path) -> None:
    """With what came from a variable masked, as it is in the logs that are stored."""

    async def looks(host: ServiceHost) -> tuple[str, Sequence[RunningView], list[LogLine], Sequence[RunningView]]:
        event = await host.publish("photo.slow")
        lines: list[LogLine] = []
        running: Sequence[RunningView] = []
        async for line in host.follow(event.context.event_id, wait=True):
            running = running or host.running()
            lines.append(line)
            (tmp_path / "go").touch()
        await host.outcome(event.context.correlation_id, within=timedelta(seconds=50))
        return event.context.event_id, running, lines, host.running()

    (tmp_path / "slow.sh").write_text(
        f"echo begun with $TOKEN\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.02; done\necho done\n"
    )
    slow = '\n  slow: {command: [sh, slow.sh], source: ., subscribes: [photo.slow], env: {TOKEN: "${env:SLOW_TOKEN}"}}'
    event_id, running, lines, after = await served(tmp_path, looks, modules=slow, environ={"SLOW_TOKEN": "sesame-open"})
    [view] = running
    assert (view.event_id, view.module, view.attempt, view.type) == (event_id, "slow", 1, "photo.slow")
    assert view.since <= datetime.now(UTC)
    assert [(it.module, it.attempt) for it in lines] == [("slow", 1)] * 2
    assert lines[0].text.startswith("begun with ")
    assert "sesame" not in lines[0].text
    assert lines[1].text == "done"
    assert list(after) == []


async def test_dead_letters_are_had_by_page_in_both_orders(app: App) -> None:
    host = await host_of(app)
    for n in range(7):
        await dies(app, "bad", reason=f"reason {n % 2}")
    whole = (await host.dead_letters(newest_first=False)).items
    assert [it.letter.reason for it in whole] == [f"reason {n % 2}" for n in range(7)]
    for newest_first in (False, True):
        found: list[LetterId] = []
        after = None
        while True:
            page = await host.dead_letters(newest_first=newest_first, limit=2, after=after)
            found += ids(page.items)
            if (after := page.cursor) is None:
                break
            await host.purge(ids(page.items)[-1:])  # the cursor is good all the same
            await dies(app, "bad", reason="new")
        known = ids(whole)[::-1] if newest_first else ids(whole)
        assert [it for it in found if it in known] == known
        assert len(found) == len(set(found))
        await host.purge_all(LetterFilter())
        for n in range(7):
            await dies(app, "bad", reason=f"reason {n % 2}")
        whole = (await host.dead_letters(newest_first=False)).items
    for wrong in ("", "no cursor", "bm9uZQ==", "é", "x" * 5000, "LTEKYQpi"):
        with pytest.raises(InvalidCursor):
            await host.dead_letters(after=wrong)


async def test_all_pages_of_a_listing_are_one_look_at_the_broker(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: else twenty thousand would be parsed once for each thousand of them."""
    host = await host_of(app)
    for _ in range(5):
        await dies(app, "bad", reason="a")
    looks = 0
    broker = await app.broker()
    each_dead_letter = broker.each_dead_letter

    def counted(queue: str) -> Any:
        nonlocal looks
        looks += queue == "bad"
        return each_dead_letter(queue)

    monkeypatch.setattr(broker, "each_dead_letter", counted)

    async def listed(which: LetterFilter, most: int) -> int:
        nonlocal looks
        looks, after, found = 0, None, 0
        while True:
            page = await host.dead_letters(which, limit=2, after=after)
            found += len(page.items)
            if (after := page.cursor) is None or found >= most:
                return found

    assert (await listed(LetterFilter(), 9), looks) == (5, 1)
    assert (await listed(LetterFilter(module="bad"), 9), looks) == (5, 1)
    first = await host.dead_letters(limit=2)
    looks = 0
    await host.dead_letters(LetterFilter(reason="a"), limit=2, after=first.cursor)
    assert looks == 1, "it is another listing"
    await host.purge(ids(first.items))
    looks = 0
    assert len((await host.dead_letters(limit=9, after=first.cursor)).items) == 3
    assert looks == 1, "some were deleted"
    monkeypatch.setattr(shown, "KEPT_FOR", 0.0)
    page = await host.dead_letters(limit=2)
    looks = 0
    async with asyncio.timeout(20):
        while not looks:  # once it was too long ago
            await asyncio.sleep(0)
            await host.dead_letters(limit=2, after=page.cursor)


async def test_many_are_parsed_beside_the_event_loop(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await host_of(app)
    await dies(app, "bad", reason="a")
    await dies(app, "bad", reason="b")
    parsed: list[int] = []
    parse = shown.parse_event

    def noted(body: bytes) -> Event:
        parsed.append(threading.get_ident())
        return parse(body)

    monkeypatch.setattr(shown, "parse_event", noted)
    assert len((await host.dead_letters()).items) == 2
    monkeypatch.setattr(shown, "SHORT", 1)
    assert len((await host.dead_letters()).items) == 2
    here = threading.get_ident()
    assert [it == here for it in parsed] == [True, True, False, False]


async def test_dead_letters_are_found_by_what_they_are_about_and_in_groups(app: App) -> None:
    host = await host_of(app)
    await dies(app, "bad", reason="exit code 3")
    await dies(app, "bad", reason="exit code 3")
    await dies(app, "second", reason="exit code 31", topic="photo.seen")
    await dies(app, "bad", reason="is no event", body=b"{")

    async def count(**asked: str) -> int:
        return len((await host.dead_letters(LetterFilter(**asked))).items)

    assert await count() == 4
    assert (await count(reason="exit code 3"), await count(containing="EXIT code 3")) == (2, 3)
    assert (await count(module="second"), await count(type="photo.broken"), await count(type="none")) == (1, 2, 0)
    assert (await count(module="nowhere"), await count(module="bad", containing="31")) == (0, 0)
    [unreadable] = (await host.dead_letters(LetterFilter(reason="is no event"))).items
    assert (unreadable.event, bool(unreadable.unreadable), unreadable.letter.body) == (None, True, b"{")

    def brief(groups: Sequence[LetterGroup]) -> list[tuple[str, int]]:
        return [(it.key, it.count) for it in groups]

    groups = await host.dead_letter_groups("reason")
    assert brief(groups) == [("exit code 3", 2), ("exit code 31", 1), ("is no event", 1)]
    assert groups[0].oldest < groups[0].newest
    await dies(app, "bad", reason="exit code 3 (attempt 4, the last)")
    [largest, *_] = await host.dead_letter_groups("reason")
    assert (largest.key, largest.count, await count(reason=largest.key)) == ("exit code 3", 3, 3)
    assert brief(await host.dead_letter_groups("module")) == [("bad", 4), ("second", 1)]
    assert brief(await host.dead_letter_groups("type")) == [("photo.broken", 3), ("", 1), ("photo.seen", 1)]


@pytest.mark.parametrize("verb", ["redrive", "purge"])
async def test_one_some_and_all_are_put_back_or_deleted(app: App, verb: str) -> None:
    host = await host_of(app)
    for n in range(6):
        await dies(app, "bad", reason=f"exit code {n % 3}")
    found = ids((await host.dead_letters()).items)
    assert await getattr(host, verb)(found[:1] * 2) == 1, "one that is named twice is one"
    with pytest.raises(DeadLetterNotFound, match=found[0].id):
        await getattr(host, verb)(found[:2])
    assert len((await host.dead_letters()).items) == 5, "none has moved where one is not there"
    assert await getattr(host, f"{verb}_all")(LetterFilter(reason="exit code 1")) == 2
    assert await getattr(host, f"{verb}_all")(LetterFilter(reason="exit code 1")) == 0
    assert await getattr(host, f"{verb}_all")(LetterFilter()) == 3
    [stats] = [it.stats for it in await host.queues() if it.name == "bad"]
    assert (stats.dead, stats.ready) == (0, 6 if verb == "redrive" else 0)


async def test_all_leaves_those_alone_that_may_be_another_configurations(app: App) -> None:
    host = await host_of(app)
    await (await app.broker()).declare("stray", topics=["else"], retry=RetryPolicy())
    await dies(app, "stray", reason="lost", body=b"{}", topic="else")
    [view] = (await host.dead_letters()).items
    assert not view.taken
    assert await host.purge_all(LetterFilter()) == await host.redrive_all(LetterFilter(reason="lost")) == 0
    assert await host.redrive_all(LetterFilter(module="stray")) == 1


async def test_all_means_the_others_too_where_somebody_was_quicker_with_some(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    host: Host = await host_of(app)
    for n in range(4):
        await dies(app, "bad", reason=f"{n}")
    broker = await app.broker()
    each_dead_letter, quicker = broker.each_dead_letter, asyncio.Event()

    @asynccontextmanager
    async def then_one_goes(queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        async with each_dead_letter(queue) as letters:
            yield letters
        found = await broker.dead_letters(queue)
        if found and not quicker.is_set():
            quicker.set()
            await broker.purge(queue, [found[0].id])

    monkeypatch.setattr(broker, "each_dead_letter", then_one_goes)
    assert await host.redrive_all(LetterFilter()) == 3
