"""Broken executors: what they keep of what is printed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from ion_core.contracts.executor import Step, StepLogLine
from ion_core.embedded.memory.executor import MemoryExecutor
from ion_core.embedded.memory.logs import MemoryLog
from tests.teeth.executor import (
    executor,
    log,
    shows,
)


@log("logs_are_complete_and_tell_their_step", "_add")
def loses_every_thousandth_line(self: Any, stream: Any, raw: bytes) -> None:
    self.count = getattr(self, "count", 0) + 1
    if self.count % 1000:
        MemoryLog._add(self, stream, raw)


def reading(rule: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function changes a line, or leaves it out."""

    def add(change: Callable[[StepLogLine], StepLogLine | None]) -> Callable[[StepLogLine], StepLogLine | None]:
        async def logs(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
            async for line in MemoryExecutor.logs(self, ref, follow=follow):
                if (changed := change(line)) is not None:
                    yield changed

        logs.__name__ = change.__name__
        executor(rule, "logs")(logs)
        return change

    return add


@reading("logs_are_complete_and_tell_their_step")
def knows_the_module_only(line: StepLogLine) -> StepLogLine | None:
    return line if line.step is Step.MODULE else None


@reading("logs_are_complete_and_tell_their_step")
def knows_no_steps(line: StepLogLine) -> StepLogLine:
    return replace(line, step=Step.MODULE)


@executor("logs_of_jobs_side_by_side_are_complete", "logs")
async def follows_one_at_a_time(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    """And drops what the others print meanwhile."""
    followed = ref.id == next(iter(self.engine.jobs))
    async for line in MemoryExecutor.logs(self, ref, follow=follow):
        if followed or line.step is not Step.MODULE:
            yield line


@executor("logs_of_jobs_side_by_side_are_complete", "logs")
async def has_the_prepare_log_of_another(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    first = next(iter(self.engine.jobs.values())).ref
    async for line in MemoryExecutor.logs(self, ref, follow=follow):
        if line.step is not Step.PREPARE:
            yield line
    async for line in MemoryExecutor.logs(self, first, follow=follow):
        if line.step is Step.PREPARE:
            yield line


@executor("logs_of_what_failed_are_kept", "logs")
async def has_logs_of_what_went_well(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    end = self._job(ref).end
    if end is None or end.cause is None:
        async for line in MemoryExecutor.logs(self, ref, follow=follow):
            yield line


@reading("logs_of_what_failed_are_kept")
def drops_the_last_step(line: StepLogLine) -> StepLogLine | None:
    return line if line.step is not Step.COMMIT else None


@log("streams_are_told_apart_where_offered", "write")
def has_one_stream(self: Any, stream: Any, data: bytes) -> None:
    MemoryLog.write(self, "stdout", data)


@log("streams_are_told_apart_where_offered", "_add")
def strips_lines(self: Any, stream: Any, raw: bytes) -> None:
    if raw.strip():
        MemoryLog._add(self, stream, raw.strip())


shows("boasts_of_none", "streams_are_told_apart_where_offered", streams=False)


@log("a_last_line_needs_no_newline", "close")
def wants_a_newline(self: Any) -> None:
    self._partial = {}
    MemoryLog.close(self)


@log("bytes_that_are_no_utf8_are_replaced", "_add")
def drops_bad_bytes(self: Any, stream: Any, raw: bytes) -> None:
    MemoryLog._add(self, stream, raw.decode(errors="ignore").encode())


@log("a_long_line_stays_one_line", "_add")
def breaks_lines_at_16_kib(self: Any, stream: Any, raw: bytes) -> None:
    for start in range(0, len(raw), 1 << 14):
        MemoryLog._add(self, stream, raw[start : start + (1 << 14)])


@log("output_beyond_the_limit_loses_its_middle", "__init__")
def has_no_limit(self: Any, limit: int) -> None:
    MemoryLog.__init__(self, 1 << 30)


@log("output_beyond_the_limit_loses_its_middle", "_add")
def keeps_the_beginning(self: Any, stream: Any, raw: bytes) -> None:
    if not self._tail:
        MemoryLog._add(self, stream, raw)


@executor("following_shows_lines_as_they_come", "logs")
async def has_logs_afterwards(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    if self._job(ref).end is not None or follow:
        async for line in MemoryExecutor.logs(self, ref, follow=follow):
            yield line


@executor("following_shows_lines_as_they_come", "logs")
async def follows_to_the_end_of_each_step(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    if follow:
        await self._job(ref).ended.wait()
    async for line in MemoryExecutor.logs(self, ref, follow=follow):
        yield line


@executor("following_ends_with_the_job", "logs")
async def follows_nothing(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    async for line in MemoryExecutor.logs(self, ref, follow=False):
        yield line


@executor("following_ends_with_the_job", "logs")
async def follows_for_ever(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
    async for line in MemoryExecutor.logs(self, ref, follow=follow):
        yield line
    if follow:
        await asyncio.Event().wait()


@reading("each_line_tells_its_time")
def has_no_clock(line: StepLogLine) -> StepLogLine:
    return replace(line, at=0.0)
