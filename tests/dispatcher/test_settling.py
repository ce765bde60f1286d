"""What becomes of a delivery: done, tried again, kept aside, or given back; and what is told about it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import ContainerRef, ContainerSpec, ExitStatus
from ion_core.contracts.storage import Document
from ion_core.dataplane import HOPS_HEADER
from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.embedded.memory.runtime import MemoryRuntime, this_container
from ion_core.errors import (
    BlobNotFound,
    ImageUnavailable,
    IonError,
    ModuleFailed,
    PermanentError,
    StorageFull,
    TransientError,
)
from ion_core.events import FAILURE, MAX_HOPS, encode_event
from ion_core.jobs import Job, Verdict
from ion_core.rules import RULES
from tests.support.worlds import (
    Clock,
    Scene,
    World,
    attempt,
    does,
    emit,
    exits,
    fails_first,
    messages,
    no_back_off,
    say,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# Done


async def test_success_is_acked_and_leaves_nothing_behind(world: World) -> None:
    world.add(does(lambda workspace: emit(workspace, "out")))
    await world.publish()
    dispatcher = await world.run()

    assert world.observed.verdicts == [Verdict.COMMITTED]
    assert dispatcher.counts()[Verdict.COMMITTED] == 1
    assert world.broker.counts("worker").pending == 0
    assert world.left_behind() == []
    assert await world.dead() == []
    [(_, outcome)] = world.observed.finished
    assert (outcome.reason, outcome.children) == ("", 1)


async def test_a_chain_of_modules_passes_files_and_data_on(world: World) -> None:
    seen: dict[str, Any] = {}

    def first(workspace: Path) -> None:
        (workspace / "out" / "data" / "sub").mkdir()
        (workspace / "out" / "data" / "sub" / "crop.png").write_bytes(b"pixels")
        emit(workspace, "middle", ("x", "1"), files="sub/crop.png")

    def second(workspace: Path) -> None:
        seen["file"] = (workspace / "in" / "data" / "sub" / "crop.png").read_bytes()
        seen["meta"] = json.loads((workspace / "in" / "eventmeta.json").read_bytes())

    world.add(does(first), "first", emits=["middle"])
    world.add(does(second), "second", takes="middle")
    event = await world.publish()
    await world.run()

    assert seen["file"] == b"pixels"
    assert [pair["key"] for pair in seen["meta"]] == ["x", "sub/crop.png"]
    first_commit, second_commit = world.commits
    [child] = first_commit.events
    assert child.context.parent_event_id == event.context.event_id
    assert second_commit.context.event_id == child.context.event_id
    assert second_commit.context.correlation_id == event.context.correlation_id


async def test_observers_see_start_end_and_what_is_published(world: World) -> None:
    world.add(does(lambda workspace: emit(workspace, "out")))
    world.add(exits(0), "next", takes="out")
    await world.publish()
    await world.run()
    assert [started.job.module for started in world.observed.started] == ["worker", "next"]
    assert [finished.job.module for finished, _ in world.observed.finished] == ["worker", "next"]
    assert [event.type for event in world.observed.published] == ["in", "out"]


# A module's failure


@pytest.mark.parametrize("code", [1, 2, 125, 128, 255])
async def test_a_failure_is_tried_again_then_kept_aside_with_reason_attempts_and_last_lines(
    code: int, world: World
) -> None:
    async def fails(workspace: Path, env: Mapping[str, str]) -> int:
        say("loading", "the model is missing")
        return code

    world.add(fails)
    event = await world.publish()
    await world.run()

    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.RETRIED, Verdict.DEAD_LETTERED]
    [dead] = await world.dead()
    assert dead.reason == f"exit code {code} (attempt 3, the last)"
    assert dead.attempts == 3
    assert list(dead.log_tail) == ["loading", "the model is missing"]
    assert dead.body == encode_event(event)
    assert world.commits == []
    assert world.blobs.blobs == {}
    assert world.left_behind() == []


async def test_a_death_by_signal_is_counted_and_named(world: World) -> None:
    world.add(exits(-9))
    await world.publish()
    await world.run()
    [dead] = await world.dead()
    assert dead.reason == "killed by signal 9 (attempt 3, the last)"


async def test_a_limit_of_the_runtime_is_named(world: World) -> None:
    class Limited(MemoryRuntime):
        async def wait(self, ref: ContainerRef) -> ExitStatus:
            return replace(await super().wait(ref), limit="memory 512 MiB")

    world.add(exits(-9), retry=RetryPolicy(retries=0))
    world.runtime = Limited(world.programs)
    await world.publish()
    await world.run()
    [dead] = await world.dead()
    assert "killed by signal 9 (limit: memory 512 MiB)" in dead.reason


async def test_a_retry_waits_for_the_policy_s_delay(world: World) -> None:
    clock = Clock()
    world.broker = MemoryBroker(call_later=clock.call_later)
    policy = RetryPolicy(retries=3, initial=timedelta(seconds=10), factor=3.0, jitter=0.1)
    world.add(exits(1), retry=policy)
    await world.publish()
    waited = []
    async with world.serving():
        for n in range(1, 4):
            await world.observed.finishes(n)
            assert world.broker.counts("worker").delayed == 1
            waited.append(clock.pass_to_next())
        await world.observed.until(lambda: len(world.observed.finished) == 4)
    for seconds, nominal in zip(waited, [10, 30, 90], strict=True):
        assert 0.9 * nominal <= seconds <= 1.1 * nominal
    assert world.observed.verdicts == [Verdict.RETRIED] * 3 + [Verdict.DEAD_LETTERED]


async def test_success_after_failures_is_a_commit_of_that_attempt(world: World) -> None:
    world.add(fails_first(2, does(lambda workspace: emit(workspace, "out"))))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.RETRIED, Verdict.COMMITTED]
    [commit] = world.commits
    assert commit.attempt == 3


@pytest.mark.parametrize(("code", "said"), [(126, "cannot be executed"), (127, "was not found")])
async def test_what_cannot_run_is_kept_aside_at_once(code: int, said: str, world: World) -> None:
    world.add(exits(code))
    await world.publish()
    await world.run()
    [dead] = await world.dead()
    assert dead.attempts == 1
    assert f"exit code {code}" in dead.reason
    assert said in dead.reason


async def test_a_missing_image_is_kept_aside_at_once_and_others_go_on(world: World) -> None:
    world.add(exits(0), "good")
    world.add(exits(0), "bad")
    del world.programs["bad"]
    await world.publish()
    await world.run()
    [dead] = await world.dead("bad")
    assert "image bad" in dead.reason
    assert [commit.context.name for commit in world.commits] == ["good"]
    assert world.left_behind() == []


async def test_output_that_breaks_the_contract_is_kept_aside_at_once_naming_all_of_it(world: World) -> None:
    def bad(workspace: Path) -> None:
        (workspace / "out" / "data" / "link").symlink_to("/etc/passwd")
        emit(workspace, "undeclared", files="absent")

    world.add(does(bad))
    await world.publish()
    await world.run()
    [dead] = await world.dead()
    assert dead.attempts == 1
    for said in ("out/data/link: is a symbolic link", "'undeclared'", "(declared: out)", "'absent'"):
        assert said in dead.reason
    assert world.commits == []
    assert world.blobs.blobs == {}


async def test_a_missing_input_is_kept_aside_at_once(world: World) -> None:
    world.add(exits(0))
    await world.publish(files={"a": b"1"})
    world.blobs.blobs.clear()
    await world.run()
    [dead] = await world.dead()
    assert dead.attempts == 1
    assert dead.reason.startswith("blob ")
    assert "/a" in dead.reason


# Limits that change


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (5, 6)])
async def test_a_retry_limit_changed_later_has_effect(retries: int, attempts: int, world: World) -> None:
    clock = Clock()
    world.broker = MemoryBroker(call_later=clock.call_later)
    world.add(exits(1), retry=RetryPolicy(retries=2, initial=timedelta(minutes=1)))
    await world.publish()
    async with world.serving():
        await world.observed.until(lambda: len(world.observed.finished) == 1)

    world.modules[0] = replace(world.modules[0], retry=RetryPolicy(retries=retries, initial=timedelta(minutes=1)))
    async with world.serving():
        while not await world.dead():
            seen = len(world.observed.finished)
            clock.pass_to_next()
            await world.observed.finishes(seen + 1)

    assert len(world.observed.started) == attempts, "and no attempt above the limit runs"
    [dead] = await world.dead()
    assert "attempt" in dead.reason


CHANGED: dict[str, dict[str, Any]] = {
    "it takes no such event any more": {"subscribes": ("other",)},
    "fewer attempts are allowed": {"retry": RetryPolicy(retries=0)},
}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
@pytest.mark.parametrize("owing", [False, True])
async def test_what_has_committed_is_done_whatever_is_asked_of_an_attempt_since(
    changed: dict[str, Any], owing: bool, world: World
) -> None:
    world.add(fails_first(1, does(lambda workspace: emit(workspace, "out"))))
    world.add(exits(0), "next", takes="out", emits=())
    event = await world.publish()
    await world.run()
    key, commit = next((key, it) for key, it in world.documents.documents.items() if it.kind == "commit")
    world.documents.documents[key] = replace(commit, pending=owing)  # as one that was killed before S10 leaves it

    await world.publish(event_id=event.context.event_id)
    kept = world.broker.queue("worker").ready.pop()
    world.broker._put_back("worker", replace(kept, message=replace(kept.message, attempt=2)), timedelta(0))
    world.modules[0] = replace(world.modules[0], **changed)
    await world.run()

    verdicts = [outcome.verdict for it, outcome in world.observed.finished if it.job.event.type == "in"]
    assert verdicts == [Verdict.RETRIED, Verdict.COMMITTED, Verdict.ALREADY_COMMITTED]
    assert await world.dead() == []
    assert [it.type for it in world.observed.published].count("out") == 1 + owing
    assert not world.documents.documents[key].pending


async def test_a_type_that_is_taken_no_more_is_a_dead_letter_and_runs_once_it_is_taken_again(world: World) -> None:
    world.add(exits(0))
    event = await world.publish()
    taken = world.modules[0]
    world.modules[0] = replace(taken, subscribes=("other",))
    await world.run()
    [dead] = await world.dead()
    assert (dead.attempts, dead.reason) == (1, "refused event: module worker takes no events of type 'in'")
    assert world.observed.started == []
    assert world.log_of(event)["outcome"] == "dead-lettered"
    world.modules[0] = taken
    await world.redrive()
    await world.run()
    assert world.observed.verdicts == [Verdict.DEAD_LETTERED, Verdict.COMMITTED]


# Poison

GOOD = encode_event(attempt().job.event)
POISON: dict[str, tuple[bytes, dict[str, str], str]] = {
    "no JSON": (b"\x00\xff\xfe", {}, "is not UTF-8"),
    "empty": (b"", {}, "is empty"),
    "cut short": (GOOD[:-1], {}, "is not JSON"),
    "an array": (b"[]", {}, "must be an object"),
    "no context": (b'{"type": "in"}', {}, "event.context.eventId: is required"),
    "wrong types": (GOOD.replace(b'"e1"', b"1"), {}, "event.context.eventId: must be a string"),
    "a duplicate key": (GOOD.replace(b'"type"', b'"type":"in","type"'), {}, "appears twice"),
    "nested deeply": (b"[" * 100_000, {}, "nested too deeply"),
    "too large": (b" " * 600_000, {}, "the limit is 524,288"),
    "a type it does not take": (GOOD.replace(b'"type":"in"', b'"type":"other"'), {}, "takes no events of type 'other'"),
    "a type that cannot be": (GOOD.replace(b'"type":"in"', b'"type":"../in"'), {}, "must be lower-case"),
    "a loop": (GOOD, {HOPS_HEADER: str(MAX_HOPS)}, "64 modules from the start of its flow, 64 are allowed"),
    "a long loop": (GOOD, {HOPS_HEADER: "70000"}, "70,000 modules"),
    "fifty thousand problems": (GOOD[:-1] + b',"data":[' + b"1," * 50_000 + b"1]}", {}, "more problems"),
}


@pytest.mark.parametrize(("body", "headers", "said"), POISON.values(), ids=POISON)
async def test_poison_is_kept_aside_at_once_and_the_next_event_is_handled(
    body: bytes, headers: Mapping[str, str], said: str, world: World
) -> None:
    world.add(exits(0))
    async with world.serving():
        await world.broker.publish("in", body, headers=headers)
        await world.publish()
        await world.broker.idle()

    [dead] = await world.dead()
    assert (dead.body, dict(dead.headers), dead.attempts) == (body, headers, 1)
    assert said in dead.reason
    assert len(dead.reason) < 10_000
    assert world.observed.verdicts[-1] is Verdict.COMMITTED
    assert len(world.observed.started) == 1


@pytest.mark.parametrize("hops", ["", "-1", "x", "1e9", "٣", "9" * 40])
async def test_a_hop_counter_that_cannot_be_read_does_no_harm(hops: str, world: World) -> None:
    world.add(exits(0))
    async with world.serving():
        await world.broker.publish("in", GOOD, headers={HOPS_HEADER: hops})
        await world.broker.idle()
    assert world.observed.verdicts == [Verdict.COMMITTED]


async def test_a_loop_ends_after_sixty_four_modules(world: World) -> None:
    world.add(does(lambda workspace: emit(workspace, "in")), emits=["in"])
    await world.publish()
    await world.run()
    assert len(world.commits) == MAX_HOPS
    [dead] = await world.dead()
    assert "a loop?" in dead.reason


# Providers that fail


class Failing(MemoryRuntime):
    """Raises ``errors`` one after the other where ``at`` says, then works."""

    def __init__(self, at: str, *errors: Exception) -> None:
        super().__init__({"worker": exits(0)})
        self._at, self._errors = at, list(errors)

    def _fail(self, at: str) -> None:
        if at == self._at and self._errors:
            raise self._errors.pop(0)

    async def create(self, spec: ContainerSpec) -> ContainerRef:
        ref = await super().create(spec)
        self._fail("create")
        return ref

    async def start(self, ref: ContainerRef) -> None:
        self._fail("start")
        await super().start(ref)

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        self._fail("wait")
        return await super().wait(ref)


@pytest.mark.parametrize("at", ["create", "start", "wait"])
async def test_a_provider_that_is_down_costs_no_attempt(at: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(exits(0))
    world.runtime = Failing(at, *[TransientError("no answer")] * 5)
    await world.publish()
    with no_back_off(monkeypatch):
        await world.run()
    assert world.observed.verdicts == [Verdict.RELEASED] * 5 + [Verdict.COMMITTED]
    assert {trying.number for trying, _ in world.observed.finished} == {1}
    assert world.left_behind() == []


@pytest.mark.parametrize("at", ["create", "start", "wait"])
async def test_an_error_of_a_provider_s_library_fails_the_job_and_nothing_else(
    at: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.add(exits(0))
    world.runtime = Failing(at, KeyError("libpod"), TimeoutError("socket"))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.RETRIED, Verdict.COMMITTED]
    reasons = [outcome.reason for _, outcome in world.observed.finished]
    assert reasons == ["bug: KeyError: 'libpod'", "bug: TimeoutError: socket", ""]
    assert "Traceback" in caplog.text
    assert world.left_behind() == []


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (PermanentError("never"), Verdict.DEAD_LETTERED),
        (ImageUnavailable("no image"), Verdict.DEAD_LETTERED),
        (BlobNotFound("no blob"), Verdict.DEAD_LETTERED),
        (ModuleFailed("failed"), Verdict.RETRIED),
        (TransientError("down"), Verdict.RELEASED),
        (StorageFull("full"), Verdict.RELEASED),
        (IonError("unknown kind"), Verdict.RETRIED),
        (ValueError("foreign"), Verdict.RETRIED),
        (ExceptionGroup("many", [ValueError("foreign")]), Verdict.RETRIED),
    ],
)
async def test_the_class_of_an_error_decides(
    error: Exception, verdict: Verdict, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(exits(0))
    world.runtime = Failing("start", error)
    await world.publish()
    with no_back_off(monkeypatch):
        await world.run()
    assert world.observed.verdicts[0] is verdict
    assert world.observed.finished[0][1].rule in RULES, "and which rule that was is told"
    assert world.left_behind() == []


async def test_blobs_that_are_away_cost_no_attempt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(exits(0))
    await world.publish(files={"a": b"1"})
    with no_back_off(monkeypatch):
        async with world.serving():
            world.blobs.failing = TransientError("away")
            await world.observed.until(lambda: len(world.observed.finished) >= 3)
            world.blobs.failing = None
            await world.broker.idle()
    assert set(world.observed.verdicts[:-1]) == {Verdict.RELEASED}
    assert world.observed.verdicts[-1] is Verdict.COMMITTED


async def test_the_back_off_ends_with_the_drain(world: World) -> None:
    """It would last for half a second and more, with nothing to see: the delivery goes back at once instead."""
    world.add(exits(0))
    world.runtime = Failing("create", *[TransientError("no answer")] * 1_000)
    await world.publish()
    async with world.serving(drain_timeout=timedelta(minutes=1)):
        await world.observed.until(lambda: bool(world.observed.started))
    assert world.observed.verdicts == [Verdict.RELEASED]


# Time


async def test_a_module_that_takes_too_long_is_stopped_and_counted(world: World) -> None:
    scene = Scene()
    world.add(scene, timeout=timedelta(seconds=0.05), retry=RetryPolicy(retries=1, initial=timedelta(0)))
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.RETRIED, Verdict.DEAD_LETTERED]
    [dead] = await world.dead()
    assert dead.reason.startswith("timed out after 0.05 s (modules.worker.timeout)")
    assert scene.cancelled == 2
    assert world.left_behind() == []


async def test_what_a_stopped_module_printed_is_kept(world: World) -> None:
    async def prints_and_hangs(workspace: Path, env: Mapping[str, str]) -> int:
        say("working")
        await asyncio.Event().wait()
        return 0

    world.add(prints_and_hangs, timeout=timedelta(seconds=0.05), retry=RetryPolicy(retries=0))
    await world.publish()
    await world.run()
    [dead] = await world.dead()
    assert list(dead.log_tail) == ["working"]


# Failures


def failures(world: World) -> list[dict[str, Any]]:
    return [dict(it.body) for it in world.documents.documents.values() if it.kind == FAILURE]


async def test_a_job_that_failed_can_be_found_and_no_longer_once_it_has_committed(world: World) -> None:
    seen: list[list[dict[str, Any]]] = []

    def look(workspace: Path) -> None:
        seen.append(failures(world))

    world.add(fails_first(1, does(look)))
    event = await world.publish()
    await world.run()
    [[failure]] = seen
    assert (failure["attempt"], failure["outcome"], failure["reason"]) == (1, "retried", "exit code 3")
    assert failure["context"] == {**event.context.to_json(), "name": "worker", "documentType": "failure"}
    assert failure["id"] == Job(event=event, module="worker").id
    assert failures(world) == []


async def test_a_job_that_was_given_up_is_one_failure_that_says_why(world: World) -> None:
    world.add(exits(3), retry=RetryPolicy(retries=1, initial=timedelta(0)))
    await world.publish()
    await world.run()
    [failure] = failures(world)
    assert (failure["attempt"], failure["outcome"]) == (2, "dead-lettered")
    assert failure["reason"] == "exit code 3 (attempt 2, the last)"


# Logs of attempts


async def test_a_log_is_kept_of_every_attempt_with_three_sections(world: World) -> None:
    world.add(fails_first(2, does(lambda workspace: say("all good"))))
    event = await world.publish(data=[("a", "b")])
    await world.run()

    prefix = f"module:worker-event:{event.context.event_id}-attempt:"
    assert [id.rpartition("-")[0] for id in world.logs] == [f"{prefix}{n}" for n in (1, 2, 3)]
    for n, (succeeded, printed) in enumerate(
        [(False, "about to fail, 1 to go"), (False, "about to fail, 0 to go"), (True, "all good")], 1
    ):
        body = world.log_of(event, number=n)
        assert body["succeeded"] is succeeded
        lines = body["logs"].splitlines()
        sections = [lines.index(f"{name} logs") for name in ("Preparer", "Worker", "Committer")]
        assert sections == sorted(sections)
        assert lines[sections[1] + 1] == printed
        assert "1 pair prepared" in " ".join(lines[: sections[1]])
        assert body["context"] == {
            "name": "worker",
            "eventId": event.context.event_id,
            "correlationId": event.context.correlation_id,
            "parentEventId": "",
            "documentType": "modulelogs",
        }
        assert body["attempt"] == n
        assert set(body["seconds"]) >= {"prepare", "module", "all"}


def _say_who_it_is(name: str, workspace: Path) -> None:
    say(f"this is {name}")


async def test_logs_of_siblings_lie_side_by_side(world: World) -> None:
    for name in ("blur", "catalogue"):
        world.add(does(partial(_say_who_it_is, name)), name)
    await world.publish()
    await world.run()
    assert len(world.logs) == 2
    for id, body in world.logs.items():
        name = body["context"]["name"]
        assert id.startswith(f"module:{name}-event:")
        assert f"this is {name}" in body["logs"]


@pytest.mark.parametrize(
    "error", [TransientError("away"), StorageFull("full"), PermanentError("no"), KeyError("foreign")]
)
@pytest.mark.parametrize("code", [0, 1, 127])
async def test_a_log_that_cannot_be_stored_changes_no_result(
    code: int, error: Exception, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    put = world.documents.put

    async def refuse_logs(document: Document) -> None:
        if document.kind == "modulelogs":
            raise error
        await put(document)

    world.documents.put = refuse_logs  # type: ignore[method-assign]
    world.add(exits(code))
    await world.publish()
    await world.run()
    expected = {
        0: [Verdict.COMMITTED],
        1: [Verdict.RETRIED, Verdict.RETRIED, Verdict.DEAD_LETTERED],
        127: [Verdict.DEAD_LETTERED],
    }
    assert world.observed.verdicts == expected[code]
    assert "log of an attempt was not stored" in caplog.text


async def test_a_log_says_committed_though_publishing_takes_another_try(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(does(lambda workspace: emit(workspace, "out")))
    world.add(exits(0), "next", takes="out")
    event = await world.publish()
    publish, failures = world.broker.publish, [TransientError("away")] * 2

    async def away_at_first(topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        if topic == "out" and failures:
            raise failures.pop()
        await publish(topic, body, headers=headers)

    world.broker.publish = away_at_first  # type: ignore[method-assign]
    with no_back_off(monkeypatch):
        await world.run()
    body = world.log_of(event)
    assert body["succeeded"] is True
    assert Verdict.DEAD_LETTERED not in world.observed.verdicts
    assert len(world.commits) == 2


async def test_the_last_lines_of_a_dead_letter_are_bounded(world: World) -> None:
    async def chatters(workspace: Path, env: Mapping[str, str]) -> int:
        say(*(f"{n} " + "x" * 1_000 for n in range(200)))
        return 127

    world.add(chatters)
    await world.publish()
    await world.run()
    [dead] = await world.dead()
    assert sum(map(len, dead.log_tail)) <= 8_000
    assert dead.log_tail[-1].startswith("199 ")
    assert len(next(iter(world.logs.values()))["logs"]) > 200_000, "the document has all of it"


# Secrets, and what a container's metadata tells


async def test_a_secret_is_made_for_each_slot_and_appears_nowhere(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets: list[str] = []

    async def tells_all(workspace: Path, env: Mapping[str, str]) -> int:
        secrets.append(env["SHARED_SECRET"])
        say(f"my secret is {env['SHARED_SECRET']}, is it not", f"[{env['SHARED_SECRET']}]")
        return 1

    world.add(tells_all)
    event = await world.publish()
    await world.run()

    assert len(set(secrets)) == 3
    everything = caplog.text + repr(world.documents.documents) + repr(await world.dead()) + repr(world.broker.__dict__)
    everything += repr([record.__dict__ for record in caplog.records])
    for secret in secrets:
        assert len(secret) >= 32
        assert secret not in everything
        assert event.context.event_id not in secret
    assert "my secret is ********, is it not" in everything


async def test_nothing_about_an_event_is_in_a_container_s_metadata(world: World) -> None:
    specs: list[ContainerSpec] = []

    async def looks(workspace: Path, env: Mapping[str, str]) -> int:
        specs.append(this_container().spec)
        return 0

    world.add(looks, env={"MODEL": "small"})
    event = await world.publish(
        data=[("key", "value")], files={"file": b"1"}, event_id="E" * 300, correlation_id="C" * 9
    )
    await world.run()

    [spec] = specs
    told = repr(spec)
    for secret in (
        event.context.event_id,
        event.context.correlation_id,
        "value",
        event.context.event_id[:20],
    ):
        assert secret not in told
    assert set(spec.env) == {"HANDLER_PORT", "MODEL", "PYTHONUNBUFFERED", "SHARED_SECRET"}
    assert spec.env["MODEL"] == "small"
    assert spec.labels == {"ion.state": "ours", "ion.module": "worker"}
    assert spec.module == "worker"
    assert len(spec.name) <= 63


async def test_the_longest_module_name_makes_a_container_s_name(world: World) -> None:
    world.add(exits(0), "m" * 63)
    await world.publish()
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED]


# What is logged


async def test_each_job_s_start_and_outcome_are_logged_with_fields(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.add(fails_first(1, exits(127)))
    event = await world.publish()
    await world.run()
    told = [record for record in caplog.records if record.getMessage().startswith("job ")]
    assert [(record.levelname, record.getMessage()) for record in told] == [
        ("INFO", "job started"),
        ("WARNING", "job retried: exit code 3"),
        ("INFO", "job started"),
        ("ERROR", "job dead-lettered: exit code 127: the command was not found"),
    ]
    for record, number in zip(told, [1, 1, 2, 2], strict=True):
        fields = record.__dict__
        assert fields["eventId"] == event.context.event_id
        assert fields["correlationId"] == event.context.correlation_id
        assert fields["moduleName"] == "worker"
        assert fields["attempt"] == number


async def test_nothing_is_said_above_info_when_all_is_well(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.add(does(lambda workspace: emit(workspace, "out")))
    await world.publish()
    await world.run()
    assert messages(caplog) == []
