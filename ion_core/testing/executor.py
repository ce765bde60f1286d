"""The executor kit: ``docs/contracts/executors.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core import strict_json
from ion_core.contracts.executor import Cause, Executor, JobState, Step
from ion_core.errors import IonError, JobNotFound, PermanentError, TransientError
from ion_core.events import pairs_to_json
from ion_core.testing.job_causes import CauseRules
from ion_core.testing.job_logs import JobLogRules
from ion_core.testing.job_stops import StopRules
from ion_core.testing.jobs import EMITTED, NOBODY, STARTED_AT, ExecutorKit, other, together
from ion_core.testing.kit import needs, refused
from ion_core.testing.programs import BASE

LONGEST_NAME = 52
LONGEST_MODULE = 63
LONG_ID = 300
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ODD = {
    "DOLLARS": "$HOME ${HOME} $$ $(HOME) $$(HOME) $((1+1)) `id`",
    "QUOTES": """ "double" 'single' \\ back\\slash \\n """,
    "WIDE": "grüß 🙂",
    "EMPTY": "",
    "BRACES": "{{ .Values }} {0} %s %(a)s",
}
"""Values that shells, templates and engines would like to change."""


class MakingRules(ExecutorKit):
    """From create to start."""

    async def test_an_executor_that_isolates_nothing_says_so(self, executor: Executor) -> None:
        capabilities = executor.capabilities
        assert capabilities.isolates or capabilities.notice, "an executor that does not isolate must have a notice"
        assert capabilities.images or self.image is None
        assert not capabilities.shares_workspace, "the steps run where the job does"
        assert not capabilities.builds, "the steps run where the job does"

    async def test_create_runs_nothing(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.prints_lines(1))
            await self.stays_quiet(executor.wait(made.ref), "a created job does not run")
            assert await jobs.lines(made.ref) == []
            status = await jobs.status(made.spec)
            assert status is None or (status.state, status.ticket) == (JobState.CREATED, None)

    async def test_create_again_gives_the_same_job(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            again = await jobs.create(made.spec)
            assert (again.id, again.name) == (made.ref.id, made.spec.name)
            assert await jobs.state(made.spec) is JobState.STARTED

    async def test_create_with_other_labels_is_refused(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            with refused(PermanentError, naming=made.spec.name):
                await jobs.create(jobs.spec(self.hangs(on_term=0), job_name=made.spec.name))
            assert await jobs.state(made.spec) is JobState.STARTED

    async def test_what_is_made_ahead_starts_later(self, executor: Executor, tmp_path: Path) -> None:
        if not executor.capabilities.warm:
            return
        async with self.jobs(executor, tmp_path) as jobs, self.reopen() as later:
            made = await jobs.made(self.prints_lines(1))
            await self.a_while()
            status = await jobs.status(made.spec, later)
            assert status is not None, "it is made, and not found"
            assert (status.state, status.ticket) == (JobState.CREATED, None)
            await self.within(later.start(status.ref, made.ticket), "start by a later process")
            ran = await jobs.ran(made)
            assert (ran.end.cause, ran.text(Step.MODULE)) == (None, ["line 0"])
            assert ran.record["token"] == made.ticket.token

    async def test_names_may_be_at_their_longest(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            event = await jobs.event(
                event_id=self.fresh("event").ljust(LONG_ID, "e"), correlation_id=self.fresh("flow").ljust(LONG_ID, "f")
            )
            name, module = self.fresh("kit").ljust(LONGEST_NAME, "x"), "m" * LONGEST_MODULE
            labels = {"ion-kit": self.fresh("label").ljust(63, "l"), "ion-" + "k" * 59: "v"}
            made = await jobs.started(self.exits_with(0), event=event, job_name=name, name=module, labels=labels)
            assert made.ref.name == name
            ran = await jobs.ran(made)
            assert ran.end.cause is None, ran.end
            assert ran.record["context"]["name"] == module
            status = await jobs.status(made.spec)
            assert status is not None, "it is not found by its labels"
            assert (status.ref.name, status.ticket) == (name, made.ticket)
            assert status.labels.items() >= labels.items()

    async def test_one_ticket_runs_once(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.prints_lines(1))
            await together(*(executor.start(made.ref, made.ticket) for _ in range(3)))
            await jobs.end(made.ref)
            await executor.start(made.ref, made.ticket)
            await self.a_while()
            ran = await jobs.ran(made)
            assert ran.text(Step.MODULE) == ["line 0"], "it ran not once, but never or more often"
            assert ran.record["token"] == made.ticket.token

    async def test_another_ticket_is_refused(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            with refused(PermanentError, naming=made.spec.name, of="start of what runs"):
                await self.within(executor.start(made.ref, other(made.ticket)), "refusing it")
            status = await jobs.status(made.spec)
            assert status is not None
            assert (status.state, status.ticket) == (JobState.STARTED, made.ticket)
            ended = (await jobs.run(self.exits_with(0))).made
            with refused(PermanentError, naming=ended.spec.name, of="start of what has ended"):
                await self.within(executor.start(ended.ref, other(ended.ticket)), "refusing it")

    async def test_an_unknown_job_is_not_found(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.exits_with(0))
            await self.within(executor.remove(made.ref), "remove")
            for ref in (made.ref, NOBODY):
                with refused(JobNotFound, of=f"start of {ref.name}"):
                    await self.within(executor.start(ref, made.ticket), "refusing it")
                with refused(JobNotFound, of=f"wait for {ref.name}"):
                    await self.within(executor.wait(ref), "refusing it")
                with refused(JobNotFound, of=f"logs of {ref.name}"):
                    await jobs.lines(ref)


class StepRules(ExecutorKit):
    """The three steps, and what each of them sees."""

    async def test_a_job_prepares_runs_and_commits(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            event = await jobs.event({"sub/given": b"\x00content\xff"})
            ran = await jobs.run(self.copies("in/data/sub/given", "out/data/made"), event=event)
            assert (ran.end.step, ran.end.cause, ran.end.status.code if ran.end.status else 0) == (Step.COMMIT, None, 0)
            assert await jobs.output(ran.record, "made") == b"\x00content\xff"

    async def test_the_record_tells_its_attempt(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.exits_with(0))
            ticket = other(made.ticket, attempt=7, image="registry.example/kit@sha256:0")
            await self.within(executor.start(made.ref, ticket), "start")
            record = (await jobs.ran(made)).record
            told = [record[key] for key in ("attempt", "token", "image", "startedAt")]
            assert told == [7, ticket.token, ticket.image, STARTED_AT]

    async def test_what_a_job_emits_is_left_to_the_dispatcher(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            told = strict_json.dumps(pairs_to_json([("eventType", EMITTED)]))
            made = await jobs.started(self.leaves({"out/events/one.json": told}))
            ran = await jobs.ran(made)
            assert [it["type"] for it in ran.record["events"]] == [EMITTED]
            assert [it.pending for it in await jobs.documents(made.ticket)] == [True], "it says that it is published"

    async def test_two_attempts_at_once_commit_once(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            event = await jobs.event({"given": b"content"})
            command = self.copies("in/data/given", "out/data/made")
            attempts = [await jobs.made(command, event=event) for _ in range(3)]
            tickets = [other(attempts[0].ticket, attempt=n + 1, token=f"token-{n + 1}") for n in range(3)]
            await together(
                *(executor.start(it.ref, ticket) for it, ticket in zip(attempts[:2], tickets[:2], strict=True))
            )
            ends = [await jobs.end(it.ref) for it in attempts[:2]]
            assert [end.cause for end in ends] == [None, None], ends
            record = (await jobs.ran(attempts[0])).record
            assert record["token"] == f"token-{record['attempt']}"
            assert await jobs.output(record, "made") == b"content"
            await self.within(executor.start(attempts[2].ref, tickets[2]), "start")
            late = await jobs.ran(attempts[2])
            assert late.end.cause is None, "the job is committed, by whomever"
            assert late.record == record, "a late attempt changes nothing"
            assert await jobs.output(record, "made") == b"content"

    async def test_a_workspace_is_empty_for_the_next(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            left = {f"out/{name}": b"{}" for name in ("data/left", "events/left.json", "insights.json")}
            for hang in (False, True):
                first = await jobs.running(self.leaves(left, hang=hang))
                if not hang:
                    await jobs.end(first.ref)
                await self.within(executor.remove(first.ref), "remove")
                event = await jobs.event({"given": b"content"})
                spec = jobs.spec(self.prints_names_of_files(), job_name=first.spec.name, labels=first.spec.labels)
                names = (await jobs.run(spec, event=event)).text(Step.MODULE)
                assert sorted(names) == ["in/data/given", "in/eventmeta.json", "out/insights.json"]

    async def test_values_reach_the_module_unchanged(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            ran = await jobs.run(self.prints_env(*ODD), env=ODD)
            assert ran.text(Step.MODULE) == list(ODD.values())
            ran = await jobs.run(self.prints_arguments(), args=tuple(ODD.values()))
            assert ran.text(Step.MODULE) == list(ODD.values())

    async def test_nothing_of_ours_is_in_the_modules_environment(
        self, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KIT_CANARY", "a secret of the dispatcher")
        async with self.jobs(executor, tmp_path) as jobs:
            names = (await jobs.run(self.prints_names_of_env(), env={"PLAIN": "value"})).text(Step.MODULE)
            assert "PLAIN" in names
            ours = [it for it in names if it.startswith(("ION_", "HANDLER_", "KIT_", "CONTEXT_", "SHARED"))]
            assert set(ours) <= {"HANDLER_BASE_DIR"}

    async def test_the_module_sees_no_ticket_and_no_settings(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.exits_with(0))
            for what, text in (("the ticket", made.ticket.token), ("the settings", self.secret)):
                command = self.looks_for(text, below="/" if executor.capabilities.isolates else BASE)
                looking = await jobs.made(command, settings=made.spec.settings)
                ticket = other(looking.ticket, token=made.ticket.token)
                await self.within(executor.start(looking.ref, ticket), "start")
                ran = await jobs.ran(looking)
                assert ran.end.cause is None, ran.end
                assert ran.text(Step.MODULE, "stdout") == ["looked"], f"{what}: can be read by the module"

    async def test_the_module_is_told_its_trace(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.copies("in/traceparent", "out/data/told"))
            ticket = other(made.ticket, traceparent=TRACEPARENT)
            await self.within(executor.start(made.ref, ticket), "start")
            ran = await jobs.ran(made)
            assert ran.end.cause is None, ran.end
            assert await jobs.output(ran.record, "told") == TRACEPARENT.encode()
            names = (await jobs.run(self.prints_names_of_files())).text(Step.MODULE)
            assert "in/traceparent" not in names, "its ticket has none"

    @needs("listed")
    async def test_settings_are_not_listed(self, executor: Executor, tmp_path: Path) -> None:
        assert self.listed is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.made(self.hangs(on_term=0))
            shown = [await self.listed(executor)]
            await self.within(executor.start(made.ref, made.ticket), "start")
            await jobs.says(made.ref, "ready")
            shown += [await self.listed(executor)]
            assert made.spec.name in shown[1], f"the hook shows nothing of the job: {shown[1]}"
            assert not any(self.secret in text for text in shown), "the settings are for all to see"

    async def test_jobs_run_side_by_side(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            hanging = await jobs.running(self.hangs(on_term=0))
            many = await together(*(jobs.run(self.exits_with(n)) for n in range(3)))
            assert [ran.end.status.code for ran in many] == [0, 1, 2]
            assert [len(ran.records) for ran in many] == [1, 0, 0]
            assert await jobs.state(hanging.spec) is JobState.STARTED


class FindingRules(ExecutorKit):
    """Jobs of an earlier life, and of others."""

    async def test_find_needs_every_label(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            mine = {"ion-kit": self.fresh("label")}
            ids = {}
            for slot in ("1", "2"):
                labels = mine | {"slot": slot, "module": "blur"}
                ids[slot] = (await jobs.running(self.hangs(on_term=0), labels=labels)).ref.id
            for wanted, expected in (
                (mine, {ids["1"], ids["2"]}),
                (mine | {"module": "blur"}, {ids["1"], ids["2"]}),
                (mine | {"slot": "2"}, {ids["2"]}),
                (mine | {"slot": "3"}, set()),
                (mine | {"slot": "1", "absent": "label"}, set()),
            ):
                found = await self.within(executor.find(wanted), "find")
                assert {status.ref.id for status in found} == expected, wanted

    async def test_find_tells_state_ticket_and_labels(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            for state in (JobState.STARTED, JobState.ENDED):
                status = await jobs.status(made.spec)
                assert status is not None
                assert (status.state, status.ref.id, status.ref.name) == (state, made.ref.id, made.spec.name)
                assert status.ticket == made.ticket
                assert status.labels.items() >= made.spec.labels.items()
                if state is JobState.STARTED:
                    await self.within(executor.stop(made.ref, grace=self.short), "stop")
            await self.within(executor.remove(made.ref), "remove")
            assert await jobs.status(made.spec) is None

    async def test_what_was_started_is_found_by_others(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs, self.reopen() as another:
            made = await jobs.started(self.exits_with(0))
            status = await jobs.status(made.spec, another)
            assert status is not None, "it was started before, and is not found"
            assert status.state is not JobState.CREATED
            assert (status.ref.name, status.ticket) == (made.spec.name, made.ticket)
            assert status.labels.items() >= made.spec.labels.items()

    async def test_a_job_is_adopted(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            async with self.reopen() as starter:
                made = await jobs.made(self.leaves({"out/data/made": b"made"}), by=starter)
                await self.within(starter.start(made.ref, made.ticket), "start")
            async with self.reopen() as later:
                status = await jobs.status(made.spec, later)
                assert status is not None, "it is not found by a later process"
                await self.within(later.start(status.ref, made.ticket), "start with the same ticket")
                with refused(PermanentError, naming=made.spec.name, of="start with another ticket"):
                    await self.within(later.start(status.ref, other(made.ticket)), "refusing it")
                end = await self.within(later.wait(status.ref), "the end, as a later process sees it")
                assert (end.step, end.cause) == (Step.COMMIT, None), end
                theirs = [line async for line in later.logs(status.ref)]
                assert {line.step for line in theirs} >= {Step.PREPARE, Step.COMMIT}
            ran = await jobs.ran(made)
            assert ran.record["token"] == made.ticket.token
            assert await jobs.output(ran.record, "made") == b"made"

    async def test_closing_leaves_jobs_running(self, executor: Executor, tmp_path: Path) -> None:
        async with self.jobs(executor, tmp_path) as jobs:
            async with self.reopen() as starter:
                made = await jobs.made(self.hangs(on_term=0), by=starter)
                await self.within(starter.start(made.ref, made.ticket), "start")
                await jobs.says(made.ref, "ready")
            await self.stays_quiet(executor.wait(made.ref), "it runs on when its executor is closed")
            assert await jobs.state(made.spec) is JobState.STARTED

    @needs("outage")
    async def test_errors_of_the_engine_become_ours(self, executor: Executor, tmp_path: Path) -> None:
        assert self.outage is not None
        async with self.jobs(executor, tmp_path) as jobs:
            spec = jobs.spec(self.exits_with(0))
            async with self.outage(executor):
                with refused(IonError):
                    await self.within(executor.create(spec), "create during an outage")

    @needs("outage")
    async def test_an_outage_harms_no_job(self, executor: Executor, tmp_path: Path) -> None:
        assert self.outage is not None
        async with self.jobs(executor, tmp_path) as jobs:
            made = await jobs.running(self.hangs(on_term=0))
            async with self.waiting(executor, made.ref) as end:
                async with self.outage(executor):
                    with refused(TransientError, of="find"):
                        await self.within(executor.find(made.spec.labels), "find during an outage")
                    with refused(TransientError, of="stop"):
                        await self.within(executor.stop(made.ref, grace=self.short), "stop during an outage")
                    await self.a_while()
                await self.stays_quiet(executor.wait(made.ref), "it runs on after an outage")
                status = await jobs.status(made.spec)
                assert status is not None
                assert (status.state, status.ticket) == (JobState.STARTED, made.ticket)
                await self.within(executor.stop(made.ref, grace=self.short), "stop after an outage")
                assert (await end()).cause is Cause.CANCELLED, "who waited meanwhile is told"


class ExecutorConformance(MakingRules, StepRules, CauseRules, StopRules, JobLogRules, FindingRules):
    """Every rule of the executor contract. Subclass it, give it the fixture and the hooks::

        class TestMyExecutor(ExecutorConformance):
            image = "busybox"                   # None, as it is, where modules are plain commands
            missing_image = "no/such:image"     # None, as it is, where there are no images
            limits_memory = True                # False where no limit on memory is enforced

            @pytest_asyncio.fixture
            async def executor(self):
                async with open_my_executor(MySettings()) as executor:
                    yield executor

            def reopen(self):
                return open_my_executor(MySettings())

            def outage(self, executor): …       # every other hook, or None where the engine cannot do that

    The hooks are those of ``ion_core.testing.jobs.ExecutorKit``, each with what it does. Stores are sqlite documents
    and local blobs in ``tmp_path``; override ``storage`` where steps run elsewhere, or ``stores`` altogether.

    ``executor``  an open executor; jobs of others may be on its engine.
    ``patience``  seconds to wait for what must happen (60); ``quiet`` for what must not (0.3).
    ``short``     a timeout that a module outlives (1 s).
    Modules are ``/bin/sh`` scripts; without one, override every method of ``ion_core.testing.programs.Commands`` and
    ``ion_core.testing.job_commands.JobCommands``.
    """
