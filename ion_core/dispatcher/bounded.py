"""Waits that end: clean-up that cancellation does not cut short, and back-off between tries."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Coroutine, Generator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

S = TypeVar("S")
T = TypeVar("T")


def begun(work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
    """A task for ``work``. From Python 3.12 on its first step is made at once: what need not wait is done then."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=asyncio.get_running_loop(), name=name, eager_start=True)
    return asyncio.create_task(work, name=name)


async def uninterrupted(work: Coroutine[Any, Any, T], *, within: float) -> T:
    """The result of ``work``, carried on for up to ``within`` seconds even when the caller is cancelled meanwhile.

    Raises TimeoutError when it took longer. A cancellation of the caller is passed on once the work has ended.
    """
    task = begun(work)
    cancelled: asyncio.CancelledError | None = None
    deadline = asyncio.get_running_loop().time() + within
    while not task.done():
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            if cancelled:
                raise cancelled
            raise TimeoutError(f"not done within {within:g} s")
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled and (task.cancelled() or task.exception() is None):
        raise cancelled
    return task.result()


async def together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All of it at once; the first error once everything is over. Of one piece of work no task is made."""
    if len(work) == 2:
        await side_by_side(*work)
        return
    if len(work) == 1:
        await work[0]
        return
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def side_by_side(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, S]) -> tuple[T, S]:
    """What both return, done at once; the first error once both are over. Cancelled, it cancels both.

    No task is made of ``first``, and none of ``second`` where ``first`` has nothing to wait for: a task costs more
    than what a store says that has its documents in reach.
    """
    try:
        waits_for = first.send(None)
    except StopIteration as end:
        return end.value, await second
    except BaseException:
        await _over(asyncio.ensure_future(second))
        raise
    other = asyncio.ensure_future(second)
    try:
        one = await _Rest(first, waits_for)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            other.cancel()
        await _over(other)
        raise
    return one, await other


async def _over(task: asyncio.Task[Any]) -> None:
    """However it ends: something else is told."""
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


class _Rest(Generic[T]):
    """What is left of ``work``, which has begun in the task that awaits this, and waits for something by now."""

    def __init__(self, work: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._waits_for
        while True:
            try:
                proceed = partial(self._work.send, (yield waits_for))
            except BaseException as error:
                proceed = partial(self._work.throw, error)
            try:
                waits_for = proceed()
            except StopIteration as end:
                return cast("T", end.value)


class Backoff:
    """Seconds to wait after the n-th failure in a row: doubling from ``first`` to ``most``, spread by a fifth."""

    def __init__(self, *, first: float = 0.5, most: float = 30.0) -> None:
        self._first, self._most, self._failures = first, most, 0

    def next(self) -> float:
        seconds = min(self._first * 2.0 ** min(self._failures, 32), self._most)
        self._failures += 1
        return seconds * random.uniform(0.8, 1.2)

    def reset(self) -> None:
        self._failures = 0


async def wait_for_any(*events: asyncio.Event, timeout: float | None = None) -> bool:
    """Until one of the events is set; False if ``timeout`` seconds passed first."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
