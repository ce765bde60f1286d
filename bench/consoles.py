"""``ion-core serve`` with a console, and the page that is open on it: what the rows of ion-console share.

Run as a program, ``python -m bench.consoles URL``, it is that page as a browser has it open: told what changed,
it asks for itself anew, no more often than once a second, and 50 times as seldom as long as that took.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from bench.measure import Unavailable
from bench.serving import ROOT, WITHIN, line, started

CONSOLE = """
services: {console: {listen: "127.0.0.1:0", auth: none}}
"""
AT_MOST_EVERY = 1.0
"""Seconds from one look of the page to the next."""
SHARE = 50
"""As seldom as that many times a look takes."""
_CHECK_EVERY = 0.05


@asynccontextmanager
async def serve(directory: Path, config: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """``ion-core serve`` with this configuration, written into ``directory``."""
    if find_spec("ion_console") is None:
        raise Unavailable("ion-console is not installed")
    (directory / "ion.yaml").write_text(config, encoding="utf-8")
    program = str(Path(sys.executable).with_name("ion-core"))
    async with started(directory / "serve.log", directory, program, "serve", "--config", "ion.yaml") as process:
        yield process


async def url_of(directory: Path, process: asyncio.subprocess.Process) -> str:
    """Where the console of what is served there listens, once it does."""
    async with asyncio.timeout(WITHIN):
        while (found := re.search(r"the console listens url=(\S+)\n", await _log(directory))) is None:
            if process.returncode is not None:
                raise RuntimeError(f"ion-core serve ended with {process.returncode}")
            await asyncio.sleep(_CHECK_EVERY)
    return found[1]


@asynccontextmanager
async def page(directory: Path, url: str) -> AsyncIterator[None]:
    """A page that is open on that console."""
    async with started(directory / "page.log", ROOT, sys.executable, "-m", "bench.consoles", url) as process:
        await line(process)
        yield


async def _log(directory: Path) -> str:
    return await asyncio.to_thread((directory / "serve.log").read_text, encoding="utf-8")


async def _page(url: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=None)) as client:
        told = asyncio.Event()

        async def look() -> None:
            while True:
                await told.wait()
                told.clear()
                begun = time.perf_counter()
                async with client.get("/flows", headers={"Accept": "text/html"}) as answer:
                    answer.raise_for_status()
                    await answer.read()
                taken = time.perf_counter() - begun
                await asyncio.sleep(max(AT_MOST_EVERY, SHARE * taken))

        async with client.get("/api/changes/digest", params={"every": "1"}) as stream:
            looking = asyncio.create_task(look())
            print("open", flush=True)
            async for text in stream.content:
                if text.startswith(b"event: "):
                    told.set()
                if looking.done():
                    looking.result()


if __name__ == "__main__":
    asyncio.run(_page(sys.argv[1]))
