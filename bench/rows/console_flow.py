"""``console_flow``: how long a large flow takes to be seen: one of 1,000 events, each with its job, in Chromium.

Ours: ``ion-core serve`` with a console and embedded documents; a browser that is open already goes to the page of the
flow, until all that the page needs is loaded, in milliseconds. Theirs: 2,000 ms, which is the goal, so the ratio is how
much of it is used.

The flow is written through the contracts, in the shapes a dispatcher leaves, outside the timing.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.consoles import CONSOLE, serve, url_of
from bench.measure import Benchmark, Pair, Unavailable, at_most
from bench.rows.listing import MODULES, fan
from ion_core.app import App
from ion_core.config import load_config
from ion_core.stores import for_each

GOAL = 2_000.0
"""Milliseconds."""


def benchmark(events: int = 1_000) -> Benchmark:
    return Benchmark(name="console_flow", unit="ms", goal=at_most(1.0), open=partial(_open, events), pairs=9)


@asynccontextmanager
async def _open(events: int, directory: Path) -> AsyncIterator[Pair]:
    try:
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise Unavailable("playwright is not installed") from error
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise Unavailable("there is no Chromium")
    config = MODULES + CONSOLE
    (directory / "ion.yaml").write_text(config, encoding="utf-8")
    async with App.open(load_config(str(directory / "ion.yaml"))) as app:
        await for_each((await app.documents()).put, fan(events - 1))
    async with serve(directory, config) as process, async_playwright() as playwright:
        url = await url_of(directory, process)
        chromium = await playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = await chromium.new_page()

        async def ours() -> float:
            begun = time.perf_counter()
            await page.goto(f"{url}/flows/flow-fan")
            took = 1000 * (time.perf_counter() - begun)
            await page.get_by_text(f"{events:,} events").wait_for()
            await page.goto("about:blank")
            return took

        async def theirs() -> float:
            await asyncio.sleep(0)
            return GOAL

        yield Pair(ours, theirs)
        await chromium.close()
