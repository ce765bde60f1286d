"""What makes the pods of Jobs in the stand-in for Kubernetes, which stores Jobs only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from ion_kubernetes.api import PODS, Api
from ion_kubernetes.refusals import ApiRefused
from plugins.ion_kubernetes.tests.calling import api_of
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes

Json = dict[str, Any]


def pod_of(job: str) -> str:
    """The name of the pod of a Job."""
    return f"{job}-x1y2z"


@dataclass
class JobController:
    """One pod for each Job that is not suspended; of one that is refused an event tells, and nothing else."""

    cluster: FakeKubernetes
    api: Api
    done: set[str] = field(default_factory=set)

    async def run(self) -> None:
        while True:
            for job in list(self.cluster.store.listed("jobs.batch", "ion")):
                if job["metadata"]["uid"] not in self.done and not job["spec"].get("suspend"):
                    self.done.add(job["metadata"]["uid"])
                    await self._place(job)
            await self.cluster.store.change()

    async def _place(self, job: Json) -> None:
        name, uid, template = job["metadata"]["name"], job["metadata"]["uid"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
        metadata = {**template["metadata"], "name": pod_of(name), "ownerReferences": [owner]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        try:
            await self.api.create(PODS, pod)
        except ApiRefused as error:
            event = {"metadata": {"name": f"{name}.1"}, "involvedObject": {"kind": "Job", "name": name, "uid": uid}}
            event |= {"type": "Warning", "reason": "FailedCreate", "message": f"Error creating: {error.message}"}
            self.cluster.store.made(("events", "ion", f"{name}.1"), event, dry_run=False)

    def suspend(self, name: str, suspended: bool) -> None:
        """As a queue does it; of one that is suspended the pod is deleted."""
        key = ("jobs.batch", "ion", name)
        job = self.cluster.store.get(key)
        job["spec"]["suspend"] = suspended
        self.cluster.store.changed(key, job)
        if suspended:
            self.cluster.node.delete(("pods", "ion", pod_of(name)), 5)


@asynccontextmanager
async def job_controller(cluster: FakeKubernetes) -> AsyncIterator[JobController]:
    async with api_of(cluster) as api:
        controller = JobController(cluster, api)
        running = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
