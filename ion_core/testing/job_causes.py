"""Rules of the executor kit: why a job ended, for each cause there is."""

from __future__ import annotations

from pathlib import Path
from signal import SIGSEGV

from ion_core.contracts.executor import Cause, Executor, HandlerExit, JobState, Step
from ion_core.contracts.runtime import Resources
from ion_core.errors import ImageUnavailable, NoRoom, PermanentError
from ion_core.events import Context, Event
from ion_core.testing.jobs import ExecutorKit, Jobs, Made
from ion_core.testing.kit import needs, refused

NO_IMAGE = "Not An Image!"
NO_PROGRAM = "/no/such/program"


class CauseRules(ExecutorKit):
    """A job that ends otherwise than by a commit says at which step, and why."""

    async def test_exit_codes_are_data(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            for code in (1, 3, 126, 255):
                ran = await jobs.run(self.exits_with(code))
                assert (ran.end.step, ran.end.cause) == (Step.MODULE, Cause.MODULE)
                assert ran.end.status is not None
                assert ran.end.status.code == code
                assert not ran.records, "a failed module was committed"

    async def test_a_death_by_signal_is_told(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            end = (await jobs.run(self.dies_by(SIGSEGV))).end
            assert (end.step, end.cause) == (Step.MODULE, Cause.MODULE)
            assert end.status is not None
            assert (end.status.code, end.status.signal) == (128 + SIGSEGV, SIGSEGV)

    async def test_a_timeout_is_the_modules(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            for command in (self.hangs(on_term=0), self.ignores_term()):
                ran = await jobs.run(command, timeout=self.short)
                assert (ran.end.step, ran.end.cause) == (Step.MODULE, Cause.MODULE), ran.end
                assert f"timed out after {self.short.total_seconds():g} s" in ran.end.reason
                assert not ran.records, "what timed out was committed"

    @needs("limits_memory")
    async def test_a_memory_limit_is_told(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.takes_memory(), resources=Resources(memory=64 << 20))
            assert (ran.end.step, ran.end.cause) == (Step.MODULE, Cause.LIMIT), ran.end
            assert "memory" in ran.end.reason
            assert not ran.records

    async def test_a_refused_output_names_every_entry(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.leaves({"out/events/one.json": b"{", "out/events/two.json": b"[]"}))
            assert (ran.end.step, ran.end.cause) == (Step.COMMIT, Cause.OUTPUT_REFUSED), ran.end
            assert ran.end.status is not None
            assert ran.end.status.code == HandlerExit.OUTPUT_REFUSED.value
            assert "one.json" in ran.end.reason
            assert "two.json" in ran.end.reason
            assert not ran.records

    async def test_an_event_that_is_not_stored_runs_no_module(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            nowhere = Context(name="kit", event_id=self.fresh("event"), correlation_id=self.fresh("flow"))
            ran = await jobs.run(self.prints_lines(1), event=Event(context=nowhere, type="kit.made"))
            assert (ran.end.step, ran.end.cause) == (Step.PREPARE, Cause.REFUSED), ran.end
            assert ran.end.status is not None
            assert ran.end.status.code == HandlerExit.NO_EVENT.value
            assert nowhere.event_id in ran.end.reason
            assert ran.text(Step.MODULE) == []

    @needs("stores_away")
    async def test_stores_that_are_away_are_infrastructure(self, executor: Executor, tmp_path: Path) -> None:
        assert self.stores_away is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.prints_lines(1))
            async with self.stores_away(tmp_path):
                await self.within(executor.start(made.ref, made.ticket), "start")
                end = await jobs.end(made.ref)
            assert end.step in (Step.PREPARE, Step.COMMIT), end
            assert end.cause is Cause.INFRASTRUCTURE, end
            assert end.status is not None
            assert end.status.code in (HandlerExit.AWAY.value, HandlerExit.FULL.value)
            assert end.reason, "it must tell what the step said"
            ran = await jobs.ran(made)
            assert not ran.records
            assert bool(ran.text(Step.MODULE)) is (end.step is Step.COMMIT), "a module runs once it is prepared"

    @needs("missing_image")
    async def test_a_missing_image_is_told(self, executor: Executor, tmp_path: Path) -> None:
        assert self.missing_image is not None
        async with self.jobs(executor, tmp_path) as jobs:
            try:
                end = (await jobs.run(self.exits_with(0), image=self.missing_image)).end
            except ImageUnavailable as error:
                words = str(error)
            else:
                assert end.cause is Cause.IMAGE, end
                assert end.step is not Step.COMMIT
                words = end.reason
            assert self.missing_image in words, f"it must name the image: {words}"

    @needs("missing_image")
    async def test_what_is_no_name_of_an_image_is_refused_at_once(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            spec = jobs.spec(self.exits_with(0), image=NO_IMAGE)
            with refused(ImageUnavailable, naming=NO_IMAGE):
                await jobs.create(spec)
            assert await jobs.state(spec) is None

    async def test_a_missing_program_is_never_tried_again(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            try:
                end = (await jobs.run((NO_PROGRAM,))).end
            except PermanentError as error:
                words = str(error)
            else:
                assert end.step is Step.MODULE, end
                code = None if end.status is None else end.status.code
                assert end.cause is Cause.REFUSED or (end.cause is Cause.MODULE and code in (126, 127)), end
                words = end.reason
            assert NO_PROGRAM in words, f"it must name the program: {words}"

    @needs("lose_node")
    async def test_a_lost_node_is_infrastructure(self, executor: Executor, tmp_path: Path) -> None:
        assert self.lose_node is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            await self.within(self.lose_node(executor, made.ref), "losing the node")
            await self.ended_for(jobs, made, Cause.INFRASTRUCTURE)

    @needs("evict")
    async def test_an_evicted_job_is_infrastructure(self, executor: Executor, tmp_path: Path) -> None:
        assert self.evict is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            await self.within(self.evict(executor, made.ref), "evicting the job")
            await self.ended_for(jobs, made, Cause.INFRASTRUCTURE)

    @needs("delete")
    async def test_what_others_delete_is_cancelled(self, executor: Executor, tmp_path: Path) -> None:
        assert self.delete is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            async with self.waiting(executor, made.ref) as end:
                await self.within(self.delete(executor, made.ref), "deleting the job")
                assert (await end()).cause is Cause.CANCELLED
            assert not await jobs.records(made.ticket), "what was deleted was committed"

    @needs("fill")
    async def test_no_room_is_told(self, executor: Executor, tmp_path: Path) -> None:
        assert self.fill is not None
        async with self.jobs(executor, tmp_path) as jobs:
            event = await jobs.event()
            spec = jobs.spec(self.exits_with(0))
            async with self.fill(executor):
                with refused(NoRoom):
                    await jobs.started(spec, event=event)
            ran = await jobs.run(spec, event=event)
            assert ran.end.cause is None, "there is room again"

    @needs("forbid")
    async def test_a_policy_is_told(self, executor: Executor, tmp_path: Path) -> None:
        assert self.forbid is not None
        async with self.jobs(executor, tmp_path) as jobs:
            spec = jobs.spec(self.exits_with(0))
            async with self.forbid(executor):
                try:
                    end = (await jobs.run(spec)).end
                except PermanentError as error:
                    other_cause, words = isinstance(error, ImageUnavailable), str(error)
                else:
                    other_cause, words = end.cause is not Cause.REFUSED, end.reason
            assert not other_cause, f"it is told as something else: {words}"
            assert words.replace(spec.name, "").strip(" :."), "it must tell the engine's words"

    async def ended_for(self, jobs: Jobs, made: Made, cause: Cause) -> None:
        end = await jobs.end(made.ref)
        assert end.cause is cause, end
        assert end.reason, "it must tell the engine's words"
        assert await jobs.state(made.spec) is JobState.ENDED
        assert not await jobs.records(made.ticket)
