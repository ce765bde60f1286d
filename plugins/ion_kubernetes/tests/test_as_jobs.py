"""Jobs made as Jobs, for queues that admit those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ion_core.contracts.executor import Cause, JobState, Step
from ion_core.errors import JobNotFound, PermanentError
from ion_kubernetes import names
from ion_kubernetes.executor import KubernetesExecutor
from plugins.ion_kubernetes.tests.fake import rules
from plugins.ion_kubernetes.tests.fake.node import Life
from plugins.ion_kubernetes.tests.fake.replay import Replay, running
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes
from plugins.ion_kubernetes.tests.job_controller import JobController, job_controller
from plugins.ion_kubernetes.tests.test_executor import GRACE, LABELS, executor_of, spec, started, ticket


@asynccontextmanager
async def running_as(
    life: Callable[[Any], Life | None], **given: Any
) -> AsyncIterator[tuple[FakeKubernetes, JobController, KubernetesExecutor]]:
    async with (
        fake_kubernetes(life) as cluster,
        job_controller(cluster) as controller,
        executor_of(cluster, object="job", **given) as executor,
    ):
        yield cluster, controller, executor


@pytest.mark.parametrize(
    ("name", "step", "cause"),
    [
        ("ok", Step.COMMIT, None),
        ("module-fails", Step.MODULE, Cause.MODULE),
        ("evicted-by-api", Step.MODULE, Cause.INFRASTRUCTURE),
    ],
)
async def test_a_job_ends_as_the_pod_of_its_job_did(name: str, step: Step, cause: Cause | None) -> None:
    async with running_as(lambda pod: Replay(name)) as (cluster, _, executor):
        ref = await started(executor)
        end = await executor.wait(ref)
        assert (end.step, end.cause) == (step, cause)
        await executor.remove(ref)
        assert not list(cluster.store.listed("jobs.batch", "ion"))
        assert not list(cluster.store.listed("pods", "ion"))
        with pytest.raises(JobNotFound):
            await executor.wait(ref)


async def test_a_job_is_made_at_its_start_with_one_pod_for_ever() -> None:
    async with running_as(lambda pod: Replay("ok"), queue="main") as (cluster, controller, executor):
        ref = await executor.create(spec())
        assert not list(cluster.store.listed("jobs.batch", "ion"))
        (found,) = await executor.find(LABELS)
        assert (found.ref, found.state, found.ticket) == (ref, JobState.CREATED, None)
        await executor.start(ref, ticket())
        await executor.start(ref, ticket())
        with pytest.raises(PermanentError, match="another attempt"):
            await executor.start(ref, ticket("other"))
        (job,) = cluster.store.listed("jobs.batch", "ion")
        rules.check(job, "Job.batch")
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "main"
        made = {key: job["spec"][key] for key in ("suspend", "backoffLimit", "podReplacementPolicy")}
        assert made == {"suspend": True, "backoffLimit": 0, "podReplacementPolicy": "Failed"}
        assert "activeDeadlineSeconds" not in job["spec"]
        assert "schedulingGates" not in job["spec"]["template"]["spec"]
        controller.suspend(ref.name, False)
        assert (await executor.wait(ref)).cause is None
        (found,) = await executor.find(LABELS)
        assert (found.ref, found.state, found.ticket) == (ref, JobState.ENDED, ticket())


async def test_a_job_that_waits_in_its_queue_is_found_and_waited_for_by_another_process() -> None:
    async with running_as(lambda pod: Replay("ok"), queue="main") as (cluster, controller, executor):
        ref = await started(executor)
        async with executor_of(cluster, object="job") as other:
            (found,) = await other.find(LABELS)
            assert (found.ref, found.state, found.ticket) == (ref, JobState.STARTED, ticket())
            waiting = asyncio.create_task(other.wait(found.ref))
            controller.suspend(ref.name, False)
            assert (await waiting).cause is None


async def test_a_queue_that_takes_the_pod_away_is_infrastructure_and_nothing_is_resumed() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, controller, executor):
        ref = await started(executor)
        await life.held.wait()
        controller.suspend(ref.name, True)
        end = await executor.wait(ref)
        assert (end.cause, end.reason) == (Cause.INFRASTRUCTURE, "its queue took its pod away")
        assert not list(cluster.store.listed("jobs.batch", "ion"))


async def test_a_job_that_somebody_deletes_is_cancelled_with_a_pod_and_without() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, _, executor):
        ref = await started(executor)
        await life.held.wait()
        cluster.store.gone(("jobs.batch", "ion", ref.name))
        cluster._collect()
        assert (await executor.wait(ref)).cause is Cause.CANCELLED
    async with running_as(lambda pod: None, queue="main") as (cluster, _, executor):
        ref = await started(executor)
        cluster.store.gone(("jobs.batch", "ion", ref.name))
        end = await executor.wait(ref)
        assert (end.step, end.cause, end.reason) == (Step.QUEUED, Cause.CANCELLED, "somebody deleted its Job")


async def test_stopping_leaves_neither_job_nor_pod() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, _, executor):
        ref = await started(executor)
        await life.held.wait()
        await executor.stop(ref, grace=GRACE)
        end = await executor.wait(ref)
        assert (end.step, end.cause, end.reason) == (Step.MODULE, Cause.CANCELLED, "it was stopped")
        assert not list(cluster.store.listed("jobs.batch", "ion"))
        assert not list(cluster.store.listed("pods", "ion"))


async def test_stopping_what_waits_in_its_queue_leaves_nothing() -> None:
    async with running_as(lambda pod: None, queue="main") as (cluster, _, executor):
        ref = await started(executor)
        await executor.stop(ref, grace=GRACE)
        end = await executor.wait(ref)
        assert (end.step, end.cause, end.reason) == (Step.QUEUED, Cause.CANCELLED, "it was stopped")
        assert not list(cluster.store.listed("jobs.batch", "ion"))


async def test_pods_that_are_refused_later_are_told_by_events_alone() -> None:
    async with running_as(lambda pod: None, start_wait="1s") as (cluster, _, executor):
        ref = await executor.create(spec())
        cluster.admission.quota = {"pods": "0"}
        await executor.start(ref, ticket())
        end = await executor.wait(ref)
        assert (end.step, end.cause) == (Step.QUEUED, Cause.NO_ROOM)
        assert "exceeded quota" in end.reason


async def test_logs_are_those_of_the_pod() -> None:
    life = Replay("ok", hold=running("module"))
    async with running_as(lambda pod: life) as (cluster, _, executor):
        ref = await executor.create(spec())
        assert [line async for line in executor.logs(ref)] == []
        await executor.start(ref, ticket())
        await life.held.wait()
        cluster.print(f"{ref.name}-x1y2z", "module", b"one\n")
        life.go_on.set()
        await executor.wait(ref)
        assert [it.text async for it in executor.logs(ref)] == ["one"]


async def test_what_is_made_carries_nothing_of_an_event_but_its_ticket() -> None:
    async with running_as(lambda pod: None, queue="main") as (cluster, _, executor):
        ref = await started(executor)
        (job,) = cluster.store.listed("jobs.batch", "ion")
        assert job["spec"]["template"]["metadata"]["annotations"][names.TICKET] == ticket().encode().decode()
        assert job["metadata"]["labels"][names.NAME] == ref.name
