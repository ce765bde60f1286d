"""``console_pages``: what history costs who looks. Pages of flows where there are 100,000, against 1,000.

Both sides: ``ion-core serve`` with a console and embedded documents, asked for four pages of 50 flows, one after the
other: the first, one from the middle, the first of those that were given up (``outcome=dead``, one of 20), the first of
those with an event of a type (``type``, which all of them have). From before the first request until the last answer
is there as a whole. What differs is how many flows lie there already:

Ours: 100,000, of two events each. Theirs: 1,000.

History is written through the contracts, in the shapes a dispatcher leaves, outside the timing.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from bench.consoles import CONSOLE, serve, url_of
from bench.measure import Benchmark, Pair, Side, at_most
from bench.rows.listing import EVERY, MODULES, stored_flow
from ion_core.app import App
from ion_core.config import load_config
from ion_core.contracts.storage import DocumentStore
from ion_core.events import EVENT_META
from ion_core.stores import for_each

PAGE = 50


def benchmark(many: int = 100_000, few: int = PAGE * EVERY) -> Benchmark:
    return Benchmark(name="console_pages", unit="ms", goal=at_most(1.5), open=partial(_open, many, few), pairs=21)


@asynccontextmanager
async def _open(many: int, few: int, directory: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_with_history(many, directory / "many"))
        theirs = await stack.enter_async_context(_with_history(few, directory / "few"))
        yield Pair(ours, theirs)


@asynccontextmanager
async def _with_history(flows: int, directory: Path) -> AsyncIterator[Side]:
    config = MODULES + CONSOLE
    async with App.open(load_config(await asyncio.to_thread(_written, directory, config))) as app:
        documents = await app.documents()
        await for_each(partial(stored_flow, documents), range(flows))
        middle = await _cursor(documents, flows // 2)
    async with serve(directory, config) as process:
        url = await url_of(directory, process)
        asked = ["", f"&after={middle}", "&outcome=dead", "&type=bench.made"]
        yield partial(_milliseconds, [f"{url}/api/flows?limit={PAGE}{it}" for it in asked])


def _written(directory: Path, config: str) -> Path:
    directory.mkdir()
    file = directory / "ion.yaml"
    file.write_text(config, encoding="utf-8")
    return file


async def _cursor(documents: DocumentStore, number: int) -> str:
    """Where the flow of that number stands in the list of all."""
    async for document in documents.find(EVENT_META, correlation_id=f"flow-{number}", limit=1):
        assert document.cursor is not None
        return document.cursor
    raise RuntimeError(f"there is no flow {number}")


async def _milliseconds(urls: Sequence[str]) -> float:
    begun = time.perf_counter()
    for url in urls:
        found = await asyncio.to_thread(_get, url)
        if len(found["items"]) != PAGE:
            raise RuntimeError(f"{url}: has {len(found['items'])} flows")
    return 1000 * (time.perf_counter() - begun)


def _get(url: str) -> dict[str, list[object]]:
    with urllib.request.urlopen(url) as answer:
        found: dict[str, list[object]] = json.loads(answer.read())
        return found
