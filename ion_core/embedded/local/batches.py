"""Work for threads, taken in batches: whoever asks while others are served shares the next round."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from enum import Enum
from functools import partial
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Alone(Enum):
    """An answer: this request is large, serve it in a batch of its own."""

    ALONE = "alone"


ALONE = Alone.ALONE
Answers = Sequence[A | BaseException | Alone]
"""One for each request, in order."""


class Batches(Generic[Q, A]):
    """Requests of one event loop, served by ``serve`` on threads of ``pool``: ``lanes`` batches of ``size`` at a time.

    A cancelled request that no thread has taken is dropped; one that was taken is waited for, so that nothing
    happens behind the caller's back after its ``ask`` is over.
    """

    def __init__(
        self, serve: Callable[[Sequence[Q]], Answers[A]], pool: Executor, *, size: int = 1024, lanes: int = 4
    ) -> None:
        self._serve = serve
        self._pool = pool
        self._size = size
        self._lanes = lanes
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._alone: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._serving: dict[asyncio.Future[A], asyncio.Future[Answers[A]]] = {}
        self._under_way: set[asyncio.Future[Answers[A]]] = set()
        self._scheduled = False

    async def ask(self, request: Q) -> A:
        answer: asyncio.Future[A] = self._loop.create_future()
        self._waiting.append((request, answer))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)
        try:
            return await answer
        except asyncio.CancelledError:
            if batch := self._serving.get(answer):
                await asyncio.wait({batch})
            raise

    async def drained(self) -> None:
        """Returns once nothing is under way or waiting."""
        while self._under_way or self._scheduled:
            await asyncio.wait(self._under_way) if self._under_way else await asyncio.sleep(0)

    def _pump(self) -> None:
        self._scheduled = False
        while len(self._under_way) < self._lanes:
            if self._alone:
                batch = [self._alone.popleft()]
            else:
                batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            batch = [(request, answer) for request, answer in batch if not answer.cancelled()]
            if not batch:
                if self._waiting or self._alone:
                    continue
                return
            served = self._loop.run_in_executor(self._pool, self._serve, [request for request, _ in batch])
            self._under_way.add(served)
            self._serving.update((answer, served) for _, answer in batch)
            served.add_done_callback(partial(self._answer, batch))

    def _answer(self, batch: list[tuple[Q, asyncio.Future[A]]], served: asyncio.Future[Answers[A]]) -> None:
        self._under_way.discard(served)
        failed = served.exception()
        answers: Answers[A] = [failed] * len(batch) if failed else served.result()
        for (request, answer), given in zip(batch, answers, strict=True):
            self._serving.pop(answer, None)
            if answer.cancelled():
                continue
            if given is ALONE:
                self._alone.append((request, answer))
            elif isinstance(given, BaseException):
                answer.set_exception(given)
            else:
                answer.set_result(given)
        self._pump()
