"""Pods of the fake cluster whose containers really run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ion_kubernetes.api import EVENTS, PODS, SECRETS, Api
from ion_kubernetes.watch import PodState, PodWatch
from plugins.ion_kubernetes.tests.calling import cluster_and_api
from plugins.ion_kubernetes.tests.fake.containers import busybox_image, expanded, machine_image
from plugins.ion_kubernetes.tests.fake.processes import Processes
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes

IMAGE = "registry.example/busybox:1"
HANDLER = "registry.example/ion:1"


@dataclass
class World:
    cluster: FakeKubernetes
    api: Api
    watch: PodWatch
    directory: Path

    def volumes(self) -> list[Path]:
        """Those of which the node has not got rid yet, a directory for each pod."""
        return list(self.directory.iterdir())

    async def until(self, made: dict[str, Any], holds: Any) -> PodState:
        """The first state of which that is true."""
        with self.watch.following(made) as follower:
            async for state in follower.states():
                if holds(state):
                    return state
        raise AssertionError("the pod is gone")

    async def ended(self, made: dict[str, Any]) -> dict[str, Any]:
        """The status of a pod that is over."""
        state = await self.until(made, lambda it: it.object["status"]["phase"] in ("Succeeded", "Failed"))
        found: dict[str, Any] = state.object["status"]
        return found

    async def log(self, container: str) -> str:
        return b"".join([line.text async for line in self.api.log("a", container)]).decode()


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    images = {IMAGE: busybox_image(tmp_path / "image"), HANDLER: machine_image(tmp_path / "shared")}
    life = Processes(tmp_path / "pods", images)
    async with cluster_and_api(life) as (cluster, api):
        watch = PodWatch(api, {})
        task = asyncio.create_task(watch.run())
        try:
            yield World(cluster, api, watch, tmp_path / "pods")
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def container(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **more}


def pod(steps: Sequence[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    """The last of them is the main container."""
    *before, last = steps
    return {
        "metadata": {"name": "a", "annotations": {"ion/spec": "1"}},
        "spec": {"restartPolicy": "Never", "initContainers": before, "containers": [last], **spec},
    }


def states(status: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    """Of each container: name, reason and exit code."""
    found = []
    for it in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = next(iter(it["state"].values()))
        found.append((it["name"], state.get("reason", ""), state.get("exitCode")))
    return found


def runs(name: str) -> Any:
    return lambda state: any(
        it["name"] == name and "running" in it["state"]
        for it in state.object["status"].get("initContainerStatuses", [])
    )


async def test_three_containers_share_a_volume_each_as_it_may(world: World) -> None:
    await world.api.create(SECRETS, {"metadata": {"name": "s"}, "stringData": {"ion.yaml": "secret"}})
    whole = [{"name": "ion", "mountPath": "/ion"}, {"name": "settings", "mountPath": "/etc/ion", "readOnly": True}]
    parts = [
        {"name": "ion", "mountPath": "/ion/in", "subPath": "in", "readOnly": True},
        {"name": "ion", "mountPath": "/ion/out", "subPath": "out"},
    ]
    steps = [
        container("prepare", "mkdir /ion/in /ion/out; cp /etc/ion/ion.yaml /ion/in/a", volumeMounts=whole),
        container("module", "cat /ion/in/a > /ion/out/b; ls /; echo no > /ion/in/a || ls /etc", volumeMounts=parts),
        container("commit", "cat /ion/out/b; printf done > /dev/termination-log", volumeMounts=whole),
    ]
    volumes = [{"name": "ion", "emptyDir": {}}, {"name": "settings", "secret": {"secretName": "s"}}]
    made = await world.api.create(PODS, pod(steps, volumes=volumes))
    status = await world.ended(made)
    assert states(status)[1:] == [("module", "Error", 1), ("commit", "PodInitializing", None)]
    assert "Read-only file system" in await world.log("module")
    assert "etc" not in (await world.log("module")).splitlines()


async def test_the_main_container_runs_when_those_before_it_have_ended(world: World) -> None:
    env = [{"name": "A", "value": "$(HOSTNAME)-$$(B)"}]
    steps = [
        container("prepare", "echo one"),
        container("module", "echo $A '$(A)'", env=env),
        container("commit", "echo three; printf said > /dev/termination-log"),
    ]
    status = await world.ended(await world.api.create(PODS, pod(steps)))
    assert status["phase"] == "Succeeded"
    assert states(status) == [(name, "Completed", 0) for name in ("prepare", "module", "commit")]
    assert status["containerStatuses"][0]["state"]["terminated"]["message"] == "said"
    assert await world.log("module") == "a-$(B) a-$(B)\n"
    await world.cluster.node.close()
    assert world.volumes() == [], "they go with their pod"


async def test_a_step_that_fails_is_the_last_and_its_end_is_told(world: World) -> None:
    steps = [
        container("prepare", "true"),
        container("module", "echo sorry; exit 4", terminationMessagePolicy="FallbackToLogsOnError"),
        container("commit", "true"),
    ]
    status = await world.ended(await world.api.create(PODS, pod(steps)))
    assert status["phase"] == "Failed"
    assert states(status) == [("prepare", "Completed", 0), ("module", "Error", 4), ("commit", "PodInitializing", None)]
    assert status["initContainerStatuses"][1]["state"]["terminated"]["message"] == "sorry\n"


async def test_what_a_container_leaves_running_ends_with_it(world: World) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    mounts = [{"name": "v", "mountPath": "/v"}]
    child = "(trap '' TERM HUP; while :; do echo > /v/tick; done) & while [ ! -e /v/tick ]; do :; done"
    steps = [
        container("prepare", child, volumeMounts=mounts),
        container("module", "rm /v/tick; ls -A /v; ps", volumeMounts=mounts),
        container("commit", "ls -A /v", volumeMounts=mounts),
    ]
    status = await world.ended(await world.api.create(PODS, pod(steps, volumes=volumes)))
    assert status["phase"] == "Succeeded"
    assert await world.log("commit") == ""


async def test_a_program_that_is_not_there_and_an_image_that_is_not(world: World) -> None:
    missing = {"name": "module", "image": IMAGE, "command": ["nope"]}
    status = await world.ended(await world.api.create(PODS, pod([missing, container("commit", "true")])))
    assert states(status)[0] == ("module", "StartError", 128)
    await world.api.delete(PODS, "a")
    made = await world.api.create(PODS, pod([{**missing, "image": "nope:1"}, container("commit", "true")]))
    waits = await world.until(made, lambda it: states(it.object["status"])[:1] == [("module", "ErrImagePull", None)])
    assert waits.object["status"]["phase"] == "Pending"


async def test_a_secret_that_is_not_there_is_waited_for_with_an_event(world: World) -> None:
    reference = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "k"}}}
    made = await world.api.create(PODS, pod([container("prepare", "true", env=[reference]), container("c", "true")]))
    config_error = [("prepare", "CreateContainerConfigError", None)]
    waits = await world.until(made, lambda it: states(it.object["status"])[:1] == config_error)
    assert (
        waits.object["status"]["initContainerStatuses"][0]["state"]["waiting"]["message"] == 'secret "nope" not found'
    )
    await world.api.delete(PODS, "a", grace=0)
    volume = {"name": "v", "secret": {"secretName": "nope"}}
    made = await world.api.create(PODS, pod([container("prepare", "true"), container("c", "true")], volumes=[volume]))
    about = {"involvedObject.uid": made["metadata"]["uid"]}
    while not (found := await world.api.list(EVENTS, fields=about))["items"]:
        assert world.cluster.pod("a")["status"]["phase"] == "Pending"
    assert [it["reason"] for it in found["items"]] == ["FailedMount"]


async def test_a_pod_waits_in_its_first_container_for_an_annotation(world: World) -> None:
    item = {"path": "job", "fieldRef": {"fieldPath": "metadata.annotations['ion/job']"}}
    volume = {"name": "job", "downwardAPI": {"items": [item]}}
    mounts = [{"name": "job", "mountPath": "/job"}]
    steps = [
        container("prepare", "while [ ! -s /job/job ]; do sleep 0.01; done; cat /job/job", volumeMounts=mounts),
        container("commit", "ls /"),
    ]
    made = await world.api.create(PODS, pod(steps, volumes=[volume]))
    await world.until(made, runs("prepare"))
    start = [{"op": "add", "path": "/metadata/annotations/ion~1job", "value": '{"event": "1"}'}]
    await world.api.patch(PODS, "a", start)
    assert (await world.ended(made))["phase"] == "Succeeded"
    assert await world.log("prepare") == '{"event": "1"}'
    assert "job" not in (await world.log("commit")).splitlines()


@pytest.mark.parametrize(
    ("script", "grace", "code"),
    [
        ("trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done", 30, 7),
        ("echo up; while :; do sleep 1; done", 1, 137),
    ],
)
async def test_a_pod_that_is_deleted_is_told_to_end_and_then_killed(
    world: World, script: str, grace: int, code: int
) -> None:
    made = await world.api.create(PODS, pod([container("module", script), container("commit", "true")]))
    await world.until(made, runs("module"))
    lines = world.api.log("a", "module", follow=True)
    assert (await anext(lines)).text == b"up\n"
    await lines.aclose()
    with world.watch.following(made) as follower:
        await world.api.delete(PODS, "a", grace=grace)
        last = [state async for state in follower.states()][-1]
    assert states(last.object["status"]) == [("module", "Error", code), ("commit", "PodInitializing", None)]
    assert last.object["status"]["phase"] == "Failed"


async def test_memory_and_disk_have_their_limits(world: World) -> None:
    greedy = "x=0123456789abcdef; while :; do x=$x$x; done"
    limited = {"limits": {"memory": "64Mi"}}
    steps = [container("module", greedy, resources=limited), container("commit", "true")]
    status = await world.ended(await world.api.create(PODS, pod(steps)))
    assert states(status)[0] == ("module", "OOMKilled", 137)
    await world.api.delete(PODS, "a")
    writes = container(
        "module", "cat /dev/zero | head -c 9000000 > /v/a; sleep 100", volumeMounts=[{"name": "v", "mountPath": "/v"}]
    )
    volumes = [{"name": "v", "emptyDir": {"sizeLimit": "5Mi"}}]
    made = await world.api.create(PODS, pod([writes, container("commit", "true")], volumes=volumes))
    status = await world.ended(made)
    assert (status["reason"], status["message"]) == (
        "Evicted",
        'Usage of EmptyDir volume "v" exceeds the limit "5Mi". ',
    )


async def test_a_pod_has_its_own_deadline(world: World) -> None:
    steps = [container("module", "trap 'exit 143' TERM; while :; do sleep 0.01; done"), container("commit", "true")]
    status = await world.ended(await world.api.create(PODS, pod(steps, activeDeadlineSeconds=1)))
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert states(status)[0] == ("module", "Error", 143)


async def test_a_sidecar_runs_beside_the_others_and_does_not_count(world: World) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    mounts = [{"name": "v", "mountPath": "/v"}]
    serves = "trap 'exit 7' TERM; echo > /v/up; while :; do sleep 0.01; done"
    steps = [
        container("sidecar", serves, restartPolicy="Always", volumeMounts=mounts),
        container("main", "while [ ! -e /v/up ]; do sleep 0.01; done", volumeMounts=mounts),
    ]
    status = await world.ended(await world.api.create(PODS, pod(steps, volumes=volumes)))
    assert status["phase"] == "Succeeded"
    assert states(status) == [("sidecar", "Error", 7), ("main", "Completed", 0)]


async def test_our_own_handler_prepares_and_commits_around_a_module(world: World) -> None:
    shared = world.directory.parent / "shared"
    context = ["--context.name", "detect", "--context.eventid", "1", "--context.correlationid", "flow"]
    place = ["--basedir", "/ion", "--development.enabled", "--development.basedir", str(shared / "dev")]

    def handler(step: str) -> dict[str, Any]:
        command = ["ion-core", "handler", step, *context, "--valideventtypes", "face.detected", *place]
        mounts = [{"name": "ion", "mountPath": "/ion"}]
        secure = {"readOnlyRootFilesystem": True}
        return {"name": step, "image": HANDLER, "command": command, "volumeMounts": mounts, "securityContext": secure}

    parts = [
        {"name": "ion", "mountPath": "/ion/in", "subPath": "in", "readOnly": True},
        {"name": "ion", "mountPath": "/ion/out", "subPath": "out"},
    ]
    script = "ls /ion/in; mkdir -p /ion/out/data; echo hello > /ion/out/data/b.txt"
    steps = [handler("prepare"), container("module", script, volumeMounts=parts), handler("commit")]
    made = await world.api.create(PODS, pod(steps, volumes=[{"name": "ion", "emptyDir": {}}]))
    status = await world.ended(made)
    assert status["phase"] == "Succeeded", states(status)
    assert [path.read_text() for path in (shared / "dev").rglob("b.txt")] == ["hello\n"], await world.log("commit")


def test_dollars_are_expanded_as_kubernetes_does() -> None:
    env = {"A": "b"}
    given = {"$(A)": "b", "$$(A)": "$(A)", "$(NO)": "$(NO)", "$A": "$A", "$$$(A)": "$b", "a$": "a$", "$$$$": "$$"}
    assert {text: expanded(text, env) for text in given} == given
