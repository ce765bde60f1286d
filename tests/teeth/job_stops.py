"""Broken executors: how they wait, stop and remove."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from ion_core.contracts.executor import Cause, JobEnd, JobState, Step
from ion_core.embedded.memory.executor import MemoryEngine, MemoryExecutor, MemoryJob
from ion_core.errors import ProviderError
from tests.teeth.executor import EXECUTOR, container, ends, engine, executor, job, opening

# Waiting


@executor("wait_is_for_many_and_again", "wait")
async def wait_removes(self: Any, ref: Any) -> JobEnd:
    end = await MemoryExecutor.wait(self, ref)
    await self.remove(ref)
    return end


@executor("cancelling_wait_stops_nothing", "wait")
async def cancelling_wait_kills(self: Any, ref: Any) -> JobEnd:
    try:
        return await MemoryExecutor.wait(self, ref)
    except asyncio.CancelledError:
        await self.stop(ref, grace=timedelta(0))
        raise


@container("nothing_runs_after_wait", "spawn")
def forgets_children(self: Any, child: Any) -> None:
    self.forgotten = asyncio.create_task(child)


@ends("the_end_tells_when_its_steps_began")
def began_everything(end: JobEnd) -> JobEnd:
    return replace(end, began=dict.fromkeys(Step, end.ended_at))


@ends("the_end_tells_when_its_steps_began")
def ended_before_it_began(end: JobEnd) -> JobEnd:
    return replace(end, ended_at=0.0)


# Stopping, removing


@executor("stop_asks_first", "stop")
async def stop_kills(self: Any, ref: Any, *, grace: timedelta) -> None:
    self._job(ref).container.signal(kill=True)
    await MemoryExecutor.stop(self, ref, grace=grace)


@executor("stop_asks_first", "stop")
async def stop_sits_the_grace_out(self: Any, ref: Any, *, grace: timedelta) -> None:
    await asyncio.sleep(grace.total_seconds())
    await MemoryExecutor.stop(self, ref, grace=grace)


@job("stop_asks_first", "stop")
async def commits_what_was_stopped(self: Any, cause: Any, reason: str, *, grace: timedelta) -> None:
    await self._engine.runtime.stop(self.container.ref, grace=grace)
    await self.ended.wait()


@executor("stop_kills_what_does_not_listen", "stop")
async def stop_only_asks(self: Any, ref: Any, *, grace: timedelta) -> None:
    found = self._job(ref)
    found.container.signal(kill=False)
    await found.ended.wait()


EXECUTOR.add(
    "stop_kills_what_does_not_listen",
    "stop_has_no_patience",
    opening(type("Mutant", (MemoryExecutor,), {"stop": stop_kills})),
    short=timedelta(seconds=5),  # longer than a busy machine takes for all of it
)


@executor("stop_kills_what_does_not_listen", "stop")
async def stop_does_not_wait(self: Any, ref: Any, *, grace: timedelta) -> None:
    self.stopping = asyncio.create_task(MemoryExecutor.stop(self, ref, grace=grace))
    await asyncio.sleep(grace.total_seconds())


def unstopped(step: Step) -> Callable[..., Any]:
    async def stop(self: Any, cause: Any, reason: str, *, grace: timedelta) -> None:
        if self.step is step:
            await self.ended.wait()
        await MemoryJob.stop(self, cause, reason, grace=grace)

    stop.__name__ = f"waits_for_the_end_of_{step.value}"
    return stop


job("stop_while_it_is_queued", "stop")(unstopped(Step.QUEUED))
job("stop_while_it_prepares", "stop")(unstopped(Step.PREPARE))
job("stop_while_it_commits", "stop")(unstopped(Step.COMMIT))


@executor("stop_while_it_is_queued", "stop")
async def knows_running_ones_only(self: Any, ref: Any, *, grace: timedelta) -> None:
    if self._job(ref).step is not Step.QUEUED:
        await MemoryExecutor.stop(self, ref, grace=grace)


@ends("stop_while_it_commits")
def takes_it_for_a_commit(end: JobEnd) -> JobEnd:
    return replace(end, cause=None)


@executor("stop_of_what_does_not_run_is_fine", "stop")
async def stop_insists(self: Any, ref: Any, *, grace: timedelta) -> None:
    if self._job(ref).state is JobState.ENDED:
        raise ProviderError("has ended")
    await MemoryExecutor.stop(self, ref, grace=grace)


@executor("stop_of_what_does_not_run_is_fine", "stop")
async def stop_misses_the_gone(self: Any, ref: Any, *, grace: timedelta) -> None:
    self._job(ref)
    await MemoryExecutor.stop(self, ref, grace=grace)


@executor("stop_of_what_does_not_run_is_fine", "stop")
async def stop_ends_what_never_began(self: Any, ref: Any, *, grace: timedelta) -> None:
    if ref.id in self.engine.jobs:
        await self.engine.jobs[ref.id].stop(Cause.CANCELLED, "it was stopped", grace=grace)


@executor("stop_of_what_does_not_run_is_fine", "stop")
async def stop_changes_the_end(self: Any, ref: Any, *, grace: timedelta) -> None:
    found = self.engine.jobs.get(ref.id)
    if found is not None and found.end is not None:
        found.end = replace(found.end, cause=Cause.CANCELLED)
    await MemoryExecutor.stop(self, ref, grace=grace)


@executor("remove_ends_what_runs", "remove")
async def remove_forgets(self: Any, ref: Any) -> None:
    self.engine.jobs.pop(ref.id, None)


@executor("remove_ends_what_runs", "remove")
async def remove_refuses(self: Any, ref: Any) -> None:
    if ref.id in self.engine.jobs and self.engine.jobs[ref.id].state is JobState.STARTED:
        raise ProviderError("is running")
    await MemoryExecutor.remove(self, ref)


@executor("remove_leaves_nothing", "remove")
async def remove_stops_only(self: Any, ref: Any) -> None:
    await self.stop(ref, grace=timedelta(0))


@engine("remove_leaves_nothing", "remove")
async def remove_tells_nobody(self: Any, removed: Any) -> None:
    self.jobs.pop(removed.ref.id, None)
    removed.container.signal(kill=True)
    await self.runtime.remove(removed.container.ref)
    removed.ended = asyncio.Event()


@engine("remove_leaves_nothing", "remove")
async def remove_keeps_the_name(self: Any, removed: Any) -> None:
    await MemoryEngine.remove(self, removed)
    self.jobs["kept"] = removed


@executor("remove_of_what_is_gone_is_fine", "remove")
async def remove_misses_the_gone(self: Any, ref: Any) -> None:
    await self.engine.remove(self._job(ref))
