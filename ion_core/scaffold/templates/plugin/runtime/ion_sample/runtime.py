"""A ContainerRuntime that isolates nothing: a container is a process in a session of its own.

What a module leaves running in another session is not found. A note of each container lies in a file, so that a later
process finds those of one that was killed, and ends them.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from ion_core.contracts.output import KeptOutput, Stream
from ion_core.contracts.runtime import (
    ContainerRef,
    ContainerRuntime,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    ExitStatus,
    LogLine,
    RuntimeCapabilities,
)
from ion_core.errors import ConfigError, ContainerNotFound, PermanentError, TransientError
from ion_sample import groups
from ion_sample.settings import SampleSettings

LOOK_AGAIN = 0.01
"""Seconds."""


class Container:
    """A process of this one's."""

    def __init__(self, spec: ContainerSpec) -> None:
        self.spec = spec
        self.ref = ContainerRef(id=uuid.uuid4().hex, name=spec.name)
        self.output = KeptOutput(spec.log_limit)
        self.process: subprocess.Popen[bytes] | None = None
        self.status: ExitStatus | None = None
        self.ended = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        where = self.spec.source or self.spec.workspace
        path = os.environ.get("PATH", os.defpath)
        try:
            self.process = subprocess.Popen(
                [*self.spec.argv],
                cwd=where,
                env={"PATH": path, "HANDLER_BASE_DIR": str(self.spec.workspace), **self.spec.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise PermanentError(f"container {self.ref.name}: {error.filename}: {error.strerror}.") from error
        except OSError as error:
            raise TransientError(f"container {self.ref.name}: cannot be started: {error.strerror}.") from error
        self._running = asyncio.create_task(self._until_ended(self.process))

    async def _until_ended(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        loop = asyncio.get_running_loop()
        pipes: Sequence[tuple[IO[bytes], Stream]] = ((process.stdout, "stdout"), (process.stderr, "stderr"))
        for pipe, stream in pipes:
            os.set_blocking(pipe.fileno(), False)
            loop.add_reader(pipe.fileno(), self._read, pipe, stream)
        await exit_of(process.pid)
        while groups.runs(process.pid):  # until it is reaped, its number is nobody else's
            groups.kill(process.pid)
            await asyncio.sleep(LOOK_AGAIN)
        code = process.wait()
        for pipe, stream in pipes:
            while self._read(pipe, stream):
                pass
            loop.remove_reader(pipe.fileno())
            pipe.close()
        self.output.close()
        self.status = ExitStatus(code=code) if code >= 0 else ExitStatus(code=128 - code, signal=-code)
        self.ended.set()

    def _read(self, pipe: IO[bytes], stream: Stream) -> bool:
        """Whether there may be more of it at once."""
        try:
            data = os.read(pipe.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        if data:
            self.output.add(stream, data, time.time())
        else:
            asyncio.get_running_loop().remove_reader(pipe.fileno())
        return bool(data)


class Sample:
    capabilities = RuntimeCapabilities(
        images=False,
        isolates=False,
        inputs_read_only=False,
        memory_limit=False,
        cpu_limit=False,
        pids_limit=False,
        gpus=False,
        handler_api=True,
        networks=frozenset({"none", "bridge", "host"}),
        notice="The sample runtime isolates nothing: a module can do what this user can, and its network is ours.",
    )

    def __init__(self, path: Path) -> None:
        self.path = path
        self.containers: dict[str, Container] = {}

    async def create(self, spec: ContainerSpec) -> ContainerRef:
        with self._note(spec.name) as note:
            if note:
                if note["labels"] != dict(spec.labels):
                    raise PermanentError(f"container {spec.name}: exists with other labels. Remove it first.")
                return ref_of(note)
            if not spec.argv:
                raise PermanentError(f"container {spec.name}: this runtime takes no images. Give the module a command.")
            if spec.source is not None and not spec.source.is_dir():
                raise PermanentError(f"container {spec.name}: the source {spec.source} is no directory.")
            if spec.python is not None and spec.python.requirements is not None:
                raise PermanentError(f"container {spec.name}: this runtime installs no requirements.")
            container = Container(spec)
            self._write(container)
            self.containers[container.ref.id] = container
            return container.ref

    async def start(self, ref: ContainerRef) -> None:
        container = self._container(ref)
        if container.process is None:
            container.start()
            self._write(container)

    async def listen(self, ref: ContainerRef, port: int) -> socket.socket | None:
        self._container(ref)
        return None

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        container = self._container(ref)
        await container.ended.wait()
        assert container.status is not None, "set before ended is"
        return container.status

    async def logs(self, ref: ContainerRef, *, follow: bool = False) -> AsyncIterator[LogLine]:
        async for line in self._container(ref).output.lines(follow=follow):
            yield line

    async def stop(self, ref: ContainerRef, *, grace: timedelta) -> None:
        with self._note(ref.name) as note:
            if not note or note["id"] != ref.id or not is_running(note):
                return
        with contextlib.suppress(ProcessLookupError):
            os.kill(note["process"], signal.SIGTERM)
        try:
            async with asyncio.timeout(grace.total_seconds()):
                while is_running(note):
                    await asyncio.sleep(LOOK_AGAIN)
        except TimeoutError:
            while is_running(note):
                groups.kill(note["process"])
                await asyncio.sleep(LOOK_AGAIN)
        if (container := self.containers.get(ref.id)) is not None:
            await container.ended.wait()

    async def remove(self, ref: ContainerRef) -> None:
        await self.stop(ref, grace=timedelta(0))
        self.containers.pop(ref.id, None)
        with self._note(ref.name) as note:
            if note.get("id") == ref.id:
                self._path(ref.name).unlink()

    async def find(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        found = []
        with translated(self.path):
            names = [path.stem for path in self.path.iterdir() if path.suffix == ".json"]
        for name in names:
            with self._note(name) as note:
                if note and labels.items() <= note["labels"].items():
                    found.append(ContainerStatus(ref=ref_of(note), state=self._state(note), labels=note["labels"]))
        return found

    def _state(self, note: Mapping[str, Any]) -> ContainerState:
        if note["process"] is None:
            return ContainerState.CREATED
        if (ours := self.containers.get(note["id"])) is not None:
            return ContainerState.EXITED if ours.ended.is_set() else ContainerState.RUNNING
        return ContainerState.RUNNING if is_running(note) else ContainerState.EXITED

    def _container(self, ref: ContainerRef) -> Container:
        if ref.id not in self.containers:
            raise ContainerNotFound(f"container {ref.name}: is none that this process has made. Create it first.")
        return self.containers[ref.id]

    def _path(self, name: str) -> Path:
        return self.path / f"{name}.json"

    @contextmanager
    def _note(self, name: str) -> Iterator[dict[str, Any]]:
        """What is noted of a container, which is {} where there is none. Within, errors of the disk are ours."""
        with translated(self.path):
            try:
                note = json.loads(self._path(name).read_text("utf-8"))
            except FileNotFoundError:
                self.path.stat()  # what is gone altogether is an outage
                note = {}
            yield note

    def _write(self, container: Container) -> None:
        process = container.process
        note = {
            "id": container.ref.id,
            "name": container.ref.name,
            "labels": dict(container.spec.labels),
            "process": process and process.pid,
            "began": process and groups.began(process.pid),
        }
        with translated(self.path):
            new = self.path / f"{container.ref.name}.new"
            new.write_text(json.dumps(note), "utf-8")
            new.replace(self._path(container.ref.name))


def ref_of(note: Mapping[str, Any]) -> ContainerRef:
    return ContainerRef(id=note["id"], name=note["name"])


def is_running(note: Mapping[str, Any]) -> bool:
    process = note["process"]
    return process is not None and groups.began(process) == note["began"] and groups.runs(process)


async def exit_of(process: int) -> None:
    """Returns once it has ended; it is not reaped."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """The operating system's errors as Ion's."""
    try:
        yield
    except OSError as error:
        raise TransientError(f"{path}: {error.strerror}. Is the disk all right?") from error


@asynccontextmanager
async def open_sample(settings: SampleSettings) -> AsyncIterator[ContainerRuntime]:
    try:
        settings.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = settings.section.where("path")
        raise ConfigError(f"{where}: {settings.path} cannot be made: {error.strerror}.") from error
    runtime = Sample(settings.path.absolute())
    try:
        yield runtime
    finally:
        for container in list(runtime.containers.values()):
            await runtime.remove(container.ref)
