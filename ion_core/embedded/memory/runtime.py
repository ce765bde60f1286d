"""A container runtime whose containers are Python coroutines of this process."""

from __future__ import annotations

import asyncio
import socket
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from ion_core.contracts.runtime import (
    ContainerRef,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    ExitStatus,
    LogLine,
    RuntimeCapabilities,
)
from ion_core.embedded.memory.logs import MemoryLog
from ion_core.errors import ContainerNotFound, ImageUnavailable, PermanentError, ProviderError

Program = Callable[[Path, Mapping[str, str]], Awaitable[int]]
"""Given workspace and environment, returns the exit code; a negative one is a death by that signal.

SIGTERM arrives as CancelledError, which a program may catch; SIGKILL ends it where it stands.
"""


class MemoryContainer:
    """What a program finds out by ``this_container()``, and how the runtime runs it."""

    def __init__(self, spec: ContainerSpec, program: Program) -> None:
        self.spec = spec
        self.ref = ContainerRef(id=uuid.uuid4().hex, name=spec.name, image_digest=spec.image and f"memory:{spec.image}")
        self.log = MemoryLog(spec.log_limit)
        self.ended = asyncio.Event()
        self.status: ExitStatus | None = None
        self.killed = False
        self.limit: str | None = None
        """What ``ExitStatus.limit`` is to say: a program sets it."""
        self._program = program
        self._main: asyncio.Task[int] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._children: set[asyncio.Task[Any]] = set()

    @property
    def state(self) -> ContainerState:
        if self._main is None:
            return ContainerState.CREATED
        return ContainerState.EXITED if self.ended.is_set() else ContainerState.RUNNING

    def spawn(self, child: Coroutine[Any, Any, Any]) -> None:
        """Run beside the program, at most until the container has ended."""
        self._children.add(asyncio.create_task(child))

    def start(self) -> None:
        if self._main is None:
            self._main = asyncio.create_task(self._drive())
            self._main.add_done_callback(self._main_ended)

    def signal(self, *, kill: bool) -> None:
        if self._main is not None:
            self.killed = self.killed or kill
            self._main.cancel()

    async def _drive(self) -> int:
        _this.set(self)
        env = {"HANDLER_BASE_DIR": str(self.spec.workspace), **self.spec.env}
        return await _Killable(self, self._program(self.spec.workspace, env))

    def _main_ended(self, main: asyncio.Task[int]) -> None:
        if main.cancelled() or self.killed:
            code = -(SIGKILL if self.killed else SIGTERM)
        elif (error := main.exception()) is not None:
            self.log.write("stderr", "".join(traceback.format_exception(error)).encode())
            code = 1
        else:
            code = main.result()
        if self._children:
            self._ending = asyncio.create_task(self._end_children(code))
        else:
            self._end(code)

    async def _end_children(self, code: int) -> None:
        for child in self._children:
            child.cancel()
        await asyncio.gather(*self._children, return_exceptions=True)
        self._end(code)

    def _end(self, code: int) -> None:
        self.log.close()
        number = -code if code < 0 else None
        self.status = ExitStatus(code=code if number is None else 128 + number, signal=number, limit=self.limit)
        self.ended.set()


_this: ContextVar[MemoryContainer] = ContextVar("this_container")


def this_container() -> MemoryContainer:
    """For programs: the container they run in, to write to its ``log``, see its ``spec`` or ``spawn`` children."""
    return _this.get()


@dataclass(frozen=True)
class _Killable:
    """Awaits ``program`` and passes cancellation on to it, until the container is killed: then it is not asked."""

    container: MemoryContainer
    program: Awaitable[int]

    def __await__(self) -> Generator[Any, Any, int]:
        steps = self.program.__await__()
        proceed: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                waiting = proceed()
            except StopIteration as end:
                return int(end.value)
            try:
                yield waiting
                proceed = partial(next, steps)
            except asyncio.CancelledError as term:
                if self.container.killed:
                    raise
                proceed = partial(steps.throw, term)


async def _exit(code: str, *_: str) -> int:
    return int(code)


async def _print(*lines: str) -> int:
    for line in lines:
        this_container().log.write("stdout", line.encode() + b"\n")
    return 0


async def _hang(*_: str) -> int:
    await asyncio.Event().wait()
    return 0


FORMS: Mapping[str, Callable[..., Awaitable[int]]] = {
    "true": partial(_exit, "0"),
    "false": partial(_exit, "1"),
    "exit": _exit,
    "print": _print,
    "hang": _hang,
}
"""Commands that need no registering: ``exit 3``, ``print one two`` (a line each), ``hang``."""


class MemoryRuntime:
    """The runtime contract for ``programs``, which are at once its images and what a command may begin with.

    While ``failing`` is set to an error, every call raises it.
    """

    capabilities = RuntimeCapabilities(
        images=True,
        isolates=False,
        inputs_read_only=False,
        memory_limit=False,
        cpu_limit=False,
        pids_limit=False,
        gpus=False,
        handler_api=True,
        networks=frozenset({"none", "bridge", "host"}),
        notice="The memory runtime runs modules inside this process and isolates nothing.",
    )

    container_type = MemoryContainer

    def __init__(self, programs: Mapping[str, Program] | None = None) -> None:
        self.programs: Mapping[str, Program] = {} if programs is None else programs
        self.containers: dict[str, MemoryContainer] = {}
        self.failing: ProviderError | None = None

    async def create(self, spec: ContainerSpec) -> ContainerRef:
        self._check()
        for container in self.containers.values():
            if container.spec.name == spec.name:
                if dict(container.spec.labels) != dict(spec.labels):
                    raise PermanentError(f"container {spec.name}: exists with other labels. Remove it first.")
                return container.ref
        container = self.container_type(spec, self._program(spec))
        self.containers[container.ref.id] = container
        return container.ref

    async def start(self, ref: ContainerRef) -> None:
        self._container(ref).start()

    async def listen(self, ref: ContainerRef, port: int) -> socket.socket | None:
        self._container(ref)
        return None

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        container = self._container(ref)
        await container.ended.wait()
        assert container.status is not None, "set before ended is"
        return container.status

    async def logs(self, ref: ContainerRef, *, follow: bool = False) -> AsyncIterator[LogLine]:
        async for line in self._container(ref).log.lines(follow=follow):
            yield line

    async def stop(self, ref: ContainerRef, *, grace: timedelta) -> None:
        self._check()
        container = self.containers.get(ref.id)
        if container is None or container.state is not ContainerState.RUNNING:
            return
        container.signal(kill=False)
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await container.ended.wait()
        except TimeoutError:
            container.signal(kill=True)
            await container.ended.wait()

    async def remove(self, ref: ContainerRef) -> None:
        self._check()
        container = self.containers.pop(ref.id, None)
        if container is not None and container.state is ContainerState.RUNNING:
            container.signal(kill=True)
            await container.ended.wait()

    async def find(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        self._check()
        return [
            ContainerStatus(ref=container.ref, state=container.state, labels=dict(container.spec.labels))
            for container in self.containers.values()
            if labels.items() <= dict(container.spec.labels).items()
        ]

    def _program(self, spec: ContainerSpec) -> Program:
        if spec.image is not None and spec.image not in self.programs:
            raise ImageUnavailable(f"image {spec.image}: no such program. Registered: {', '.join(self.programs)}.")
        if spec.source is not None and not spec.source.is_dir():
            raise PermanentError(f"container {spec.name}: the source {spec.source} is no directory.")
        name, *arguments = spec.argv or [spec.image or ""]
        if name in self.programs:
            return self.programs[name]
        if name in FORMS:
            return lambda workspace, env: FORMS[name](*arguments)
        raise PermanentError(f"container {spec.name}: no such program {name!r}. Register it in programs.")

    def _container(self, ref: ContainerRef) -> MemoryContainer:
        self._check()
        if ref.id not in self.containers:
            raise ContainerNotFound(f"container {ref.name}: is not there. Create it first.")
        return self.containers[ref.id]

    def _check(self) -> None:
        if self.failing is not None:
            raise self.failing


@asynccontextmanager
async def open_memory_runtime(
    settings: Any = None, programs: Mapping[str, Program] | None = None
) -> AsyncIterator[MemoryRuntime]:
    """Containers are killed and gone when the context is left."""
    runtime = MemoryRuntime(programs)
    try:
        yield runtime
    finally:
        runtime.failing = None
        for container in list(runtime.containers.values()):
            await runtime.remove(container.ref)
