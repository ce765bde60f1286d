"""What changed, in short: named once, bounded, seldom, and over when what it is told by is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ion_console.digests import MOST_FLOWS, Digests
from ion_console.streams import Told
from ion_core.contracts.looking import Change, ChangeKind, Link, Pipeline
from ion_core.errors import TransientError
from ion_core.testing.host import Host
from plugins.ion_console.tests.consoles import running

REFRESH = Told("refresh", {})


class Telling(Host):
    """Tells each listener of all that is told while it listens."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, taken=("photo.received",))
        self.listeners: list[asyncio.Queue[Change | Exception | None]] = []

    def pipeline(self) -> Pipeline:
        return Pipeline(
            modules=[], links=[Link(source="", type="taken", target="m"), Link(source="m", type="left", target="")]
        )

    def tell(self, flow: str, kind: ChangeKind = "published", **about: Any) -> None:
        self._tell(Change(kind=kind, at=datetime.now(UTC), correlation_id=flow, **about))

    def end(self, error: Exception | None = None) -> None:
        self._tell(error)

    def _tell(self, told: Change | Exception | None) -> None:
        for listener in self.listeners:
            listener.put_nowait(told)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[Change]]:
        listener: asyncio.Queue[Change | Exception | None] = asyncio.Queue()
        self.listeners.append(listener)
        yield self._changes(listener)
        self.listeners.remove(listener)

    async def _changes(self, listener: asyncio.Queue[Change | Exception | None]) -> AsyncIterator[Change]:
        while (told := await listener.get()) is not None:
            if isinstance(told, Exception):
                raise told
            yield told


@pytest.fixture
def host(tmp_path: Path) -> Telling:
    return Telling(tmp_path)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_happens_together_is_told_together_and_each_flow_once(host: Telling) -> None:
    async with Digests(host).one(0) as told:
        host.tell("a", type="left")
        host.tell("b", type="left")
        host.tell("a", type="left")
        assert await anext(told) == Told("changed", {"flows": ["a", "b"], "queues": False, "deadLetters": False})
        host.tell("c", type="taken")
        assert await anext(told) == Told("changed", {"flows": ["c"], "queues": True, "deadLetters": False})
        host.tell("c", "finished", module="m", outcome="committed")
        assert await anext(told) == Told("changed", {"flows": ["c"], "queues": True, "deadLetters": False})
        host.tell("d", "finished", module="m", outcome="dead-lettered")
        assert await anext(told) == Told("changed", {"flows": ["d"], "queues": True, "deadLetters": True})


async def test_after_one_the_next_is_told_no_sooner_than_asked_for(host: Telling) -> None:
    async with Digests(host).one(3600) as told:
        host.tell("a")
        await anext(told)
        host.tell("b")
        coming = asyncio.ensure_future(anext(told))
        await turns()
        assert not coming.done()
        coming.cancel()
        await asyncio.wait({coming})


async def test_more_flows_than_are_named_and_what_was_missed_are_to_be_looked_at_anew(host: Telling) -> None:
    async with Digests(host).one(0) as told:
        for n in range(MOST_FLOWS):
            host.tell(str(n))
            host.tell(str(n))
        assert len((await anext(told)).data["flows"]) == MOST_FLOWS
        for n in range(MOST_FLOWS + 1):
            host.tell(str(n))
        assert await anext(told) == REFRESH
        host.tell("", "missed")
        assert await anext(told) == REFRESH
        host.tell("a")
        assert (await anext(told)).data["flows"] == ["a"]


async def test_what_follows_is_not_read_until_it_is_told_to_look_anew(host: Telling) -> None:
    async with Digests(host).one(0) as told:
        for _ in range(10):
            host.tell("", "missed")
        await turns()
        assert host.listeners[0].qsize() == 9
        assert await anext(told) == REFRESH
        assert await anext(told) == REFRESH


async def test_it_ends_with_what_it_is_told_by_after_all_was_told(host: Telling) -> None:
    async with Digests(host).one(0) as told:
        host.tell("a")
        host.end()
        assert [it.data["flows"] async for it in told] == [["a"]]
    async with Digests(host).one(0) as told:
        host.tell("a")
        host.end(TransientError("away"))
        await anext(told)
        with pytest.raises(TransientError, match="away"):
            await anext(told)
    assert host.listeners == []


async def test_a_page_is_told_and_so_are_all_when_one_mends(tmp_path: Path, host: Telling) -> None:
    async with running(tmp_path, host) as it:
        url = f"{it.console.url}/api/changes/digest?every=1"
        async with it.client.get(url) as first, it.client.get(url) as second:
            for page in (first, second):
                assert await page.content.readuntil(b"\n\n") == b": hello\n\n"
            for verb in ("redrive", "purge"):
                await it.ask(f"/api/dead-letters/{verb}", "POST", json={"all": True})
                for page in (first, second):
                    number, event, data, *_ = (await page.content.readuntil(b"\n\n")).decode().splitlines()
                    assert (number[:4], event) == ("id: ", "event: changed")
                    assert json.loads(data.removeprefix("data: ")) == {"flows": [], "queues": True, "deadLetters": True}
        assert (await it.ask("/api/changes/digest?every=0"))[0] == 422
        assert (await it.ask("/api/changes/digest?every=61"))[0] == 422
