"""What a pod's status says about its job, held to what a real cluster said while its pods ran, step by step."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.executor import Cause, JobEnd, Step
from ion_core.contracts.runtime import ExitStatus
from ion_kubernetes import judging, names
from ion_kubernetes.judging import Going, Wait, judge

TRANSCRIPTS = json.loads((Path(__file__).parent / "data" / "transcripts.json").read_text())

ENDS = {
    "ok": (9, Step.COMMIT, None, ExitStatus(code=0)),
    "module-fails": (7, Step.MODULE, Cause.MODULE, ExitStatus(code=4)),
    "prepare-fails": (5, Step.PREPARE, Cause.INFRASTRUCTURE, ExitStatus(code=75)),
    "commit-fails": (9, Step.COMMIT, Cause.MODULE, ExitStatus(code=1)),
    "module-oom": (7, Step.MODULE, Cause.LIMIT, ExitStatus(code=137, signal=9, limit="memory 32 MiB")),
    "module-child-oom": (7, Step.MODULE, Cause.LIMIT, ExitStatus(code=0, limit="memory 32 MiB")),
    "program-missing": (6, Step.MODULE, Cause.MODULE, ExitStatus(code=127)),
    "deadline": (8, Step.MODULE, Cause.MODULE, ExitStatus(code=143, signal=15)),
    "deleted": (9, Step.MODULE, Cause.CANCELLED, ExitStatus(code=143, signal=15)),
    "evicted-by-api": (10, Step.MODULE, Cause.INFRASTRUCTURE, ExitStatus(code=143, signal=15)),
    "evicted-storage": (7, Step.MODULE, Cause.LIMIT, None),
    "forced": (8, Step.MODULE, Cause.CANCELLED, None),
}
"""The change of status at which each recorded job ends, and how."""

WAITS = {
    "image-missing": (6, Step.MODULE, Wait.IMAGE, Cause.IMAGE, "connection refused"),
    "secret-missing": (4, Step.PREPARE, Wait.START, Cause.REFUSED, 'secret "nope" not found'),
    "unschedulable": (1, Step.QUEUED, Wait.START, Cause.NO_ROOM, "nodes are available"),
}
"""Those that never end by themselves: the change from which on it is known what is waited for."""


def states(name: str) -> list[tuple[dict[str, Any], bool]]:
    """The pod after each change, whole, and whether it is gone then."""
    limits = {"limits": {"memory": "32Mi"}}
    containers = {
        "initContainers": [{"name": "prepare", "resources": limits}, {"name": "module", "resources": limits}],
        "containers": [{"name": "commit", "resources": limits}],
    }
    found = []
    for _, kind, pod in TRANSCRIPTS[name]["events"]:
        whole = deepcopy(pod)
        whole["spec"] = {**containers, **pod.get("spec", {}), "terminationGracePeriodSeconds": 5}
        found.append((whole, kind == "DELETED"))
    return found


def last(name: str) -> dict[str, Any]:
    return states(name)[-1][0]


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_recorded_job_ends_neither_early_nor_late_and_always_the_same_way(name: str) -> None:
    ended_at, step, cause, status = ENDS.get(name, (len(states(name)), None, None, None))
    for number, (pod, gone) in enumerate(states(name)):
        found = judge(pod, gone=gone)
        if number < ended_at:
            assert isinstance(found, Going), (number, found)
            continue
        assert isinstance(found, JobEnd), (number, found)
        assert (found.step, found.cause) == (step, cause), number
        if number == ended_at:
            assert found.status == status


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_the_step_of_a_recorded_job_only_goes_forward(name: str) -> None:
    order = list(Step)
    steps = [judge(pod, gone=gone).step for pod, gone in states(name)]
    assert steps == sorted(steps, key=order.index)


@pytest.mark.parametrize("name", WAITS)
def test_what_a_job_waits_for_in_vain_is_told_with_the_engines_words(name: str) -> None:
    since, step, wait, cause, words = WAITS[name]
    found = judge(states(name)[since][0])
    assert isinstance(found, Going)
    assert found.waiting is not None
    assert found.waiting.wait is wait
    assert (found.waiting.end.step, found.waiting.end.cause) == (step, cause)
    assert words in found.waiting.end.reason


@pytest.mark.parametrize("name", [name for name in TRANSCRIPTS if name not in WAITS])
def test_a_job_that_goes_on_waits_for_no_image_and_no_room(name: str) -> None:
    for pod, gone in states(name):
        found = judge(pod, gone=gone)
        if isinstance(found, Going) and found.waiting is not None:
            assert found.waiting.wait is not Wait.IMAGE
            assert found.waiting.end.cause in (Cause.INFRASTRUCTURE, Cause.CANCELLED), found


def test_an_image_that_can_be_none_is_not_waited_for() -> None:
    pod = last("image-missing")
    assert not judging.cannot_come(pod)
    for status in pod["status"]["initContainerStatuses"]:
        if status["name"] == "module":
            status["state"] = {"waiting": {"reason": "InvalidImageName", "message": 'couldn\'t parse image name "Bad"'}}
    assert judging.cannot_come(pod)
    found = judge(pod)
    assert isinstance(found, Going)
    assert found.waiting is not None
    assert found.waiting.end.cause is Cause.IMAGE
    assert "couldn't parse" in found.waiting.end.reason


def test_only_our_three_containers_count() -> None:
    pod = last("ok")
    pod["status"]["phase"] = "Running"
    mesh = {"name": "mesh-proxy", "state": {"running": {"startedAt": "2026-11-28T20:32:46Z"}}}
    broken = {"name": "helper", "state": {"terminated": {"exitCode": 9, "reason": "OOMKilled"}}}
    pod["status"]["containerStatuses"] += [mesh]
    pod["status"]["initContainerStatuses"] = [broken, *pod["status"]["initContainerStatuses"]]
    found = judge(pod)
    assert isinstance(found, JobEnd)
    assert (found.step, found.cause) == (Step.COMMIT, None)


@pytest.mark.parametrize("gone", [False, True])
def test_a_commit_that_was_done_is_done_whatever_became_of_the_pod(gone: bool) -> None:
    pod = last("ok")
    pod["metadata"] |= {"deletionTimestamp": "2026-11-28T20:33:48Z", "deletionGracePeriodSeconds": 5}
    pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    found = judge(pod, gone=gone)
    assert isinstance(found, JobEnd)
    assert (found.step, found.cause) == (Step.COMMIT, None)


def test_a_node_under_pressure_is_no_limit_of_the_module() -> None:
    pod = last("evicted-storage")
    pod["status"]["message"] = "The node was low on resource: ephemeral-storage."
    found = judge(pod)
    assert isinstance(found, JobEnd)
    assert found.cause is Cause.INFRASTRUCTURE
    assert "low on resource" in found.reason


def test_what_ended_by_a_signal_may_have_been_evicted_and_is_judged_when_the_pod_says_why() -> None:
    pod = states("module-fails")[7][0]
    for status in pod["status"]["initContainerStatuses"]:
        if status["name"] == "module":
            status["state"]["terminated"]["exitCode"] = 137
    going = judge(pod)
    assert isinstance(going, Going)
    assert going.waiting is not None
    assert going.waiting.wait is Wait.SETTLED
    assert going.waiting.end.status == ExitStatus(code=137, signal=9)
    pod["status"] |= {"phase": "Failed", "reason": "NodeShutdown", "message": "Pod was terminated"}
    found = judge(pod)
    assert isinstance(found, JobEnd)
    assert found.cause is Cause.INFRASTRUCTURE


def test_a_deleted_pod_that_stays_is_lost_and_says_on_which_node() -> None:
    pod = states("deleted")[8][0]
    found = judge(pod)
    assert isinstance(found, Going)
    assert found.waiting is not None
    assert found.waiting.wait is Wait.GONE
    assert found.waiting.end.cause is Cause.INFRASTRUCTURE
    assert found.waiting.end.reason.startswith("node ")


def test_a_module_that_had_failed_before_somebody_deleted_its_pod_has_failed() -> None:
    pod = last("module-fails")
    pod["metadata"] |= {"deletionTimestamp": "2026-11-29T20:33:48Z", "deletionGracePeriodSeconds": 0}
    found = judge(pod, gone=True)
    assert isinstance(found, JobEnd)
    assert (found.cause, found.status) == (Cause.MODULE, ExitStatus(code=4))


@pytest.mark.parametrize(
    ("code", "message", "cause", "reason"),
    [
        (
            65,
            '{"reasons": ["out/a: is a link", "out/b: is a device"]}',
            Cause.OUTPUT_REFUSED,
            "out/a: is a link; out/b: is a device",
        ),
        (69, '{"reasons": ["s3: no answer"]}', Cause.INFRASTRUCTURE, "s3: no answer"),
        (75, "", Cause.INFRASTRUCTURE, "exit code 75"),
        (78, '{"reasons": ["storage: no such provider"]}', Cause.REFUSED, "storage: no such provider"),
        (70, "Traceback (most recent call last)", Cause.MODULE, "Traceback (most recent call last)"),
        (137, "", Cause.INFRASTRUCTURE, "exit code 137"),
    ],
)
def test_the_result_of_commit_is_carried_back_by_its_termination_message(
    code: int, message: str, cause: Cause, reason: str
) -> None:
    pod = last("commit-fails")
    (status,) = pod["status"]["containerStatuses"]
    status["state"]["terminated"] |= {"exitCode": code, "message": message}
    found = judge(pod)
    assert isinstance(found, JobEnd)
    assert (found.step, found.cause, found.reason) == (Step.COMMIT, cause, reason)


def test_a_handler_without_memory_is_told_to_whoever_set_it_up() -> None:
    pod = last("prepare-fails")
    for status in pod["status"]["initContainerStatuses"]:
        if status["name"] == "prepare":
            status["state"]["terminated"] |= {"exitCode": 137, "reason": "OOMKilled"}
    found = judge(pod)
    assert isinstance(found, JobEnd)
    assert found.cause is Cause.REFUSED
    assert "handler.memory" in found.reason


def test_an_end_has_the_times_of_its_steps_and_what_the_image_was() -> None:
    found = judge(last("ok"))
    assert isinstance(found, JobEnd)
    assert list(found.began) == [Step.PREPARE, Step.MODULE, Step.COMMIT]
    assert found.began[Step.PREPARE] < found.began[Step.MODULE] < found.began[Step.COMMIT]
    assert found.ended_at is not None
    assert found.ended_at >= found.began[Step.COMMIT]
    assert found.image_digest is not None
    assert found.image_digest.startswith("sha256:")


def test_how_long_the_module_runs_is_counted_from_its_own_start() -> None:
    began = [judging.module_began(pod) for pod, _ in states("ok")]
    running = [it for it in began if it is not None]
    assert len(set(running)) == 1
    found = judge(last("ok"))
    assert isinstance(found, JobEnd)
    assert running[0] == found.began[Step.MODULE]


def test_a_job_is_started_by_its_ticket() -> None:
    pod: dict[str, Any] = {"metadata": {"annotations": {}}}
    assert not judging.is_started(pod)
    pod["metadata"]["annotations"][names.TICKET] = "{}"
    assert judging.is_started(pod)
