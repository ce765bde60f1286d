"""A console that listens, before the host of the kit, and a `serve` that has one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from ion_console.console import Console
from ion_console.settings import ConsoleSettings
from ion_core.contracts.settings import Section
from ion_core.testing.host import Host

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
            return answer.status, json.loads(body) if "json" in answer.content_type else body.decode(), answer.headers


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


ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}


class Served:
    """A `serve` in ``directory``; ``token`` is given where it is not ''."""

    def __init__(self, directory: Path, url: str, process: subprocess.Popen[bytes]) -> None:
        self.directory, self.url, self.process = directory, url, process
        self.token = ""

    def curl(self, path: str, *arguments: str) -> tuple[int, str]:
        """Status and body."""
        given = ["-H", f"Authorization: Bearer {self.token}"] if self.token else []
        ran = subprocess.run(
            ["curl", "-sS", "-w", "\n%{http_code}", *given, *arguments, self.url + path],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        body, _, status = ran.stdout.rpartition("\n")
        return int(status), body

    def get(self, path: str, *arguments: str) -> Any:
        status, body = self.curl(path, *arguments)
        assert status == 200, (status, body)
        return json.loads(body)

    def ion(self, *arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "ion_core", *arguments],
            cwd=self.directory,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return ran.stdout

    def until(self, condition: Callable[[], Any], *, within: float = 60) -> None:
        """Once it holds, for what tells nobody when it changes."""
        until = time.monotonic() + within
        while not condition():
            over = self.process.poll() is not None or time.monotonic() > until
            assert not over, (self.directory / "serve.log").read_text()
            time.sleep(0.05)


@contextmanager
def serving(directory: Path) -> Iterator[Served]:
    log = directory / "serve.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "ion_core", "serve"],
            cwd=directory,
            env=ENVIRONMENT,
            stderr=stderr,
            start_new_session=True,
        ) as process,
    ):
        try:
            until, found = time.monotonic() + 60, None
            while found is None and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
                found = re.search(r"the console listens url=(\S+)\n", log.read_text())
            assert found is not None, log.read_text()
            yield Served(directory, found[1], process)
        finally:
            process.terminate()
            process.wait(60)
