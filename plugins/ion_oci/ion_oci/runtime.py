"""Modules as containers of an OCI runtime."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

from ion_core.containers.images import read_accounts
from ion_core.containers.stored_log import parsed
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
from ion_core.errors import ConfigError, ContainerNotFound, IonError, PermanentError, TransientError
from ion_oci import seccomp
from ion_oci.container import Container, exit_status, is_of, signal_of
from ion_oci.foreground import foreground
from ion_oci.host import Groups, Tools, check_host, tools_of
from ion_oci.images import ImageGone, Images
from ion_oci.kept import Bundle, Kept, Record
from ion_oci.oci import Oci
from ion_oci.programs import Exit, failure_of, to_the_end
from ion_oci.roots import Root, Roots
from ion_oci.settings import OciSettings
from ion_oci.spec import Wanted

log = logging.getLogger(__name__)

_LEAVE_WITHIN = 30.0
_FOREIGN_LOG = 1 << 20
_CODE_WITHIN = 5.0
"""Seconds for conmon to write the exit code of a container that has ended."""
_LOOKS = (0.002, 0.005, 0.01, 0.02, 0.05)


class OciRuntime:
    """A ContainerRuntime. Containers outlive this process, and are found again by what is kept of them.

    A program that exits with 129 to 192 cannot be told from one that a signal ended. The output of a container that
    another process made is what conmon's log has, with the time when it was read.
    """

    def __init__(self, tools: Tools, settings: OciSettings, groups: Groups, filter: Mapping[str, Any]) -> None:
        self._settings = settings
        self._groups = groups
        self._filter = filter
        self._images = Images(tools.podman, settings)
        self._roots = Roots(settings.directory, tools, self._images)
        self._kept = Kept(settings.directory, self._roots.ours)
        self._oci = Oci(tools, self._kept.state, settings.timeout.total_seconds(), groups.conmons)
        self._ours: dict[str, Container] = {}
        self._capabilities = RuntimeCapabilities(
            images=True,
            builds=True,
            isolates=not settings.allow.privileged,
            inputs_read_only=True,
            memory_limit=True,
            cpu_limit="cpu" in groups.controllers,
            pids_limit=True,
            gpus=False,
            shm_size=True,
            handler_api=True,
            networks=frozenset({"none"}),
            networks_for=dict.fromkeys(settings.allow.host_network, frozenset({"host"})),
            named_networks=True,
            notice=settings.allow.notice(),
        )

    @property
    def capabilities(self) -> RuntimeCapabilities:
        return self._capabilities

    async def open(self) -> None:
        """Raises OSError."""
        self._kept.open()
        await self._roots.open()

    async def create(self, spec: ContainerSpec) -> ContainerRef:
        if (ours := self._ours.get(spec.name)) is not None:
            _check_labels(spec, ours.bundle)
            return ours.ref
        wanted, root = await self._wanted(spec)
        record = _record(wanted)
        config = wanted.to_json(record.id, root, self._filter, self._groups)
        try:
            bundle = self._kept.add(record, config)
        except FileExistsError:
            return self._existing(spec)
        except OSError as error:
            raise failure_of(error, f"container {spec.name}") from error
        container = self._ours[spec.name] = Container(self._oci, wanted, root, bundle)
        try:
            await to_the_end(container.make_ready())
        except IonError:
            await to_the_end(self._give_up(container))
            raise
        return container.ref

    async def _wanted(self, spec: ContainerSpec) -> tuple[Wanted, Root]:
        """What is to be made, and the root for it. An image that was removed a moment ago is looked for again."""
        try:
            return await self._resolved(spec)
        except ImageGone:
            self._images.forget(spec)
            return await self._resolved(spec)

    async def _resolved(self, spec: ContainerSpec) -> tuple[Wanted, Root]:
        wanted = Wanted(spec=spec, image=await self._images.resolve(spec), settings=self._settings)
        return wanted, await self._roots.of(wanted.furnished())

    def _existing(self, spec: ContainerSpec) -> ContainerRef:
        """The container of another process that has the name, if its labels agree."""
        bundle = self._kept.of(spec.name)
        if bundle is None:
            raise TransientError(f"container {spec.name}: another of that name was removed this moment.")
        _check_labels(spec, bundle)
        return _ref(bundle)

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
            await to_the_end(container.start())
        elif await self._state(self._bundle(ref)) is ContainerState.CREATED:
            raise PermanentError(f"container {ref.name}: was made by another process. Remove it, and create it again.")

    async def listen(self, ref: ContainerRef, port: int) -> socket.socket | None:
        container = self._our(ref)
        if container is None:
            self._bundle(ref)  # there at all?
            return None
        if container.wanted.spec.network == "host":
            return None
        try:
            return listen_inside(container.pid, port) if is_of(container.pid, ref.id) else None
        except ProcessLookupError:  # it has ended
            return None
        except OSError as error:
            raise PermanentError(f"container {ref.name}: its network cannot be entered: {error}") from error

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        if container := self._our(ref):
            return await asyncio.shield(container.ended)
        return exit_status(await self._code(ref))

    async def logs(self, ref: ContainerRef, *, follow: bool = False) -> AsyncIterator[LogLine]:
        if container := self._our(ref):
            kept = container.log
        else:
            if follow:
                await self._code(ref)
            kept = KeptOutput(_FOREIGN_LOG)
            for number, data in parsed(_read(self._bundle(ref))):
                kept.add("stdout" if number == 1 else "stderr", data, time.time())
            kept.close()
        async for line in kept.lines(follow=follow):
            yield line

    async def stop(self, ref: ContainerRef, *, grace: timedelta) -> None:
        if container := self._our(ref):
            await container.stop(grace=grace)
            return
        try:
            bundle = self._bundle(ref)
            if await self._state(bundle) is not ContainerState.RUNNING:
                return
            first = _first_process(bundle)
            if first is None:
                return
            try:
                first.send(signal_of(bundle.record.stop_signal))
                if not await first.within(grace.total_seconds()):
                    await self._kill(first, ref)
            finally:
                first.close()
        except ContainerNotFound:
            return

    async def remove(self, ref: ContainerRef) -> None:
        container = self._our(ref)
        if container is not None:
            await to_the_end(self._remove(container.bundle, container))
            await container.discard()
            self._ours.pop(ref.name, None)
            return
        with suppress(ContainerNotFound):
            await to_the_end(self._remove(self._bundle(ref), None))

    async def _remove(self, bundle: Bundle, container: Container | None) -> None:
        if container is not None:
            await container.kill()
            await container.delete()
            self._forget(bundle)
            return
        if (first := _first_process(bundle)) is not None:
            try:
                await self._kill(first, _ref(bundle))
            finally:
                first.close()
        await self._oci.delete(bundle.record.id)
        self._forget(bundle)

    def _forget(self, bundle: Bundle) -> None:
        try:
            self._kept.remove(bundle)
        except OSError as error:
            raise failure_of(error, f"container {bundle.record.name}") from error

    async def _kill(self, first: Exit, ref: ContainerRef) -> None:
        first.send(9)
        if not await first.within(self._oci.timeout):
            raise TransientError(f"container {ref.name}: did not end within {self._oci.timeout:g} s of SIGKILL.")

    async def find(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        try:
            bundles = [bundle for bundle in self._kept.all() if labels.items() <= bundle.record.labels.items()]
        except OSError as error:
            raise failure_of(error, "containers") from error
        known: Mapping[str, ContainerState] = {}
        if any(self._our(_ref(bundle)) is None and bundle.code() is None for bundle in bundles):
            known = await self._oci.states()
        return [
            ContainerStatus(ref=_ref(bundle), state=self._state_by(bundle, known), labels=bundle.record.labels)
            for bundle in bundles
        ]

    async def interactive(self, spec: ContainerSpec, *, terminal: bool) -> Foreground:
        wanted, root = await self._wanted(spec)
        record = _record(wanted)
        config = wanted.to_json(record.id, root, self._filter, self._groups, terminal=terminal)
        return foreground(self._oci, self._settings.directory, self._roots.ours, record, config, os.environ)

    async def close(self) -> None:
        """Remove every container of ours, within bounds."""
        removing = [asyncio.create_task(self.remove(container.ref)) for container in self._ours.values()]
        if removing:
            _, late = await asyncio.wait(removing, timeout=_LEAVE_WITHIN)
            for task in late:
                task.cancel()
            for result in await asyncio.gather(*removing, return_exceptions=True):
                if isinstance(result, BaseException):
                    log.warning("a container is left behind until the next start: %s", result)
        for container in self._ours.values():
            await container.discard()
        await self._roots.close()

    async def _code(self, ref: ContainerRef) -> int:
        """How one of another process ends. Waits for as long as it runs."""
        bundle = self._bundle(ref)
        if (first := _first_process(bundle)) is not None:
            try:
                await asyncio.wait({first.ended})
            finally:
                first.close()
        deadline = time.monotonic() + _CODE_WITHIN
        delays = iter(_LOOKS)
        while (code := bundle.code()) is None:
            self._bundle(ref)  # removed meanwhile?
            if time.monotonic() > deadline:
                raise TransientError(f"container {ref.name}: nobody knows how it ended.")
            await asyncio.sleep(next(delays, _LOOKS[-1]))
        return code

    async def _state(self, bundle: Bundle) -> ContainerState:
        return self._state_by(bundle, {} if bundle.code() is not None else await self._oci.states())

    def _state_by(self, bundle: Bundle, known: Mapping[str, ContainerState]) -> ContainerState:
        if container := self._our(_ref(bundle)):
            return container.state
        if bundle.code() is not None:
            return ContainerState.EXITED
        return known.get(bundle.record.id, ContainerState.EXITED)

    def _bundle(self, ref: ContainerRef) -> Bundle:
        """Raises ContainerNotFound."""
        bundle = self._kept.of(ref.name)
        if bundle is None or bundle.record.id != ref.id:
            raise ContainerNotFound(f"container {ref.name}: there is none (any more).")
        return bundle

    def _our(self, ref: ContainerRef) -> Container | None:
        container = self._ours.get(ref.name)
        return container if container is not None and container.ref.id == ref.id else None


def _record(wanted: Wanted) -> Record:
    """Of a new container."""
    return Record(
        id=uuid.uuid4().hex,
        name=wanted.spec.name,
        labels=dict(wanted.spec.labels),
        image=wanted.image.digest,
        stop_signal=wanted.stop_signal,
        pids=wanted.pids,
    )


def _ref(bundle: Bundle) -> ContainerRef:
    record = bundle.record
    return ContainerRef(id=record.id, name=record.name, image_digest=record.image)


def _read(bundle: Bundle) -> bytes:
    try:
        return bundle.log.read_bytes()
    except OSError:
        return b""


def _first_process(bundle: Bundle) -> Exit | None:
    """That of a container of another process, if it is still there, and not another of that number."""
    pid = bundle.pid()
    try:
        first = Exit(pid) if pid else None
    except ProcessLookupError:
        return None
    if first is not None and not is_of(pid, bundle.record.id):
        first.close()
        return None
    return first


def _check_labels(spec: ContainerSpec, bundle: Bundle) -> None:
    if dict(bundle.record.labels) != dict(spec.labels):
        raise PermanentError(f"container {spec.name}: exists with other labels. Remove it, or use another name.")


def _check_files(settings: OciSettings) -> None:
    if settings.authfile is not None:
        try:
            read_accounts(settings.authfile)
        except ValueError as error:
            raise ConfigError(f"{settings.section.where('authfile')}: {error}") from error


@asynccontextmanager
async def open_oci_runtime(settings: OciSettings) -> AsyncIterator[ContainerRuntime]:
    """Open the runtime; on leaving, every container it made is removed.

    Raises ConfigError where this machine cannot run containers as they are to be, with what would do.
    """
    _check_files(settings)
    tools = await tools_of(settings)
    groups = Groups.found()
    check_host(settings, tools, groups, os.geteuid())
    try:
        filter = seccomp.load(own_alone=settings.architectures == "own")
    except ValueError as error:
        raise ConfigError(
            f"{settings.section.where('runtime')}: {error}. Install what it comes with: containers-common, which is "
            "golang-github-containers-common on Debian and Ubuntu."
        ) from error
    runtime = OciRuntime(tools, settings, groups, filter)
    try:
        await runtime.open()
    except OSError as error:
        raise ConfigError(f"{settings.section.where('directory')}: cannot be used: {error}") from error
    try:
        yield runtime
    finally:
        await runtime.close()
