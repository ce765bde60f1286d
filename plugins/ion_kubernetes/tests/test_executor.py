"""The executor against the stand-in for Kubernetes, whose pods live as recorded ones did."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from ion_core.contracts.executor import Cause, JobEnd, JobRef, JobSpec, JobState, ModuleSpec, Step, Ticket
from ion_core.contracts.runtime import ExitStatus
from ion_core.errors import ConfigError, JobNotFound, NoRoom, PermanentError, TransientError
from ion_kubernetes import names
from ion_kubernetes.executor import KubernetesExecutor
from ion_kubernetes.opening import opened
from ion_kubernetes.pods import Wanted
from ion_kubernetes.settings import KubernetesSettings
from plugins.ion_kubernetes.tests.calling import api_of
from plugins.ion_kubernetes.tests.fake.faults import Fault, How, Order
from plugins.ion_kubernetes.tests.fake.node import Life
from plugins.ion_kubernetes.tests.fake.replay import Replay, running
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes
from plugins.ion_kubernetes.tests.fake.statuses import status

LABELS = {"ion.state": "0a1b", "ion.module": "detect"}
GRACE = timedelta(seconds=5)


def spec(name: str = "ion-detect-1", **given: Any) -> JobSpec:
    module = ModuleSpec(**{"name": "detect", "image": "registry.example/detect:1", **given.pop("module", {})})
    return JobSpec(**{"name": name, "module": module, "settings": b"{}", "labels": LABELS, **given})


def ticket(token: str = "t", **given: Any) -> Ticket:
    return Ticket(**{"event_id": "e", "correlation_id": "c", "module": "detect", "attempt": 1, "token": token, **given})


def at(seconds: float) -> str:
    """Since 1970, as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@asynccontextmanager
async def executor_of(cluster: FakeKubernetes, **given: Any) -> AsyncIterator[KubernetesExecutor]:
    settings = KubernetesSettings.model_validate({"handler_image": "registry.example/ion:0.2", **given})
    async with api_of(cluster) as api, opened(api, settings) as executor:
        yield executor


@asynccontextmanager
async def running_as(
    life: Callable[[Any], Life | None], **given: Any
) -> AsyncIterator[tuple[FakeKubernetes, KubernetesExecutor]]:
    async with fake_kubernetes(life) as cluster, executor_of(cluster, **given) as executor:
        yield cluster, executor


async def started(executor: KubernetesExecutor, job: JobSpec | None = None) -> JobRef:
    ref = await executor.create(job or spec())
    await executor.start(ref, ticket())
    return ref


@pytest.mark.parametrize(
    ("name", "step", "cause", "status"),
    [
        ("ok", Step.COMMIT, None, ExitStatus(code=0)),
        ("module-fails", Step.MODULE, Cause.MODULE, ExitStatus(code=4)),
        ("prepare-fails", Step.PREPARE, Cause.INFRASTRUCTURE, ExitStatus(code=75)),
        ("commit-fails", Step.COMMIT, Cause.MODULE, ExitStatus(code=1)),
        ("module-oom", Step.MODULE, Cause.LIMIT, ExitStatus(code=137, signal=9, limit="memory 512 MiB")),
        ("module-child-oom", Step.MODULE, Cause.LIMIT, ExitStatus(code=0, limit="memory 512 MiB")),
        ("program-missing", Step.MODULE, Cause.MODULE, ExitStatus(code=127)),
        ("evicted-by-api", Step.MODULE, Cause.INFRASTRUCTURE, ExitStatus(code=143, signal=15)),
        ("evicted-storage", Step.MODULE, Cause.LIMIT, None),
    ],
)
async def test_a_job_ends_as_its_recorded_pod_did(
    name: str, step: Step, cause: Cause | None, status: ExitStatus | None
) -> None:
    async with running_as(lambda pod: Replay(name)) as (_, executor):
        ref = await started(executor)
        end = await executor.wait(ref)
        assert (end.step, end.cause) == (step, cause)
        if status is not None:
            assert end.status == status
        assert await executor.wait(ref) == end


async def test_nothing_runs_before_the_start_and_the_ticket_comes_with_it() -> None:
    async with running_as(lambda pod: Replay("ok")) as (cluster, executor):
        ref = await executor.create(spec())
        made = cluster.pod(ref.name)
        assert made["spec"]["schedulingGates"] == [{"name": names.GATE}]
        assert names.TICKET not in made["metadata"]["annotations"]
        await executor.start(ref, ticket())
        pod = cluster.pod(ref.name)
        assert not pod["spec"].get("schedulingGates")
        assert Ticket.decode(pod["metadata"]["annotations"][names.TICKET].encode()) == ticket()


async def test_gates_of_others_stay_closed() -> None:
    async with running_as(lambda pod: Replay("ok")) as (cluster, executor):
        ref = await executor.create(spec())
        key = ("pods", "ion", ref.name)
        pod = cluster.pod(ref.name)
        pod["spec"]["schedulingGates"] = [{"name": "queue.example/admission"}, *pod["spec"]["schedulingGates"]]
        cluster.store.changed(key, pod)
        await executor.start(ref, ticket())
        assert cluster.pod(ref.name)["spec"]["schedulingGates"] == [{"name": "queue.example/admission"}]


async def test_the_same_ticket_again_changes_nothing_and_another_is_refused() -> None:
    async with running_as(lambda pod: Replay("ok")) as (_, executor):
        ref = await started(executor)
        await executor.start(ref, ticket())
        await executor.wait(ref)
        await executor.start(ref, ticket())
        with pytest.raises(PermanentError, match="was started for another attempt"):
            await executor.start(ref, ticket("other"))


async def test_of_two_that_start_it_at_once_one_does() -> None:
    async with running_as(lambda pod: Replay("ok")) as (cluster, executor), executor_of(cluster) as other:
        ref = await executor.create(spec())
        results = await asyncio.gather(
            executor.start(ref, ticket("a")), other.start(ref, ticket("b")), return_exceptions=True
        )
        assert sorted(type(it).__name__ for it in results) == ["NoneType", "PermanentError"]


async def test_a_start_whose_answer_is_lost_has_started_it() -> None:
    async with running_as(lambda pod: Replay("ok")) as (cluster, executor):
        ref = await executor.create(spec())
        cluster.faults.append(Fault("PATCH .*/pods/", How.DROP_AFTER))
        with pytest.raises(TransientError):
            await executor.start(ref, ticket())
        await executor.start(ref, ticket())
        assert (await executor.wait(ref)).cause is None


async def test_a_warm_job_is_placed_before_its_event_and_given_its_deadline_at_the_start() -> None:
    life = Replay("ok", hold=running("prepare"))
    async with running_as(lambda pod: life, warm=True) as (cluster, executor):
        assert executor.capabilities.warm
        ref = await executor.create(spec())
        await life.held.wait()
        (found,) = await executor.find(LABELS)
        assert found.state is JobState.CREATED
        await executor.start(ref, ticket())
        assert cluster.pod(ref.name)["spec"]["activeDeadlineSeconds"] >= 600


@pytest.mark.parametrize("ahead", [-7200.0, 0.0, 7200.0])
async def test_what_a_warm_job_has_waited_is_no_part_of_its_deadline_whatever_the_clocks(ahead: float) -> None:
    life = Replay("ok", hold=running("prepare"))
    async with running_as(lambda pod: life, warm=True) as (cluster, executor):
        cluster.ahead = ahead
        ref = await executor.create(spec())
        await life.held.wait()
        pod = cluster.pod(ref.name)
        pod["status"]["startTime"] = at(time.time() + ahead - 3600)
        cluster.store.changed(("pods", "ion", ref.name), pod)
        await executor.start(ref, ticket())
        settings = KubernetesSettings.model_validate({"handler_image": "registry.example/ion:0.2"})
        of_others = Wanted(spec=spec(), settings=settings, owner=None).deadline
        waited = cluster.pod(ref.name)["spec"]["activeDeadlineSeconds"] - of_others
        assert 3600 - 60 <= waited <= 3600 + 600
        life.go_on.set()
        assert (await executor.wait(ref)).cause is None


async def test_a_name_that_exists_is_that_job_where_everything_agrees() -> None:
    async with running_as(lambda pod: Replay("ok")) as (_, executor):
        ref = await executor.create(spec())
        assert await executor.create(spec()) == ref
        with pytest.raises(PermanentError, match="exists with other labels"):
            await executor.create(spec(labels={"ion.state": "other"}))
        with pytest.raises(PermanentError, match="exists as another job"):
            await executor.create(spec(module={"image": "registry.example/detect:2"}))


async def test_a_name_that_is_being_deleted_is_free_in_a_moment() -> None:
    life = Replay("ok", hold=running("module"))
    life.obeys.clear()
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        cluster.node.delete(("pods", "ion", ref.name), 30)
        with pytest.raises(TransientError, match="still being deleted"):
            await executor.create(spec())
        life.obeys.set()


async def test_a_quota_that_is_used_up_is_no_room_and_one_that_is_too_small_never_has_any() -> None:
    async with running_as(lambda pod: None) as (cluster, executor):
        cluster.admission.quota = {"pods": "1", "limits.memory": "4Gi"}
        await executor.create(spec())
        with pytest.raises(NoRoom, match="exceeded quota"):
            await executor.create(spec("ion-detect-2"))
        cluster.admission.quota = {"pods": "0"}
        with pytest.raises(NoRoom, match="exceeded quota"):  # a namespace that is closed for a while
            await executor.create(spec("ion-detect-2"))
        cluster.admission.quota = {"limits.memory": "256Mi"}
        with pytest.raises(PermanentError, match=r"never has room for limits\.memory="):
            await executor.create(spec("ion-detect-2"))


async def test_what_a_policy_forbids_is_refused_in_its_words() -> None:
    async with running_as(lambda pod: None) as (cluster, executor):
        policy = status(403, "Forbidden", 'pods "x" is forbidden: maximum memory usage per Container is 1Gi')
        cluster.faults.append(Fault("POST .*/pods$", answer=policy))
        with pytest.raises(PermanentError, match="maximum memory usage per Container is 1Gi") as refused:
            await executor.create(spec())
        assert not isinstance(refused.value, NoRoom)


async def test_an_api_server_that_is_away_is_worth_another_try() -> None:
    async with running_as(lambda pod: None) as (cluster, executor):
        cluster.faults.append(Fault("POST .*/pods$"))
        with pytest.raises(TransientError, match="leader changed"):
            await executor.create(spec())
        assert await executor.create(spec()) is not None


async def test_settings_are_one_secret_for_all_jobs_that_have_them() -> None:
    async with running_as(lambda pod: None) as (cluster, executor):
        for number in range(3):
            await executor.create(spec(f"ion-detect-{number}"))
        await executor.create(spec("ion-detect-9", settings=b'{"other": 1}'))
        assert len(list(cluster.store.listed("secrets", "ion"))) == 2


async def test_an_image_that_cannot_be_had_is_waited_for_and_then_told_in_the_engines_words() -> None:
    async with running_as(lambda pod: Replay("image-missing"), image_wait="1s") as (cluster, executor):
        ref = await started(executor)
        end = await executor.wait(ref)
        assert (end.step, end.cause) == (Step.MODULE, Cause.IMAGE)
        assert "connection refused" in end.reason
        assert ("pods", "ion", ref.name) not in cluster.store.objects


async def test_a_job_that_finds_no_node_has_no_room_and_its_events_say_why() -> None:
    async with running_as(lambda pod: Replay("unschedulable"), start_wait="1s") as (cluster, executor):
        ref = await executor.create(spec())
        cluster.told(ref.name, "FailedScheduling", "0/2 nodes are available: 2 Insufficient memory.")
        await executor.start(ref, ticket())
        end = await executor.wait(ref)
        assert (end.step, end.cause) == (Step.QUEUED, Cause.NO_ROOM)
        assert "2 Insufficient memory" in end.reason
        assert sum("events" in str(call) for call in cluster.calls) == 1


async def test_a_module_has_its_time_from_its_own_start() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life, grace="1s") as (cluster, executor):
        ref = await started(executor, spec(timeout=timedelta(milliseconds=200)))
        end = await executor.wait(ref)
        assert (end.step, end.cause, end.reason) == (Step.MODULE, Cause.MODULE, "timed out after 0.2 s")
        assert ("pods", "ion", ref.name) not in cluster.store.objects


async def test_a_module_that_another_process_started_has_what_is_left_of_its_time() -> None:
    life = Replay("ok", hold=running("module"))
    async with fake_kubernetes(lambda pod: life) as cluster:
        async with executor_of(cluster) as first:
            ref = await started(first, spec(timeout=timedelta(minutes=10)))
            await life.held.wait()
        began(cluster, ref, ago=3600)
        async with executor_of(cluster) as second:
            assert (await second.wait(ref)).reason == "timed out after 600 s"


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
@pytest.mark.parametrize("ago", [0.0, 3600.0])
async def test_a_cluster_whose_clock_is_hours_off_changes_no_time_of_a_module(
    ahead: float, ago: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own clock says how long a module has run that another process started."""
    caplog.set_level(logging.INFO)
    life = Replay("ok", hold=running("module"))
    async with fake_kubernetes(lambda pod: life) as cluster:
        cluster.ahead = ahead
        async with executor_of(cluster) as first:
            ref = await started(first, spec(timeout=timedelta(minutes=10)))
            await life.held.wait()
        began(cluster, ref, ago=ago - ahead)
        async with executor_of(cluster) as second:
            waiting = asyncio.create_task(second.wait(ref))
            cluster.print(ref.name, "module", b"still there\n")
            assert (await anext(second.logs(ref, follow=True))).text == "still there"
            if not ago:
                life.go_on.set()
            assert (await waiting).reason == ("timed out after 600 s" if ago else "")
            assert ("a job is ended" in caplog.text) is bool(ago)


async def test_a_clock_of_a_node_that_is_wrong_takes_no_time_from_a_module_that_was_seen_to_begin() -> None:
    life = Replay("ok", hold=running("prepare"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor, spec(timeout=timedelta(minutes=10)))
        await life.held.wait()
        before = cluster.pod(ref.name)
        behind = {"running": {"startedAt": "2020-01-01T00:00:00Z"}}
        for it in before["status"]["initContainerStatuses"]:
            it["state"] = behind if it["name"] == "module" else {"terminated": {"exitCode": 0}}
        cluster.store.changed(("pods", "ion", ref.name), before)
        cluster.print(ref.name, "module", b"seen to run\n")
        assert (await anext(executor.logs(ref, follow=True))).text == "seen to run"
        life.go_on.set()
        assert (await executor.wait(ref)).cause is None


def began(cluster: FakeKubernetes, ref: JobRef, *, ago: float) -> None:
    """The module did, as its node says, so many seconds ago by our clock."""
    pod = cluster.pod(ref.name)
    for it in pod["status"]["initContainerStatuses"]:
        if it["name"] == "module":
            it["state"]["running"]["startedAt"] = at(time.time() - ago)
    cluster.store.changed(("pods", "ion", ref.name), pod)


async def test_a_deletion_that_fails_is_tried_again() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life, grace="1s") as (cluster, executor):
        cluster.faults.append(Fault("DELETE .*/pods/"))
        ref = await started(executor, spec(timeout=timedelta(milliseconds=100)))
        assert (await executor.wait(ref)).reason == "timed out after 0.1 s"


async def test_a_pod_that_somebody_deletes_is_a_cancelled_job() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        cluster.node.delete(("pods", "ion", ref.name), 5)
        end = await executor.wait(ref)
        assert (end.step, end.cause) == (Step.MODULE, Cause.CANCELLED)
        assert "deleted" in end.reason


async def test_a_pod_that_went_while_nobody_could_look_is_no_ones_wish() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        await cluster.down()
        cluster.node.remove(("pods", "ion", ref.name))
        await cluster.up()
        end = await executor.wait(ref)
        assert end.cause is Cause.INFRASTRUCTURE
        assert "nobody could look" in end.reason


async def test_a_node_that_is_lost_is_given_up_and_nothing_is_forced() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life, lost_after="1s") as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        cluster.node.there.clear()
        cluster.node.delete(("pods", "ion", ref.name), 1)
        end = await executor.wait(ref)
        assert end.cause is Cause.INFRASTRUCTURE
        assert ("pods", "ion", ref.name) in cluster.store.objects
        await executor.remove(ref)
        deletions = [call.body for call in cluster.calls if call.method == "DELETE"]
        assert all(it["gracePeriodSeconds"] >= 1 for it in deletions)
        cluster.node.there.set()


async def test_stopping_ends_a_job_whichever_step_it_is_at_and_it_is_told_as_cancelled() -> None:
    for container, step in (("prepare", Step.PREPARE), ("module", Step.MODULE), ("commit", Step.COMMIT)):
        life = Replay("ok", hold=running(container))
        async with running_as(lambda pod, life=life: life) as (cluster, executor):  # type: ignore[misc]
            ref = await started(executor)
            await life.held.wait()
            await executor.stop(ref, grace=GRACE)
            end = await executor.wait(ref)
            assert (end.step, end.cause, end.reason) == (step, Cause.CANCELLED, "it was stopped")
            await executor.stop(ref, grace=GRACE)
            assert ("pods", "ion", ref.name) not in cluster.store.objects


async def test_what_was_never_started_is_not_stopped_and_what_is_gone_needs_none() -> None:
    async with running_as(lambda pod: None) as (cluster, executor):
        ref = await executor.create(spec())
        await executor.stop(ref, grace=GRACE)
        assert ("pods", "ion", ref.name) in cluster.store.objects
        await executor.remove(ref)
        await executor.remove(ref)
        await executor.stop(ref, grace=GRACE)
        with pytest.raises(JobNotFound):
            await executor.wait(ref)


async def test_a_job_that_ended_is_not_undone_by_stopping() -> None:
    async with running_as(lambda pod: Replay("module-fails")) as (_, executor):
        ref = await started(executor)
        end = await executor.wait(ref)
        await executor.stop(ref, grace=GRACE)
        assert await executor.wait(ref) == end


async def test_removing_ends_what_runs_and_who_waits_is_told() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        waiting = asyncio.create_task(executor.wait(ref))
        await asyncio.wait({waiting}, timeout=0)
        await executor.remove(ref)
        assert (await waiting).cause is Cause.CANCELLED
        assert ("pods", "ion", ref.name) not in cluster.store.objects


async def test_a_pod_of_the_same_name_is_another_job() -> None:
    async with running_as(lambda pod: None) as (cluster, executor):
        ref = await executor.create(spec())
        await executor.remove(ref)
        again = await executor.create(spec())
        with pytest.raises(JobNotFound):
            await executor.start(ref, ticket())
        await executor.remove(ref)
        assert cluster.pod(ref.name)["metadata"]["uid"] == again.id


async def test_jobs_are_found_by_their_labels_with_their_tickets_by_another_process_too() -> None:
    async with running_as(lambda pod: Replay("ok")) as (cluster, executor):
        made = await executor.create(spec("ion-detect-1"))
        ref = await started(executor, spec("ion-detect-2"))
        await started(executor, spec("ion-other-1", labels={"ion.state": "0a1b", "ion.module": "other"}))
        await executor.wait(ref)
        async with executor_of(cluster) as other:
            found = {it.ref.name: it for it in await other.find(LABELS)}
            assert {name: it.state for name, it in found.items()} == {
                "ion-detect-1": JobState.CREATED,
                "ion-detect-2": JobState.ENDED,
            }
            assert (found["ion-detect-1"].ticket, found["ion-detect-2"].ticket) == (None, ticket())
            assert found["ion-detect-1"].ref == made
            assert found["ion-detect-1"].labels == LABELS
            assert len(await other.find({"ion.state": "0a1b"})) == 3
            assert await other.find({"ion.state": "other"}) == []


async def test_labels_that_look_alike_in_kubernetes_are_told_apart() -> None:
    async with running_as(lambda pod: None) as (_, executor):
        odd = {"ion.state": "a b", "größe": "x" * 200}
        await executor.create(spec(labels=odd))
        (found,) = await executor.find(odd)
        assert found.labels == odd


async def test_a_job_is_waited_for_by_another_process_than_the_one_that_started_it() -> None:
    life = Replay("ok", hold=running("module"))
    async with fake_kubernetes(lambda pod: life) as cluster:
        async with executor_of(cluster) as first:
            ref = await started(first)
            await life.held.wait()
        async with executor_of(cluster) as second:
            (found,) = await second.find(LABELS)
            assert (found.ref, found.state) == (ref, JobState.STARTED)
            waiting = asyncio.create_task(second.wait(found.ref))
            life.go_on.set()
            assert (await waiting).cause is None


async def test_a_wait_outlives_a_restart_of_the_api_server() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        await cluster.restart()
        life.go_on.set()
        assert (await executor.wait(ref)).cause is None


async def test_fifty_waits_outlive_a_restart_of_the_api_server_and_no_job_starts_twice() -> None:
    lives: dict[str, Replay] = {}
    names = [f"ion-detect-{n}" for n in range(50)]

    def life(pod: Any) -> Life:
        name = pod["metadata"]["name"]
        assert name not in lives, "a pod lives once"
        return lives.setdefault(name, Replay("ok", hold=running("module")))

    async with running_as(life) as (cluster, executor):
        refs = await asyncio.gather(*(started(executor, spec(name)) for name in names))
        waits = [asyncio.create_task(executor.wait(ref)) for ref in refs]
        await asyncio.gather(*(lives[name].held.wait() for name in names))
        for name in names[:25]:
            lives[name].go_on.set()  # in the middle: some are over before, some meanwhile, some after
        await cluster.down()
        for name in names[25:40]:
            lives[name].go_on.set()
        await cluster.up()
        for name in names[40:]:
            lives[name].go_on.set()
        assert {(end.step, end.cause) for end in await asyncio.gather(*waits)} == {(Step.COMMIT, None)}


async def test_a_wait_outlives_a_watch_whose_version_is_too_old() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        cluster.order(Order.EXPIRE)
        life.go_on.set()
        assert (await executor.wait(ref)).cause is None


async def test_cancelling_a_wait_stops_nothing() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (_, executor):
        ref = await started(executor)
        await life.held.wait()
        waiting = asyncio.create_task(executor.wait(ref))
        await asyncio.wait({waiting}, timeout=0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        life.go_on.set()
        assert (await executor.wait(ref)).cause is None


async def test_logs_have_every_line_of_each_step_to_the_last() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        cluster.print(ref.name, "prepare", b"prepared\n")
        cluster.print(ref.name, "module", b"one\ntwo\n")
        sofar = [(it.step, it.text) async for it in executor.logs(ref)]
        assert sofar == [(Step.PREPARE, "prepared"), (Step.MODULE, "one"), (Step.MODULE, "two")]
        following = asyncio.create_task(_all(executor, ref))
        cluster.print(ref.name, "module", b"three without an end")
        life.go_on.set()
        await executor.wait(ref)
        expected = [*sofar, (Step.MODULE, "three without an end")]
        assert await following == expected
        assert [(it.step, it.text) async for it in executor.logs(ref)] == expected


async def test_of_more_logs_than_may_be_followed_the_others_are_read_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lives = {name: Replay("ok", hold=running("module")) for name in ("a", "b", "c")}
    async with running_as(lambda pod: lives[pod["metadata"]["name"]], followed_logs=1) as (cluster, executor):
        refs = [await started(executor, spec(name)) for name in lives]
        for name, life in lives.items():
            await life.held.wait()
            cluster.print(name, "module", f"{name} works\n".encode())
        for ref, life in reversed([*zip(refs, lives.values(), strict=True)]):  # the one that is followed ends last
            life.go_on.set()
            assert (await executor.wait(ref)).cause is None
            assert await _all(executor, ref) == [(Step.MODULE, f"{ref.name} works")]
        held = [
            call for call in cluster.calls if call.query.get("follow") == "true" and call.query["container"] == "module"
        ]
        assert {call.path.split("/")[-2] for call in held} == {"a"}
    assert caplog.text.count("no more logs are followed at a time") == 1


async def _all(executor: KubernetesExecutor, ref: JobRef) -> list[tuple[Step, str]]:
    return [(it.step, it.text) async for it in executor.logs(ref, follow=True)]


async def test_a_log_that_breaks_off_goes_on_where_it_was() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        following = asyncio.create_task(_all(executor, ref))
        cluster.print(ref.name, "module", b"one\ntwo\n")
        await cluster.restart()
        cluster.print(ref.name, "module", b"three\nfour\n")
        life.go_on.set()
        await executor.wait(ref)
        assert [text for _, text in await following] == ["one", "two", "three", "four"]


async def test_the_log_of_a_stopped_job_is_kept_until_it_is_removed() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, executor):
        ref = await started(executor)
        await life.held.wait()
        following = executor.logs(ref, follow=True)
        cluster.print(ref.name, "module", b"last words\n")
        first = await anext(following)
        await executor.stop(ref, grace=GRACE)
        assert first.text == "last words"
        assert [it.text async for it in executor.logs(ref)] == ["last words"]
        await executor.remove(ref)
        with pytest.raises(JobNotFound):
            await anext(executor.logs(ref))


async def test_closing_leaves_jobs_to_the_cluster() -> None:
    life = Replay("ok", hold=running("module"))
    async with fake_kubernetes(lambda pod: life) as cluster:
        async with executor_of(cluster) as executor:
            ref = await started(executor)
            await life.held.wait()
        assert cluster.pod(ref.name)["status"]["phase"] == "Pending"
        assert "deletionTimestamp" not in cluster.pod(ref.name)["metadata"]


async def test_a_right_that_is_missing_is_told_at_the_start() -> None:
    async with fake_kubernetes() as cluster:
        cluster.denied = {("get", "pods/log"), ("create", "secrets")}
        with pytest.raises(ConfigError, match="we may not get pods/log, create secrets"):
            async with executor_of(cluster):
                pass


async def test_pods_that_a_policy_would_refuse_are_told_at_the_start_and_none_is_made() -> None:
    async with fake_kubernetes() as cluster:
        cluster.admission.restricted = True
        async with executor_of(cluster):
            pass
        with pytest.raises(ConfigError, match="no PriorityClass with name nope"):
            async with executor_of(cluster, priority_class="nope"):
                pass
        with pytest.raises(ConfigError, match=r'unknown field "spec\.nodeSelektor"'):
            async with executor_of(cluster, pod={"spec": {"nodeSelektor": {}}}):
                pass
        assert not list(cluster.store.listed("pods", "ion"))


async def test_an_owner_owns_pods_and_secrets_and_has_to_be_there() -> None:
    async with fake_kubernetes(lambda pod: None) as cluster:
        with pytest.raises(ConfigError, match="there is no ConfigMap 'ion'"):
            async with executor_of(cluster, owner="ion"):
                pass
        key = ("configmaps", "ion", "ion")
        made = cluster.store.made(key, {"metadata": {"name": "ion"}}, dry_run=False)
        async with executor_of(cluster, owner="ion") as executor:
            ref = await executor.create(spec())
            (owner,) = cluster.pod(ref.name)["metadata"]["ownerReferences"]
            assert owner["uid"] == made["metadata"]["uid"]


async def test_many_jobs_are_one_watch() -> None:
    async with running_as(lambda pod: Replay("ok")) as (cluster, executor):
        refs = await asyncio.gather(*(started(executor, spec(f"ion-detect-{n}")) for n in range(20)))
        ends: list[JobEnd] = await asyncio.gather(*(executor.wait(ref) for ref in refs))
        assert {end.cause for end in ends} == {None}
        assert sum(call.query.get("watch") == "true" for call in cluster.calls) == 1
