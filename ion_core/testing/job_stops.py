"""Rules of the executor kit: waiting for jobs, stopping and removing them."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path

from ion_core.contracts.executor import Cause, Executor, JobState, Step, StepLogLine
from ion_core.contracts.runtime import ExitStatus
from ion_core.errors import JobNotFound
from ion_core.testing.jobs import NOBODY, ExecutorKit, Jobs, Made
from ion_core.testing.kit import needs, refused
from ion_core.testing.programs import READY

NOTHING = timedelta(0)
LONG = timedelta(minutes=10)


async def _first_line(executor: Executor, made: Made) -> StepLogLine:
    async for line in executor.logs(made.ref, follow=True):
        return line
    raise AssertionError("the log of a job that runs has no line")


class StopRules(ExecutorKit):
    """Whichever step a job is at."""

    async def test_wait_is_for_many_and_again(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs, self.reopen() as another:
            made = await jobs.running(self.hangs(on_term=7))
            await self.within(
                _first_line(another, made), "a line, for another process"
            )  # which knows of it from then on
            waiting = [asyncio.create_task(jobs.end(made.ref)) for _ in range(2)]
            waiting.append(asyncio.create_task(self.within(another.wait(made.ref), "the end, for another process")))
            await self.within(executor.stop(made.ref, grace=LONG), "stop")
            found = [*(await asyncio.gather(*waiting)), await jobs.end(made.ref), await jobs.end(made.ref)]
            assert {(end.step, end.cause) for end in found} == {(Step.MODULE, Cause.CANCELLED)}
            assert found[0] == found[1] == found[3] == found[4]

    async def test_cancelling_wait_stops_nothing(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            await self.stays_quiet(executor.wait(made.ref), "it goes on")  # and then cancels
            await self.stays_quiet(executor.wait(made.ref), "it goes on after a wait was cancelled")
            assert await jobs.state(made.spec) is JobState.STARTED

    @needs("shared")
    async def test_nothing_runs_after_wait(self, executor: Executor, tmp_path: Path) -> None:
        assert self.shared is not None
        path = self.shared(tmp_path) / self.fresh("tick")
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.leaves_a_child_touching(path))
            assert ran.end.cause is None, ran.end
            await self.nothing_touches(path)

    async def test_the_end_tells_when_its_steps_began(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            for ran, last in (
                (await jobs.run(self.exits_with(0)), Step.COMMIT),
                (await jobs.run(self.exits_with(1)), Step.MODULE),
            ):
                steps = [Step.PREPARE, Step.MODULE, Step.COMMIT][: 3 if last is Step.COMMIT else 2]
                began = [ran.end.began[it] for it in steps if it in ran.end.began]
                assert ran.end.began.keys() <= {Step.QUEUED, *steps}, "it tells of a step that never began"
                assert began == sorted(began)
                assert ran.end.ended_at is None or not began or ran.end.ended_at >= began[-1]

    async def test_stop_asks_first(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            await self.within(executor.stop(made.ref, grace=LONG), "the end of what ends by SIGTERM")
            assert await jobs.state(made.spec) is JobState.ENDED, "stop returns once it has ended"
            ran = await jobs.ran(made)
            assert (ran.end.step, ran.end.cause) == (Step.MODULE, Cause.CANCELLED), ran.end
            assert ran.end.status in (None, ExitStatus(code=0)), "it ended by itself when it was asked"
            assert not ran.records, "what was stopped was committed"

    async def test_stop_kills_what_does_not_listen(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.ignores_term())
            loop = asyncio.get_running_loop()
            asked = loop.time()
            await self.within(executor.stop(made.ref, grace=self.short), "the end of what ignores SIGTERM")
            assert loop.time() - asked >= self.short.total_seconds() - 0.01, "the grace must be waited for"
            assert await jobs.state(made.spec) is JobState.ENDED, "stop returns once it has ended"
            assert (await jobs.end(made.ref)).cause is Cause.CANCELLED

    @needs("hold_queued")
    async def test_stop_while_it_is_queued(self, executor: Executor, tmp_path: Path) -> None:
        assert self.hold_queued is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.prints_lines(1))
            await self.stops_in_time(jobs, executor, made, self.hold_queued(executor), {Step.QUEUED})
            ran = await jobs.ran(made)
            assert ran.end.cause is Cause.CANCELLED
            assert ran.text(Step.MODULE) == []

    @needs("hold_prepare")
    async def test_stop_while_it_prepares(self, executor: Executor, tmp_path: Path) -> None:
        assert self.hold_prepare is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.prints_lines(1))
            await self.stops_in_time(jobs, executor, made, self.hold_prepare(executor), {Step.QUEUED, Step.PREPARE})
            ran = await jobs.ran(made)
            assert ran.end.cause is Cause.CANCELLED
            assert ran.text(Step.MODULE) == []

    @needs("hold_commit")
    async def test_stop_while_it_commits(self, executor: Executor, tmp_path: Path) -> None:
        assert self.hold_commit is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.leaves({"out/data/made": b"made"}))
            await self.stops_in_time(jobs, executor, made, self.hold_commit(executor), {Step.MODULE, Step.COMMIT})
            ran = await jobs.ran(made)
            assert ran.end.cause is (None if ran.end.step is Step.COMMIT and ran.records else Cause.CANCELLED)
            for record in ran.records:
                assert await jobs.output(record, "made") == b"made", "a commit that counts is whole"

    async def stops_in_time(
        self, jobs: Jobs, executor: Executor, made: Made, hold: AbstractAsyncContextManager[None], steps: set[Step]
    ) -> None:
        """Held there, it has ended when stop returns, and tells a step of these."""
        async with hold:
            await self.within(executor.start(made.ref, made.ticket), "start")
            if Step.COMMIT in steps:
                await jobs.says(made.ref, READY)
            await self.stays_quiet(executor.wait(made.ref), "it is held")
            await self.within(executor.stop(made.ref, grace=self.short), "stop")
            end = await self.within(executor.wait(made.ref), "the end of the job")
        assert end.step in steps, end

    async def test_stop_of_what_does_not_run_is_fine(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ended = await jobs.run(self.exits_with(3))
            for _ in range(2):
                await self.within(executor.stop(ended.made.ref, grace=NOTHING), "stop of what has ended")
            assert await jobs.end(ended.made.ref) == ended.end
            created = await jobs.made(self.exits_with(0))
            await self.within(executor.stop(created.ref, grace=NOTHING), "stop of what was never started")
            await self.within(executor.start(created.ref, created.ticket), "start of what was stopped before it")
            assert (await jobs.end(created.ref)).cause is None
            await self.within(executor.remove(ended.made.ref), "remove")
            for gone in (ended.made.ref, NOBODY):
                await self.within(executor.stop(gone, grace=NOTHING), "stop of what is gone")

    @needs("shared")
    async def test_remove_ends_what_runs(self, executor: Executor, tmp_path: Path) -> None:
        assert self.shared is not None
        path = self.shared(tmp_path) / self.fresh("tick")
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.touches(path))
            await self.within(executor.remove(made.ref), "remove")
            await self.nothing_touches(path)
            assert not await jobs.records(made.ticket)

    async def test_remove_leaves_nothing(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ended = await jobs.run(self.exits_with(0))
            running = await jobs.running(self.hangs(on_term=0))
            created = await jobs.made(self.exits_with(0))
            async with self.waiting(executor, running.ref) as end:
                await self.within(executor.remove(running.ref), "remove")
                assert (await end()).cause is Cause.CANCELLED, "who waits for it is told"
            for made in (ended.made, running, created):
                await self.within(executor.remove(made.ref), "remove")
                assert await jobs.status(made.spec) is None
                with refused(JobNotFound, of="wait for what was removed"):
                    await self.within(executor.wait(made.ref), "refusing it")
                if self.listed is not None:
                    assert made.spec.name not in await self.listed(executor), "the engine still shows it"
            again = await jobs.run(jobs.spec(self.exits_with(0), job_name=ended.made.spec.name))
            assert again.end.cause is None, "its name may be used again"

    async def test_remove_of_what_is_gone_is_fine(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.exits_with(0))
            for ref in (made.ref, made.ref, NOBODY):
                await self.within(executor.remove(ref), "remove")
            assert await jobs.status(made.spec) is None
