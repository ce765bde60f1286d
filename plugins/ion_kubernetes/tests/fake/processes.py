"""A life in which the containers really run: as processes of this machine, one after the other, with their volumes.

A stand-in for a kubelet, for flows from end to end. What it does not do: users (``runAsUser``), capabilities, networks
of their own, probes, limits of processors. Those of memory and disk are looked at often instead of enforced.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plugins.ion_kubernetes.tests.fake import volumes
from plugins.ion_kubernetes.tests.fake.containers import Image, Mount, Running, command_of, expanded, start
from plugins.ion_kubernetes.tests.fake.node import Pod
from plugins.ion_kubernetes.tests.fake.quantities import number
from plugins.ion_kubernetes.tests.fake.store import now

Json = dict[str, Any]
SERVICE = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_PORT_443_TCP_PORT": "443",
}
"""A part of what every container is given, whatever ``enableServiceLinks`` says."""
LONGEST_MESSAGE = 4096
LONGEST_FALLBACK = 2048


@dataclass(frozen=True)
class Processes:
    """``images`` by the names that pods use; others cannot be pulled. Volumes lie in ``directory`` meanwhile."""

    directory: Path
    images: Mapping[str, Image]

    async def live(self, pod: Pod) -> None:
        place = self.directory / pod.uid
        run = _Run(pod, self.images, place, pod.object)
        refreshing = asyncio.create_task(run.refresh())
        try:
            await run.all()
        finally:
            refreshing.cancel()
            await run.kill()
            shutil.rmtree(place, ignore_errors=True)


class _Ended(Exception):
    """Of the pod, with what its status says then."""

    def __init__(self, phase: str, **more: str) -> None:
        super().__init__(phase)
        self.status = {"phase": phase, **more}


@dataclass
class _Run:
    pod: Pod
    images: Mapping[str, Image]
    place: Path
    object: Json
    states: dict[str, Json] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[int]] = field(default_factory=dict)

    @property
    def spec(self) -> Json:
        found: Json = self.object["spec"]
        return found

    @property
    def grace(self) -> int:
        meta = self.pod.object["metadata"]
        return int(meta.get("deletionGracePeriodSeconds", self.spec.get("terminationGracePeriodSeconds", 30)))

    # ---- the pod

    async def all(self) -> None:
        waiting = {"waiting": {"reason": "PodInitializing" if self.spec.get("initContainers") else "ContainerCreating"}}
        for it in self._containers():
            self.states[it["name"]] = copy.deepcopy(waiting)
        try:
            await self._tell("Pending")
            await self._volumes()
            try:
                async with asyncio.timeout(self.spec.get("activeDeadlineSeconds")):
                    await self._guarded()
            except TimeoutError:
                await self._stop_all(self.grace)
                why = "Pod was active on the node longer than the specified deadline"
                raise _Ended("Failed", reason="DeadlineExceeded", message=why) from None
        except _Ended as ended:
            await self.pod.tell(status={**self._status("Failed"), **ended.status})

    async def _guarded(self) -> None:
        """The containers, until they have ended, the pod is deleted or its volumes are too full."""
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self.pod.stopping.wait())
        full = asyncio.create_task(self._overfull())
        try:
            await asyncio.wait([work, stopped, full], return_when=asyncio.FIRST_COMPLETED)
            if full.done() and not work.done():
                work.cancel()
                await self._stop_all(0)
                raise _Ended("Failed", reason="Evicted", message=full.result())
            while not work.done():
                await self._stop_all(self.grace)
                await asyncio.wait([work], timeout=0.02)  # which may have been about to start the next one
            work.result()
        finally:
            for task in (work, stopped, full):
                task.cancel()
            await asyncio.gather(work, stopped, full, return_exceptions=True)

    async def _work(self) -> None:
        sidecars: list[str] = []
        for it in self.spec.get("initContainers") or []:
            name = it["name"]
            await self._start(it)
            if it.get("restartPolicy") == "Always":
                sidecars.append(name)
                continue
            code = await asyncio.shield(self.tasks[name])
            if code != 0 or self.pod.stopping.is_set():  # also one that ends well when it is told to end
                raise _Ended("Failed")
        for it in self.spec["containers"]:
            await self._start(it)
        codes = [await asyncio.shield(self.tasks[it["name"]]) for it in self.spec["containers"]]
        for name in reversed(sidecars):
            await self._stop(name, self.grace)
        raise _Ended("Failed" if any(codes) else "Succeeded")

    async def _volumes(self) -> None:
        try:
            volumes.made(self.pod.node.store, self.object, self.place)
        except volumes.Missing as missing:
            await self._stay("FailedMount", f"MountVolume.SetUp failed for volume: {missing}")

    async def _overfull(self) -> str:
        """Until a volume holds more than it may: the words in which that is told."""
        limits = {
            it["name"]: it["emptyDir"]["sizeLimit"]
            for it in self.spec.get("volumes") or []
            if (it.get("emptyDir") or {}).get("sizeLimit")
        }
        while True:
            for name, limit in limits.items():
                if await asyncio.to_thread(_size, self.place / name) > number(limit):
                    return f'Usage of EmptyDir volume "{name}" exceeds the limit "{limit}". '
            await asyncio.sleep(0.05)

    async def _stay(self, reason: str, message: str) -> None:
        """What can not be had is waited for, for ever; an event tells of it."""
        meta = self.object["metadata"]
        event: Json = {"metadata": {"name": f"{meta['name']}.{self.pod.node.store.version}"}, "type": "Warning"}
        event["involvedObject"] = {
            "kind": "Pod",
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        }
        event |= {"reason": reason, "message": message, "lastTimestamp": now()}
        self.pod.node.store.made(("events", meta["namespace"], event["metadata"]["name"]), event, dry_run=False)
        await self.pod.stopping.wait()
        raise _Ended("Failed")

    async def refresh(self) -> None:
        """What volumes show of the pod itself changes with it."""
        while not self.pod.deleted.is_set():
            volumes.refresh(self.pod.object, self.place)
            await self.pod.node.store.change()

    # ---- its containers

    async def _start(self, container: Json) -> None:
        name = container["name"]
        image = self.images.get(container["image"])
        if image is None:
            why = f'failed to pull and unpack image "{container["image"]}": not found'
            self.states[name] = {"waiting": {"reason": "ErrImagePull", "message": why}}
            await self._tell()
            await self._stay("Failed", why)
            return
        try:
            env = self._env(container, image)
        except volumes.Missing as missing:
            self.states[name] = {"waiting": {"reason": "CreateContainerConfigError", "message": str(missing)}}
            await self._tell()
            await self._stay("Failed", str(missing))
            return
        message = self.place / f".{name}.message"
        message.parent.mkdir(parents=True, exist_ok=True)
        message.touch()
        mounts = [self._mount(it) for it in container.get("volumeMounts") or []]
        self.running[name] = await start(
            image,
            command_of(container, image, env),
            env,
            [*mounts, Mount(message, container["terminationMessagePath"], read_only=False)],
            directory=container.get("workingDir"),
            read_only=bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem")),
            printed=lambda data: self.pod.print(name, data),
        )
        self.tasks[name] = asyncio.create_task(self._watched(container, now(), message), name=f"container {name}")
        self.states[name] = {"running": {"startedAt": now()}}
        await self._tell()

    async def _watched(self, container: Json, began: str, message: Path) -> int:
        name = container["name"]
        limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
        running = self.running[name]
        code = await running.ended(int(number(limit)) if limit else None)
        told = (await asyncio.to_thread(message.read_bytes))[-LONGEST_MESSAGE:]
        if not told and code and container["terminationMessagePolicy"] == "FallbackToLogsOnError":
            lines = b"".join(line for _, line in self.pod.node.logs[(self.pod.uid, name)].lines[-80:])
            told = lines[-LONGEST_FALLBACK:]
        reason = "OOMKilled" if running.killed_for_memory else ("Error" if code else "Completed")
        if not running.started:
            reason = "StartError"
            program = json.dumps((container.get("command") or ["?"])[0])
            why = f"exec: {program}: stat {program}: no such file or directory"
            told = f"failed to create containerd task: error during container init: {why}".encode()
        ended: Json = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}
        if told:
            ended["message"] = told.decode("utf-8", "replace")
        self.states[name] = {"terminated": ended}
        await self._tell()
        return code

    async def _stop(self, name: str, grace: float) -> None:
        if name not in self.tasks or self.tasks[name].done():
            return
        self.running[name].signal(signal.SIGTERM if grace else signal.SIGKILL)
        done, _ = await asyncio.wait([self.tasks[name]], timeout=grace or None)
        if not done:
            self.running[name].signal(signal.SIGKILL)
            await asyncio.wait([self.tasks[name]])

    async def _stop_all(self, grace: float) -> None:
        await asyncio.gather(*(self._stop(name, grace) for name in list(self.tasks)))

    async def kill(self) -> None:
        """Nothing of it is left behind, however its life ends."""
        for name, task in self.tasks.items():
            if not task.done():
                self.running[name].signal(signal.SIGKILL)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    def _mount(self, mount: Json) -> Mount:
        source = self.place / mount["name"]
        if below := mount.get("subPath"):
            source = source / below
            if not source.exists():
                source.mkdir(parents=True)
                source.chmod(0o777)
        return Mount(source, mount["mountPath"], bool(mount.get("readOnly")))

    def _env(self, container: Json, image: Image) -> dict[str, str]:
        env = {**image.env, **SERVICE, "HOSTNAME": self.object["metadata"]["name"], "HOME": "/"}
        namespace = self.object["metadata"]["namespace"]
        for it in container.get("env") or []:
            source = it.get("valueFrom") or {}
            if "fieldRef" in source:
                env[it["name"]] = volumes.field(self.pod.object, source["fieldRef"]["fieldPath"])
                continue
            env[it["name"]] = expanded(it.get("value", ""), env)
            for key, kind in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
                if key in source:
                    found = volumes.data(self.pod.node.store, namespace, kind, source[key]["name"])
                    env[it["name"]] = found[source[key]["key"]].decode()
        return env

    # ---- what the API tells of it

    def _containers(self) -> list[Json]:
        return [*(self.spec.get("initContainers") or []), *self.spec["containers"]]

    async def _tell(self, phase: str | None = None) -> None:
        await self.pod.tell(status=self._status(phase or self._phase()), spec={"nodeName": "node"})

    def _phase(self) -> str:
        """Running from when the first main container was started on."""
        return (
            "Running" if any("waiting" not in self.states[it["name"]] for it in self.spec["containers"]) else "Pending"
        )

    def _status(self, phase: str) -> Json:
        ready = {"type": "PodReadyToStartContainers", "status": "False" if phase in ("Failed", "Succeeded") else "True"}
        return {
            "phase": phase,
            "conditions": [ready, {"type": "PodScheduled", "status": "True"}],
            "startTime": self.object["metadata"]["creationTimestamp"],
            "initContainerStatuses": [self._told(it) for it in self.spec.get("initContainers") or []],
            "containerStatuses": [self._told(it) for it in self.spec["containers"]],
        }

    def _told(self, container: Json) -> Json:
        state = self.states[container["name"]]
        known = {"restartCount": 0, "lastState": {}, "image": container["image"]}
        known["imageID"] = "" if "waiting" in state else f"sha256:{container['image'].encode().hex():0<64.64}"
        completed = (state.get("terminated") or {}).get("exitCode") == 0
        return {"name": container["name"], "state": state, "ready": completed, "started": "running" in state, **known}


def _size(directory: Path) -> int:
    total = 0
    for at, directories, files in os.walk(directory):  # which passes over a directory that has just been removed
        for name in (*directories, *files):
            try:
                total += Path(at, name).lstat().st_blocks * 512
            except FileNotFoundError:
                continue  # so has this
    return total
