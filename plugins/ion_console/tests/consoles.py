"""A console that listens, before the host of the kit, and a `serve` that has one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from ion_console.console import Console
from ion_console.settings import ConsoleSettings
from ion_core.contracts.settings import Section
from ion_core.testing import serve
from ion_core.testing.host import Host
from ion_core.testing.serve import Serve

LOOK, MEND = "look-canary-0123456789", "mend-canary-0123456789"
TOKENS = {"tokens": {"look": LOOK, "mend": MEND}}


def settings(**given: Any) -> ConsoleSettings:
    who = {} if {"tokens", "auth"} & set(given) else {"auth": "none"}
    return ConsoleSettings.model_validate(
        {"listen": "127.0.0.1:0", **who, **given}, context={"section": Section(key="services.console")}
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Running:
    """One that is ready, with a client before it and its host behind it."""

    def __init__(self, console: Console, host: Any, client: aiohttp.ClientSession) -> None:
        self.console, self.host, self.client = console, host, client
        self.stop = asyncio.Event()

    async def ask(self, path: str, method: str = "GET", **how: Any) -> tuple[int, Any, Any]:
        """Status, JSON and headers of the answer."""
        async with self.client.request(method, self.console.url + path, **how) as answer:
            body = await answer.read()
            return (
                answer.status,
                json.loads(body) if body and "json" in answer.content_type else body.decode(),
                answer.headers,
            )


@asynccontextmanager
async def running(work: Path, host: Any = None, **given: Any) -> AsyncIterator[Running]:
    work.mkdir(exist_ok=True)  # noqa: ASYNC240
    console, ready = Console(settings(**given)), asyncio.Event()
    async with aiohttp.ClientSession() as client:
        it = Running(console, host or Host(work, taken=("photo.received",)), client)
        task = asyncio.create_task(console.run(it.host, it.stop, ready))
        try:
            readying = asyncio.create_task(ready.wait())
            async with asyncio.timeout(20):
                await asyncio.wait({task, readying}, return_when=asyncio.FIRST_COMPLETED)
            readying.cancel()
            if task.done():
                task.result()
            yield it
        finally:
            it.stop.set()
            async with asyncio.timeout(20):
                await task


class Served(Serve):
    """``token`` is given where it is not ''."""

    token = ""

    def curl(self, path: str, *arguments: str) -> tuple[int, str]:
        """Status and body."""
        given = ["-H", f"Authorization: Bearer {self.token}"] if self.token else []
        return self.curled(*given, *arguments, self.url + path)

    def get(self, path: str, *arguments: str) -> Any:
        status, body = self.curl(path, *arguments)
        assert status == 200, (status, body)
        return json.loads(body)


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Served]:
    with serve.serving(directory, "console", *options, start_new_session=True) as it:
        yield Served(it.directory, it.url, it.process)
