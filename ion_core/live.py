"""What a running ``serve`` tells other processes of the same user: jobs under way, and their output.

A unix socket in the state directory, which nobody else may enter. It is asked, in a line

- ``{"follow": EVENT_ID, "wait": false}`` and answers ``{}``, then ``{"module": …, "attempt": …, "text": …}`` for each
  line of output; the answer ends with the jobs;
- ``{"running": EVENT_ID}`` and answers ``{}``, then ``{"module": …, "attempt": …, "since": …}`` for each that runs.

The last line of a whole answer is ``{"end": true}``: whoever hangs up without it has died, or what it told of has.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NAME = "live.sock"


def name_of(worker: int) -> str:
    """That of one of several workers, which the ``serve`` of the state directory asks."""
    return f"live-{worker}.sock"


ASK_WITHIN = 10.0
TOLD_WITHIN = 2.0
_END = {"end": True}
LONGEST_LINE = 1 << 22
"""Bytes of one line of the answer: a line of output can be long."""

Follow = Callable[[str, bool], AsyncIterator[Mapping[str, Any]]]
Running = Callable[[str], Sequence[Mapping[str, Any]]]


def forget_workers(state: Path) -> None:
    """Remove what workers left that were killed. Only for whoever holds the state directory, before it has any."""
    for path in state.glob("live-*.sock"):
        path.unlink(missing_ok=True)


@asynccontextmanager
async def telling(state: Path, follow: Follow, running: Running, *, name: str = NAME) -> AsyncIterator[None]:
    """Answer in ``state`` while the body runs. Where that cannot be, it is logged: nobody can watch, no more.

    Only one process may do this at a time for a state directory and a ``name``; what an earlier one left is replaced.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_WITHIN):
                asked = json.loads(await reader.readline())
            if "running" in asked:
                lines = _each(running(str(asked["running"])))
            else:
                lines = follow(str(asked["follow"]), bool(asked["wait"]))
            await _tell(lines, reader, writer)
        except asyncio.CancelledError:  # nothing runs here any more, and nothing will
            writer.write(_line(_END))
            raise
        except (OSError, TimeoutError, ValueError, LookupError, TypeError) as error:
            log.debug("a watcher is gone: %s", error)
        finally:
            writer.close()

    conversations: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(answer(reader, writer), name="a watcher")
        conversations.add(conversation)
        conversation.add_done_callback(conversations.discard)

    server = None
    try:
        with _short(state, name) as path:
            with suppress(FileNotFoundError):
                (state / name).unlink()
            server = await asyncio.start_unix_server(accept, path)
            (state / name).chmod(0o600)
    except OSError as error:
        log.warning("`ion-core logs --follow` will not work: %s: %s", state / name, error.strerror or error)
    try:
        yield
    finally:
        if server is not None:
            server.close()
            with suppress(FileNotFoundError):
                (state / name).unlink()
        for conversation in list(conversations):
            conversation.cancel()
        if conversations:
            await asyncio.wait(conversations)


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"


async def _each(found: Sequence[Mapping[str, Any]]) -> AsyncIterator[Mapping[str, Any]]:
    for it in found:
        yield it


async def _tell(
    lines: AsyncIterator[Mapping[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Line by line, at the watcher's pace, until it hangs up."""

    async def write() -> None:
        writer.write(b"{}\n")
        await writer.drain()
        async for line in lines:
            writer.write(_line(line))
            await writer.drain()
        writer.write(_line(_END))
        await writer.drain()

    writing, hanging_up = asyncio.create_task(write()), asyncio.create_task(reader.read())
    try:
        await asyncio.wait({writing, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            await writing
    finally:
        for task in (writing, hanging_up):
            task.cancel()
        await asyncio.wait({writing, hanging_up})


async def watch(state: Path, event_id: str, *, wait: bool, name: str = NAME) -> AsyncIterator[Mapping[str, Any]]:
    """Lines of the jobs under way for this event, as they come, after an empty one that says we are heard.

    Nothing at all where no ``serve`` uses ``state``. Raises ConnectionAbortedError where that one, or who runs a job
    for it, dies before the jobs have ended.
    """
    async for line in _asked(state, {"follow": event_id, "wait": wait}, name):
        yield line


async def running_now(state: Path, event_id: str) -> Sequence[Mapping[str, Any]] | None:
    """The jobs whose modules run for this event; None where no ``serve`` of this version uses ``state``, or it is busy.

    It is asked for as long as somebody would wait for it.
    """
    try:
        async with asyncio.timeout(TOLD_WITHIN):
            found = [line async for line in _asked(state, {"running": event_id})]
    except (OSError, TimeoutError, ValueError):
        return None
    return found[1:] if found else None


async def _asked(state: Path, question: Mapping[str, Any], name: str = NAME) -> AsyncIterator[Mapping[str, Any]]:
    try:
        with _short(state, name) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST_LINE)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    try:
        writer.write(_line(question))
        await writer.drain()
        while (line := await reader.readline()).endswith(b"\n"):
            said = json.loads(line)
            if said == _END:
                return
            yield said
    except ConnectionError as error:
        raise ConnectionAbortedError(str(error)) from error
    finally:
        writer.close()
    raise ConnectionAbortedError("it hung up in the midst of its answer")


@contextmanager
def _short(state: Path, name: str) -> Iterator[str]:
    """The socket's path, however deep the directory lies: a path given to a socket is 107 bytes long at most."""
    descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        plain = str(state / name)
        yield plain if len(os.fsencode(plain)) < 100 else f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
