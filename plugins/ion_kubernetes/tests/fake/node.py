"""The one node of the fake cluster: it gives each pod a life, and ends it when the pod is deleted."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from plugins.ion_kubernetes.tests.fake.logs import Log
from plugins.ion_kubernetes.tests.fake.store import Key, Store, now

Json = dict[str, Any]
OVER = ("Succeeded", "Failed")


class Life(Protocol):
    """What happens to a pod from when it may start."""

    async def live(self, pod: Pod) -> None:
        """Until it is over, or ``pod.stopping`` is set and everything has ended."""


class Gone(Exception):
    """The pod is not there any more."""


@dataclass
class Pod:
    """A pod as its life sees it."""

    key: Key
    uid: str
    node: Node
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody has deleted it gracefully."""
    deleted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the object is gone from the API."""

    @property
    def object(self) -> Json:
        found = self.node.store.objects.get(self.key)
        if found is None or found["metadata"]["uid"] != self.uid:
            raise Gone(self.key)
        return self.node.store.get(self.key)

    async def tell(self, **changed: Any) -> None:
        """Merges these top-level parts (``status``, ``spec``, ``metadata``) into the object, once the node is there."""
        await self.node.there.wait()
        object = self.object
        told = (object.get("status") or {}).get("conditions") or []
        disrupted = [it for it in told if it["type"] == "DisruptionTarget"]
        if disrupted and "status" in changed:  # which not the kubelet tells, but who takes the pod away
            now_told = changed["status"].get("conditions") or []
            if not any(it["type"] == "DisruptionTarget" for it in now_told):
                changed["status"] = {**changed["status"], "conditions": [*disrupted, *now_told]}
        for part, value in changed.items():
            object[part] = {**object.get(part, {}), **value} if part != "status" else value
        self.node.store.changed(self.key, object)

    def print(self, container: str, data: bytes) -> None:
        self.node.print(self.uid, container, data)


@dataclass
class Node:
    """``life`` says for a pod's object what its life is; None: the pod stays as it was made."""

    store: Store
    life: Callable[[Json], Life | None]
    logs: defaultdict[tuple[str, str], Log] = field(default_factory=lambda: defaultdict(Log))
    there: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: the node is lost. Nothing is told of its pods, and none that is deleted goes away."""
    room: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: no pod that is made now fits on it."""
    failures: list[BaseException] = field(default_factory=list)
    """Faults of the fake itself, raised when the cluster is closed."""
    _pods: dict[str, Pod] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.there.set()
        self.room.set()

    def print(self, uid: str, container: str, data: bytes) -> None:
        self.logs[(uid, container)].write(data)
        self.store.tell(uid)

    def sees(self, key: Key) -> None:
        """A pod was made or changed: starts its life when no gate holds it."""
        object = self.store.get(key)
        uid = object["metadata"]["uid"]
        if uid in self._tasks or object["spec"].get("schedulingGates") or "deletionTimestamp" in object["metadata"]:
            return
        life = self.life(object)
        if life is None:
            return
        pod = self._pods[uid] = Pod(key, uid, self)
        self._tasks[uid] = asyncio.create_task(self._live(pod, life), name=f"pod {key[2]}")

    async def _live(self, pod: Pod, life: Life) -> None:
        try:
            if not await self._scheduled(pod):
                return
            await life.live(pod)
            if pod.stopping.is_set():
                await pod.tell(metadata={"deletionGracePeriodSeconds": 0, "deletionTimestamp": now(0)})
                self.remove(pod.key)
            else:
                await pod.stopping.wait()
        except Gone:
            return
        except Exception as error:
            self.failures.append(error)
            raise

    async def _scheduled(self, pod: Pod) -> bool:
        """Whether there is room in the end; before, it says that there is none, until the pod is gone."""
        if not self.room.is_set():
            told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            told["message"] = "0/1 nodes are available: 1 Insufficient cpu."
            await pod.tell(status={**pod.object["status"], "conditions": [told]})
        waits = [asyncio.create_task(it.wait()) for it in (self.room, pod.deleted)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for it in waits:
                it.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return not pod.deleted.is_set()

    def disrupt(self, key: Key, reason: str) -> None:
        """Says that a pod has to go for no fault of its own, as evictions do; it is deleted by whoever says so."""
        object = self.store.get(key)
        status = object["status"]
        target = {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": now()}
        status["conditions"] = [*status.get("conditions", []), target]
        self.store.changed(key, object)

    def delete(self, key: Key, grace: int | None) -> Json:
        """As the API server does on DELETE; a pod that no node has, or that is over, goes at once."""
        object = self.store.get(key)
        meta, status = object["metadata"], object.get("status", {})
        if grace is None:
            grace = object["spec"].get("terminationGracePeriodSeconds", 30)
        if not object["spec"].get("nodeName") or status.get("phase") in OVER or meta["uid"] not in self._tasks:
            grace = 0
        before = meta.get("deletionGracePeriodSeconds")
        if before is not None:
            grace = min(grace, before)
        if before is None or grace < before:
            meta["deletionGracePeriodSeconds"] = grace
            meta["deletionTimestamp"] = now(grace)
            object = self.store.changed(key, object)
        if grace == 0:
            self.remove(key)
        else:
            self._pods[meta["uid"]].stopping.set()
        return object

    def remove(self, key: Key) -> None:
        """It is gone from the API."""
        uid = self.store.gone(key)["metadata"]["uid"]
        if pod := self._pods.pop(uid, None):
            pod.deleted.set()
            pod.stopping.set()

    async def close(self) -> None:
        """Ends all lives. Raises the first fault of the fake itself."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.failures:
            raise self.failures[0]
