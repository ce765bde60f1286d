"""The executor passes the kit: against the stand-in, whose pods run as processes of this machine.

With ION_TEST_KUBECONFIG it is a real cluster instead, with ION_TEST_NAMESPACE, ION_TEST_HANDLER_IMAGE and, in JSON,
ION_TEST_STORAGE: a section ``storage`` of stores that its pods reach as this machine does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ion_core.contracts.executor import Executor, JobRef
from ion_core.testing import ExecutorConformance
from ion_core.testing.job_logs import JobLogRules
from ion_core.testing.jobs import ExecutorKit
from ion_kubernetes.api import JOBS, PODS, open_api
from ion_kubernetes.credentials import open_credentials
from ion_kubernetes.executor import KubernetesExecutor
from ion_kubernetes.opening import open_kubernetes_executor, opened
from ion_kubernetes.settings import KubernetesSettings
from plugins.ion_kubernetes.tests.calling import api_of
from plugins.ion_kubernetes.tests.fake.admission import Admission
from plugins.ion_kubernetes.tests.fake.containers import busybox_image, machine_image
from plugins.ion_kubernetes.tests.fake.faults import Fault
from plugins.ion_kubernetes.tests.fake.node import Life, Pod
from plugins.ion_kubernetes.tests.fake.processes import Processes
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes
from plugins.ion_kubernetes.tests.fake.statuses import status
from plugins.ion_kubernetes.tests.job_controller import job_controller, pod_of

MODULE = "registry.example/busybox:1"
HANDLER = "registry.example/ion:0.2"
REAL = os.environ.get("ION_TEST_KUBECONFIG")
HELD = """#!/bin/sh
trap 'exit 143' TERM
while [ -e {held}/$2 ]; do sleep 0.02; done
exec {program} "$@"
"""
"""``ion-core``, once nothing holds the step that it is."""


@dataclass(frozen=True)
class Held:
    """A life that begins when there is room."""

    life: Life
    room: asyncio.Event

    async def live(self, pod: Pod) -> None:
        stopping = asyncio.create_task(pod.stopping.wait())
        placed = asyncio.create_task(self.room.wait())
        await asyncio.wait([stopping, placed], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        placed.cancel()
        if not pod.stopping.is_set():
            await self.life.live(pod)


class OnTheStandIn(ExecutorKit):
    image: ClassVar[str | None] = MODULE
    missing_image: ClassVar[str | None] = "registry.example/no/such:1"
    given: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    async def executor(self, tmp_path: Path) -> AsyncIterator[Executor]:
        self.held, self.room = tmp_path / "held", asyncio.Event()
        self.held.mkdir()
        self.room.set()
        images = {
            MODULE: replace(busybox_image(tmp_path / "image"), shared=[self.shared(tmp_path)]),
            HANDLER: self.handler(tmp_path),
        }
        processes = Processes(tmp_path / "pods", images)

        def life(pod: Any) -> Life | None:
            return None if pod["metadata"]["name"] == "filler" else Held(processes, self.room)

        async with self.engine(life) as self.cluster, self.reopen() as executor:
            yield executor
            self.cluster.node.there.set()

    def engine(self, life: Callable[[Any], Life | None]) -> AbstractAsyncContextManager[FakeKubernetes]:
        return fake_kubernetes(life)

    def handler(self, tmp_path: Path) -> Any:
        image = machine_image(tmp_path)
        script = tmp_path / "bin" / "ion-core"
        script.parent.mkdir()
        program = f"{image.env['PATH'].partition(':')[0]}/ion-core"
        script.write_text(HELD.format(held=self.held, program=program))
        script.chmod(0o755)
        return replace(image, env={**image.env, "PATH": f"{script.parent}:{image.env['PATH']}"})

    cluster: FakeKubernetes

    @asynccontextmanager
    async def reopen(self) -> AsyncIterator[KubernetesExecutor]:
        settings = KubernetesSettings.model_validate(
            {"handler_image": HANDLER, "image_wait": "1s", "lost_after": "1s", "grace": "1s", **self.given}
        )
        async with api_of(self.cluster, timeout=5) as api, opened(api, settings) as executor:
            yield executor

    @asynccontextmanager
    async def outage(self, executor: KubernetesExecutor) -> AsyncIterator[None]:
        await self.cluster.down()
        yield
        await self.cluster.up()

    @asynccontextmanager
    async def stores_away(self, tmp_path: Path) -> AsyncIterator[None]:
        """Another process keeps the documents to itself."""
        with closing(sqlite3.connect(tmp_path / "documents.sqlite", isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    def shared(self, tmp_path: Path) -> Path:
        path = tmp_path / "shared"
        path.mkdir(exist_ok=True)
        return path

    async def listed(self, executor: KubernetesExecutor) -> str:
        """All but what Secrets hold."""
        found = [it for key, it in self.cluster.store.objects.items() if key[0] != "secrets"]
        return json.dumps([*found, *(key for key in self.cluster.store.objects if key[0] == "secrets")])

    async def lose_node(self, executor: KubernetesExecutor, ref: JobRef) -> None:
        self.disrupt(ref, "DeletionByTaintManager")
        self.cluster.node.there.clear()
        self.cluster.node.delete(self.key(ref), 1)

    async def evict(self, executor: KubernetesExecutor, ref: JobRef) -> None:
        self.disrupt(ref, "EvictionByEvictionAPI")
        self.cluster.node.delete(self.key(ref), 1)

    async def delete(self, executor: KubernetesExecutor, ref: JobRef) -> None:
        self.cluster.node.delete(self.key(ref), None)

    def disrupt(self, ref: JobRef, reason: str) -> None:
        pod = self.cluster.store.get(self.key(ref))
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "a reason of its own"}
        pod["status"] = {**pod["status"], "conditions": [*pod["status"].get("conditions", []), condition]}
        self.cluster.store.changed(self.key(ref), pod)

    def key(self, ref: JobRef) -> tuple[str, str, str]:
        return ("pods", "ion", ref.name)

    @asynccontextmanager
    async def fill(self, executor: KubernetesExecutor) -> AsyncIterator[None]:
        async with api_of(self.cluster) as api:
            container = {"name": "c", "image": MODULE}
            await api.create(PODS, {"metadata": {"name": "filler"}, "spec": {"containers": [container]}})
            self.cluster.admission.quota = {"pods": "1"}
            yield
            self.cluster.admission = Admission()
            await api.delete(PODS, "filler")

    @asynccontextmanager
    async def forbid(self, executor: KubernetesExecutor) -> AsyncIterator[None]:
        policy = status(403, "Forbidden", 'admission webhook "policy.example" denied the request: not here')
        fault = Fault("POST .*/pods$", times=1000, answer=policy)
        self.cluster.faults.append(fault)
        yield
        self.cluster.faults.remove(fault)

    @asynccontextmanager
    async def hold_queued(self, executor: KubernetesExecutor) -> AsyncIterator[None]:
        self.room.clear()
        yield
        self.room.set()

    def hold_prepare(self, executor: KubernetesExecutor) -> AbstractAsyncContextManager[None]:
        return self.hold("prepare")

    def hold_commit(self, executor: KubernetesExecutor) -> AbstractAsyncContextManager[None]:
        return self.hold("commit")

    @asynccontextmanager
    async def hold(self, step: str) -> AsyncIterator[None]:
        file = self.held / step
        file.touch()
        yield
        file.unlink()


@pytest.mark.skipif(REAL is not None, reason="a real cluster is tested")
class TestKubernetes(OnTheStandIn, ExecutorConformance):
    pass


@pytest.mark.skipif(REAL is not None, reason="a real cluster is tested")
class TestFewerLogsAreFollowedThanJobsRun(OnTheStandIn, JobLogRules):
    given: ClassVar[Mapping[str, Any]] = {"followed_logs": 1}


class TestKubernetesWarm(TestKubernetes):
    given: ClassVar[Mapping[str, Any]] = {"warm": True}


class TestKubernetesJobs(TestKubernetes):
    """As Jobs, of which a controller makes the pods."""

    given: ClassVar[Mapping[str, Any]] = {"object": "job"}

    @asynccontextmanager
    async def engine(self, life: Callable[[Any], Life | None]) -> AsyncIterator[FakeKubernetes]:
        async with fake_kubernetes(life) as cluster, job_controller(cluster):
            yield cluster

    def key(self, ref: JobRef) -> tuple[str, str, str]:
        return ("pods", "ion", pod_of(ref.name))

    async def delete(self, executor: KubernetesExecutor, ref: JobRef) -> None:
        async with api_of(self.cluster) as api:
            await api.delete(JOBS, ref.name)


@pytest.mark.skipif(REAL is None, reason="takes a cluster: see above")
class TestRealCluster(ExecutorConformance):
    image: ClassVar[str | None] = "busybox:1"
    missing_image: ClassVar[str | None] = "registry.invalid/no/such:1"
    patience = 300.0
    outage = None  # these are not ours to make
    stores_away = None
    shared = None
    lose_node = None
    fill = None
    forbid = None
    hold_queued = None
    hold_prepare = None
    hold_commit = None

    @pytest.fixture
    async def executor(self) -> AsyncIterator[Executor]:
        async with self.reopen() as executor:
            yield executor

    def storage(self, tmp_path: Path) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = json.loads(os.environ["ION_TEST_STORAGE"])
        return found

    def settings_of_it(self) -> KubernetesSettings:
        return KubernetesSettings.model_validate(
            {
                "kubeconfig": REAL,
                "namespace": os.environ["ION_TEST_NAMESPACE"],
                "handler_image": os.environ["ION_TEST_HANDLER_IMAGE"],
                "image_wait": "20s",
            }
        )

    def reopen(self) -> AbstractAsyncContextManager[Executor]:
        return open_kubernetes_executor(self.settings_of_it())

    async def listed(self, executor: Executor) -> str:
        settings = self.settings_of_it()
        async with open_credentials(settings) as credentials, open_api(credentials, settings.namespace) as api:
            return json.dumps(await api.list(PODS))

    async def evict(self, executor: Executor, ref: JobRef) -> None:
        settings = self.settings_of_it()
        async with open_credentials(settings) as credentials, open_api(credentials, settings.namespace) as api:
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": ref.name}}
            await api._call("POST", PODS.path(settings.namespace, ref.name, "eviction"), body=eviction)

    async def delete(self, executor: Executor, ref: JobRef) -> None:
        settings = self.settings_of_it()
        async with open_credentials(settings) as credentials, open_api(credentials, settings.namespace) as api:
            await api.delete(PODS, ref.name)
