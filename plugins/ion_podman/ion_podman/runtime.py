"""Modules as Podman containers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from ion_core.containers.images import Image
from ion_core.contracts.loopback import listen_inside
from ion_core.contracts.output import KeptOutput
from ion_core.contracts.runtime import (
    ContainerRef,
    ContainerRuntime,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    ExitStatus,
    Foreground,
    LogLine,
    RuntimeCapabilities,
)
from ion_core.errors import ContainerNotFound, IonError, PermanentError, TransientError
from ion_podman.client import Answer, Client
from ion_podman.container import (
    STREAMS,
    Container,
    delete,
    exit_status,
    inspect,
    kill,
    state,
    state_of,
    stored_frames,
    until_ended,
)
from ion_podman.host import check_host, check_nofile
from ion_podman.images import Images, no_such_image
from ion_podman.interactive import foreground
from ion_podman.service import ask, check_files, socket_of
from ion_podman.settings import PodmanSettings
from ion_podman.spec import Wanted

log = logging.getLogger(__name__)

_LEAVE_WITHIN = 30.0
_FOREIGN_LOG = 1 << 20


class PodmanRuntime:
    """A ContainerRuntime. Containers outlive this process, and the service: what others made is known by its labels.

    A program that exits with 129 to 192 cannot be told from one that a signal ended. The output of a container that
    another process made is what Podman's own log has, with the time when it was read.
    """

    def __init__(self, client: Client, settings: PodmanSettings, info: Mapping[str, Any]) -> None:
        self._client = client
        self._settings = settings
        self._images = Images(client, settings)
        self._ours: dict[str, Container] = {}
        host = info["host"]
        rootless = bool(host["security"]["rootless"])
        self._own_user = f"{os.getuid()}:{os.getgid()}" if rootless else None
        controllers = set(host.get("cgroupControllers") or ())
        self._capabilities = RuntimeCapabilities(
            images=True,
            builds=True,
            isolates=not settings.allow.privileged,
            inputs_read_only=True,
            memory_limit="memory" in controllers,
            cpu_limit="cpu" in controllers,
            pids_limit="pids" in controllers,
            gpus=True,
            shm_size=True,
            handler_api=sys.platform == "linux",
            networks=frozenset({"none", "bridge"}),
            networks_for=dict.fromkeys(settings.allow.host_network, frozenset({"host"})),
            named_networks=True,
            notice=settings.allow.notice(),
        )

    @property
    def capabilities(self) -> RuntimeCapabilities:
        return self._capabilities

    async def create(self, spec: ContainerSpec) -> ContainerRef:
        if (ours := self._ours.get(spec.name)) is not None:
            _check_labels(spec, ours.wanted.spec.labels)
            return ours.ref
        image = await self._images.resolve(spec)
        wanted = Wanted(spec=spec, image=image, settings=self._settings, own_user=self._own_user)
        answer = await self._post(wanted)
        if no_such_image(answer):  # it was removed a moment ago
            self._images.forget(spec)
            image = await self._images.resolve(spec)
            wanted = replace(wanted, image=image)
            answer = await self._post(wanted)
        if answer.ok:
            ref = ContainerRef(id=answer.body["Id"], name=spec.name, image_digest=image.digest)
        elif "already in use" in answer.message or answer.status == 409:
            ref, its_state = await self._existing(spec, image)
            if its_state is not ContainerState.CREATED:
                return ref
        else:
            raise answer.error(f"container {spec.name}")
        container = self._ours[spec.name] = Container(self._client, wanted, ref)
        try:
            await container.make_ready()
        except IonError:
            await self._give_up(container)
            raise
        return ref

    async def _post(self, wanted: Wanted) -> Answer:
        """Heard to the end even when we are cancelled: then it is there for ``find``, and not made a moment later."""
        calling = asyncio.create_task(self._client.call("POST", "/containers/create", body=wanted.to_json()))
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            await asyncio.wait({calling})
            raise

    async def _existing(self, spec: ContainerSpec, image: Image) -> tuple[ContainerRef, ContainerState]:
        """The container that has the name, if its labels agree."""
        found = await inspect(self._client, ContainerRef(id=spec.name, name=spec.name))
        labels = found["Config"]["Labels"] or {}
        _check_labels(spec, {k: v for k, v in labels.items() if k in spec.labels or image.labels.get(k) != v})
        ref = ContainerRef(id=found["Id"], name=spec.name, image_digest=image.digest)
        return ref, state_of(found["State"]["Status"])

    async def _give_up(self, container: Container) -> None:
        """It was made but is not fit to start; what remains if this fails carries its labels, and is found by them."""
        try:
            await self.remove(container.ref)
        except IonError as error:
            log.warning("a container is left behind: %s", error, extra={"container": container.ref.name})
        finally:
            self._ours.pop(container.ref.name, None)

    async def start(self, ref: ContainerRef) -> None:
        if container := self._our(ref):
            await container.start()
        elif await state(self._client, ref) is ContainerState.CREATED:
            raise PermanentError(f"container {ref.name}: was made by another process. Create it again to start it.")

    async def listen(self, ref: ContainerRef, port: int) -> socket.socket | None:
        container = self._our(ref)
        if container is None:
            await inspect(self._client, ref)  # there at all?
            return None
        if container.wanted.spec.network == "host":
            return None
        try:
            if self._own_user is None:  # with privileges it is a matter of microseconds
                return _listen(container, port)
            return await asyncio.to_thread(_listen, container, port)
        except ProcessLookupError:  # it has ended
            return None
        except OSError as error:
            raise PermanentError(f"container {ref.name}: its network cannot be entered: {error}") from error

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        if container := self._our(ref):
            return await asyncio.shield(container.ended)
        code, _ = await until_ended(self._client, ref)
        return exit_status(code)

    async def logs(self, ref: ContainerRef, *, follow: bool = False) -> AsyncIterator[LogLine]:
        if container := self._our(ref):
            kept = container.log
        else:
            if follow:
                await until_ended(self._client, ref)
            kept = KeptOutput(_FOREIGN_LOG)
            for number, data in await stored_frames(self._client, ref):
                kept.add(STREAMS.get(number, "stderr"), data, time.time())
            kept.close()
        async for line in kept.lines(follow=follow):
            yield line

    async def stop(self, ref: ContainerRef, *, grace: timedelta) -> None:
        if container := self._our(ref):
            await container.stop(grace=grace)
            return
        try:
            found = await inspect(self._client, ref)
            if state_of(found["State"]["Status"]) is not ContainerState.RUNNING:
                return
            await kill(self._client, ref, str(found["Config"].get("StopSignal") or "SIGTERM"))
            try:
                async with asyncio.timeout(grace.total_seconds()):
                    await until_ended(self._client, ref)
            except TimeoutError:
                await kill(self._client, ref, "SIGKILL")
                async with asyncio.timeout(self._client.timeout):
                    await until_ended(self._client, ref)
        except ContainerNotFound:
            return
        except TimeoutError as error:
            raise TransientError(f"container {ref.name}: did not end after SIGKILL.") from error

    async def remove(self, ref: ContainerRef) -> None:
        await delete(self._client, ref)
        if container := self._our(ref):
            await container.discard()
            self._ours.pop(ref.name, None)

    async def find(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
        answer = await self._client.call("GET", "/containers/json", query={"all": True, "filters": filters})
        if not answer.ok:
            raise answer.error("podman: containers")
        return [
            ContainerStatus(
                ref=ContainerRef(id=found["Id"], name=found["Names"][0]),
                state=self._state(found["Id"], found["Names"][0], found["State"]),
                labels=found["Labels"] or {},
            )
            for found in answer.body or ()
            if labels.items() <= (found["Labels"] or {}).items()
        ]

    async def interactive(self, spec: ContainerSpec, *, terminal: bool) -> Foreground:
        image = await self._images.resolve(spec)
        wanted = Wanted(spec=spec, image=image, settings=self._settings, own_user=self._own_user)
        return foreground(wanted, self._client.socket, os.environ, terminal=terminal)

    async def close(self) -> None:
        """Remove every container of ours, within bounds."""
        refs = [container.ref for container in self._ours.values()]
        removing = [asyncio.create_task(self.remove(ref)) for ref in refs]
        if removing:
            _, late = await asyncio.wait(removing, timeout=_LEAVE_WITHIN)
            for task in late:
                task.cancel()
            for result in await asyncio.gather(*removing, return_exceptions=True):
                if isinstance(result, BaseException):
                    log.warning("a container is left behind until the next start: %s", result)
        for container in self._ours.values():
            await container.discard()

    def _state(self, id: str, name: str, word: str) -> ContainerState:
        """Of ours we know the end a moment before Podman does."""
        container = self._our(ContainerRef(id=id, name=name))
        return ContainerState.EXITED if container is not None and container.ended.done() else state_of(word)

    def _our(self, ref: ContainerRef) -> Container | None:
        container = self._ours.get(ref.name)
        return container if container is not None and container.ref.id == ref.id else None


def _listen(container: Container, port: int) -> socket.socket | None:
    """Podman may run in other process namespaces than we, as in a virtual machine: then its numbers are not ours."""
    try:
        ours = container.ref.id in Path(f"/proc/{container.pid}/cgroup").read_text(encoding="utf-8")
    except OSError as error:
        raise ProcessLookupError(str(error)) from error

    return listen_inside(container.pid, port) if ours else None


def _check_labels(spec: ContainerSpec, labels: Mapping[str, str]) -> None:
    if dict(labels) != dict(spec.labels):
        raise PermanentError(f"container {spec.name}: exists with other labels. Remove it, or use another name.")


@asynccontextmanager
async def open_podman_runtime(settings: PodmanSettings) -> AsyncIterator[ContainerRuntime]:
    """Open the runtime; on leaving, every container it made is removed.

    Raises TransientError when no service answers, ConfigError when it cannot be used.
    """
    check_files(settings)
    where = settings.section.where("url")
    client = Client(socket_of(settings.url, os.environ, where), settings.timeout.total_seconds())
    info = await ask(client, where)
    check_host(info, where)
    check_nofile(settings.nofile, client.socket, settings.section.where("nofile"))
    runtime = PodmanRuntime(client, settings, info)
    try:
        yield runtime
    finally:
        await runtime.close()
