"""``ion-core serve`` and the programs of ``bench.bare`` as processes: what the rows of ion-gateway share.

The one module sleeps over the first event for ever, so that all others wait and nothing but taking them in is measured.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.embedded import EVENT_TYPE
from bench.measure import Unavailable

if TYPE_CHECKING:
    import aio_pika

ROOT = Path(__file__).resolve().parents[1]
QUEUE = "ion.q.sleeper"
CONFIG = """
drain_timeout: 1s
modules:
  sleeper: {{command: [sh, -c, "touch {asleep}; exec sleep infinity"], source: ., subscribes: [{type}], timeout: 25m}}
"""
WITHIN = 600.0
"""Seconds within which whatever is waited for comes."""


@asynccontextmanager
async def started(log: Path, cwd: Path, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """That command, which is told to end when the body is through. What it says on stderr goes into ``log``."""
    with log.open("ab") as said:
        process = await asyncio.create_subprocess_exec(*command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=said)
    try:
        yield process
    except Exception as error:
        error.add_note(log.read_text(errors="replace")[-2000:])  # noqa: ASYNC240 - nothing is timed any more
        raise
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@asynccontextmanager
async def serve(directory: Path, config: str, port: int | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """``ion-core serve`` with ``config`` beside the module; once it listens on ``port``, if that is given."""
    if find_spec("ion_gateway") is None:
        raise Unavailable("ion-gateway is not installed")
    text = CONFIG.format(asleep=directory / "asleep", type=EVENT_TYPE)
    (directory / "ion.yaml").write_text(text + config, encoding="utf-8")
    program = str(Path(sys.executable).with_name("ion-core"))
    async with started(directory / "serve.log", directory, program, "serve", "--config", "ion.yaml") as process:
        if port is not None:
            await _listening(port, process)
        yield process


@asynccontextmanager
async def bare(directory: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of ``bench.bare``, once it has said that it is ready."""
    async with started(directory / "bare.log", ROOT, sys.executable, "-m", "bench.bare", *arguments) as process:
        await line(process)
        yield process


async def asleep(directory: Path, process: asyncio.subprocess.Process) -> None:
    """Once the module of ``serve`` has the first event: all later ones wait in its queue."""
    async with asyncio.timeout(WITHIN):
        while not (directory / "asleep").exists():
            _check_runs(process)
            await asyncio.sleep(0.05)


async def line(process: asyncio.subprocess.Process) -> str:
    """The next one that it prints."""
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN):
        found = await process.stdout.readline()
    if not found:
        raise RuntimeError(f"it ended with {await process.wait()}")
    return found.decode().rstrip("\n")


async def ready(channel: aio_pika.abc.AbstractChannel, queue: str, count: int) -> None:
    """Once so many messages are ready in a queue of RabbitMQ."""
    async with asyncio.timeout(WITHIN):
        while await _count(channel, queue) < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def _count(channel: aio_pika.abc.AbstractChannel, queue: str) -> int:
    return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0


async def _listening(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(WITHIN):
        while True:
            _check_runs(process)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def _check_runs(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        raise RuntimeError(f"ion-core serve ended with {process.returncode}")
