"""Modules as plain processes of this machine, or inside bubblewrap."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

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
from ion_core.embedded.os_errors import translating, writable_directory
from ion_core.embedded.process import orphans as process_orphans
from ion_core.embedded.process.container import ProcessContainer
from ion_core.embedded.process.notes import ContainerNote, ContainerNotes
from ion_core.embedded.programs import bubblewrap, ends, spawning
from ion_core.embedded.programs import start as process_start
from ion_core.embedded.programs import table as process_table
from ion_core.embedded.programs.launch import Launch, Launches
from ion_core.embedded.programs.threads import Threads, threads
from ion_core.embedded.settings import ProcessSettings
from ion_core.errors import ConfigError, ContainerNotFound, PermanentError
from ion_core.python_environments import Environments

log = logging.getLogger(__name__)

_STALE = timedelta(hours=1)


class ProcessRuntime:
    """A ContainerRuntime whose containers are processes. ``bwrap`` runs them inside, None for plain ones.

    ``memory`` limits the private writable memory of each process of a module, not of all together (RLIMIT_DATA);
    ``cpus`` gives it so many cores, rounded up. What leaves its process group is still found by a variable in its
    environment; who clears that too gets away, but from bubblewrap. The exit code of a container that another process
    started is not told: ``wait`` waits for its end and raises PermanentError.
    """

    def __init__(
        self,
        path: Path,
        threads: Threads,
        bwrap: str | None,
        *,
        capabilities: RuntimeCapabilities,
        environments: Environments,
    ) -> None:
        self.capabilities = capabilities
        self._notes = ContainerNotes(path)
        self._threads = threads
        self._launches = Launches(bwrap=bwrap, networks=capabilities.networks)
        self._environments = environments
        self._cores = spawning.Cores()
        self._ours: dict[str, ProcessContainer] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self._interactive: list[str] = []
        """Marks of what was run in the foreground, by somebody else."""

    async def create(self, spec: ContainerSpec) -> ContainerRef:
        python = await self._python(spec)
        with translating("process runtime"):
            note, launch, claimed = self._note(spec, python)  # a few looks at files: to have a thread do it costs more
        if note.labels != dict(spec.labels):
            raise PermanentError(f"container {spec.name}: exists with other labels. Remove it, or use another name.")
        ref = ContainerRef(id=note.id, name=note.name)
        if self._our(ref) is None and not claimed:
            self._ours[note.name] = ProcessContainer(spec, launch)
        return ref

    async def start(self, ref: ContainerRef) -> None:
        container = self._our(ref)
        if container is None:
            note = await self._threads.run(self._read, ref)
            if not await self._threads.run(self._notes.is_claimed, note.name):
                raise PermanentError(f"container {ref.name}: was made by another process. Create it again to start it.")
        elif not container.started:
            self._start(container)

    def _start(self, container: ProcessContainer) -> None:
        """In one go: whoever dies in between leaves at least the claim, by which ``find`` looks for the process."""
        name = container.spec.name
        with translating(f"container {name}: cannot be started"):
            try:
                is_first = self._notes.claim(name)
            except FileNotFoundError as error:
                raise ContainerNotFound(f"container {name}: was removed by another process.") from error
            if not is_first:  # another process has started it
                del self._ours[name]
                container.ended.set_result(None)
                return
            try:
                pid = container.start(self._cores.take(container.spec.resources.cpus))
            except OSError:
                self._notes.unclaim(name)
                raise
        task = asyncio.create_task(container.finish(self._threads.run), name=f"finish {name}")
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        try:
            if process := process_table.identify(pid):
                self._notes.started(name, process)
        except OSError as error:  # it runs, and would be found by its mark
            log.warning("cannot note a process", extra={"container": name, "pid": pid, "error": str(error)})

    async def listen(self, ref: ContainerRef, port: int) -> socket.socket | None:
        container = self._our(ref)
        if container is None:
            await self._threads.run(self._read, ref)  # there at all?
            return None
        if not self.capabilities.handler_api or not container.launch.isolated or container.spec.network == "host":
            return None
        await container.begun.wait()
        with translating(f"container {ref.name}: its network cannot be entered"):
            return None if container.pid is None else await bubblewrap.listen(container.pid, port)

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        if container := self._our(ref):
            if status := await asyncio.shield(container.ended):
                return status
            raise ContainerNotFound(f"container {ref.name}: was removed before it ran.")
        note = await self._threads.run(self._read, ref)
        if process := await self._threads.run(process_orphans.alive, self._notes, note):
            await ends.ended(process.pid)
        raise PermanentError(f"container {ref.name}: its exit code is told to the process that made it, to no other.")

    async def logs(self, ref: ContainerRef, *, follow: bool = False) -> AsyncIterator[LogLine]:
        if container := self._our(ref):
            async for line in container.log.lines(follow=follow):
                yield line
        else:
            await self._threads.run(self._read, ref)

    async def stop(self, ref: ContainerRef, *, grace: timedelta) -> None:
        if container := self._our(ref):
            await container.stop(grace=grace)
        elif note := await self._threads.run(self._read_if_there, ref):
            await process_orphans.stop(self._notes, note, self._threads.run, grace=grace)

    async def remove(self, ref: ContainerRef) -> None:
        if container := self._our(ref):
            await container.stop(grace=timedelta(0))
            with translating("process runtime"):
                self._notes.remove(ref.name)
            await container.stop(grace=timedelta(0))  # had somebody just started it
            self._ours.pop(ref.name, None)
            if not container.ended.done():
                container.ended.set_result(None)
            container.begun.set()
            container.log.close()
        elif note := await self._threads.run(self._read_if_there, ref):
            await process_orphans.stop(self._notes, note, self._threads.run, grace=timedelta(0))
            await self._threads.run(self._notes.remove, ref.name)

    async def find(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        return await self._threads.run(self._find, labels)

    async def interactive(self, spec: ContainerSpec, *, terminal: bool) -> Foreground:
        launch = self._launch(spec, uuid.uuid4().hex, await self._python(spec))
        self._interactive.append(launch.mark)
        argv = (launch.program, *launch.argv[1:])
        term = {"TERM": os.environ["TERM"]} if terminal and "TERM" in os.environ else {}
        return Foreground(argv=tuple(map(str, argv)), env={**term, **launch.env}, cwd=Path(launch.cwd))

    async def close(self) -> None:
        """Kill and remove every container of ours, and what a shell has left."""
        refs = [ContainerRef(id=c.launch.mark, name=c.spec.name) for c in self._ours.values()]
        problems = await asyncio.gather(*(self.remove(ref) for ref in refs), return_exceptions=True)
        for task in self._finishing:
            task.cancel()
        if self._finishing:
            await asyncio.wait(self._finishing)
        for mark in self._interactive:
            await self._threads.run(process_table.kill_marked, mark)
        await self._threads.run(self._notes.close)
        for problem in problems:
            if isinstance(problem, BaseException):
                raise problem

    async def _python(self, spec: ContainerSpec) -> Path | None:
        """The environment of the module's own, made if need be; None where it has none."""
        if spec.python is None or spec.python.ion:
            return None
        return await self._environments.get(spec.python.requirements)

    def _our(self, ref: ContainerRef) -> ProcessContainer | None:
        container = self._ours.get(ref.name)
        return container if container is not None and container.launch.mark == ref.id else None

    # The rest blocks.

    def _note(self, spec: ContainerSpec, python: Path | None) -> tuple[ContainerNote, Launch, bool]:
        mark = uuid.uuid4().hex
        launch = self._launch(spec, mark, python)
        note = self._notes.add(
            ContainerNote(
                id=mark,
                name=spec.name,
                labels=dict(spec.labels),
                command=tuple(spec.argv),
                workspace=str(spec.workspace),
                isolation="bubblewrap" if launch.isolated else "none",
            )
        )
        launch = replace(launch, mark=note.id, env={**launch.env, process_table.MARK: note.id})
        return note, launch, note.id != mark and self._notes.is_claimed(note.name)

    def _launch(self, spec: ContainerSpec, mark: str, python: Path | None) -> Launch:
        """What to start, if ``spec`` can be started at all; raises PermanentError otherwise."""
        launch = self._launches.of(spec, mark=mark, python=python)
        if not spec.workspace.is_dir():
            raise PermanentError(f"container {spec.name}: its workspace {spec.workspace} is not a directory.")
        return launch

    def _read_if_there(self, ref: ContainerRef) -> ContainerNote | None:
        note = self._notes.read(ref.name) if process_start.NAME.fullmatch(ref.name) else None
        return note if note is not None and note.id == ref.id else None

    def _read(self, ref: ContainerRef) -> ContainerNote:
        note = self._read_if_there(ref)
        if note is None:
            raise ContainerNotFound(f"container {ref.name}: there is none (any more).")
        return note

    def _find(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        return [
            ContainerStatus(ref=ContainerRef(id=note.id, name=note.name), state=self._state(note), labels=note.labels)
            for note in self._notes.all()
            if labels.items() <= note.labels.items()
        ]

    def _state(self, note: ContainerNote) -> ContainerState:
        ours = self._our(ContainerRef(id=note.id, name=note.name))
        return process_orphans.state(self._notes, note) if ours is None else ours.state


def _prepare(path: Path) -> None:
    writable_directory(path)
    ContainerNotes(path).sweep(older=time.time() - _STALE.total_seconds())


async def _capabilities(bwrap: str | None) -> RuntimeCapabilities:
    if bwrap is None:
        return process_start.CAPABILITIES
    offered = bubblewrap.CAPABILITIES
    if not (why := await bubblewrap.why_not_called(bwrap)):
        return offered
    notice = f"{offered.notice} Modules cannot call their handler here: {why}."
    return replace(offered, handler_api=False, notice=notice)


@asynccontextmanager
async def open_process_runtime(settings: ProcessSettings) -> AsyncIterator[ContainerRuntime]:
    """Open the runtime; on leaving, everything it started is killed and removed.

    Raises ConfigError when ``settings.path`` cannot be written or bubblewrap was asked for and does not work.
    """
    path = settings.path.absolute()
    try:
        await asyncio.to_thread(_prepare, path)
    except OSError as error:
        raise ConfigError(
            f"{settings.section.where('path')}: cannot note running modules in {path}: {error.strerror or error}. "
            "Name a directory that can be written."
        ) from error
    where = settings.section.where("isolation")
    bwrap = await bubblewrap.find_bubblewrap(where) if settings.isolation == "bubblewrap" else None
    async with threads("process runtime", "ion-process") as working:
        environments = Environments(settings.environments, timeout=settings.install_timeout.total_seconds())
        capabilities = await _capabilities(bwrap)
        runtime = ProcessRuntime(path, working, bwrap, capabilities=capabilities, environments=environments)
        try:
            yield runtime
        finally:
            try:
                await runtime.close()
            finally:
                environments.close()
