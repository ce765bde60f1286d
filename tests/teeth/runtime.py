"""Broken container runtimes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from ion_core.contracts.runtime import (
    ContainerRef,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    ExitStatus,
    Foreground,
)
from ion_core.embedded.memory.logs import MemoryLog
from ion_core.embedded.memory.runtime import MemoryContainer, MemoryRuntime
from ion_core.embedded.process.runtime import ProcessRuntime
from ion_core.embedded.programs.start import CAPABILITIES
from ion_core.errors import ContainerNotFound, ImageUnavailable, PermanentError, ProviderError, TransientError
from ion_core.python_environments import Environments
from ion_core.testing.runtime import ContainerRuntimeConformance
from tests.conformance.memory_commands import MemoryCommands
from tests.teeth.harness import Mutants, Open, out_of_order

M = TypeVar("M")


class Runtimes(MemoryCommands, ContainerRuntimeConformance):
    patience = 5.0
    quiet = 0.05
    missing_image = "no/such:image"
    outage = staticmethod(out_of_order)
    opened: MemoryRuntime

    def reopen(self) -> Any:
        return nullcontext(self.opened)


class Noted(MemoryContainer):
    """Whatever a broken runtime leaves running is ended after its test."""

    orphans: list[asyncio.Task[Any]]

    def start(self) -> None:
        super().start()
        self.orphans += [task for task in (self._main, *self._children) if task is not None]


def opening(runtime_type: type[MemoryRuntime], container_type: type[MemoryContainer] = Noted) -> Open:
    @asynccontextmanager
    async def opens(kit: Runtimes) -> AsyncIterator[MemoryRuntime]:
        kit.opened = runtime = runtime_type(kit.programs)
        orphans: list[asyncio.Task[Any]] = []
        noted: Any = type("Container", (container_type,), {"orphans": orphans})
        runtime.container_type = noted
        yield runtime
        for container in runtime.containers.values():
            container.signal(kill=True)
        for _ in range(2):  # the second time for those that do not listen
            for orphan in orphans:
                orphan.cancel()
            await asyncio.sleep(0)

    return opens


RUNTIME = Mutants(Runtimes, "runtime", opening(MemoryRuntime))


def runtime(rule: str, method: str) -> Callable[[M], M]:
    return RUNTIME.breaks(rule, MemoryRuntime, method, opening)


def container(rule: str, method: str) -> Callable[[M], M]:
    return RUNTIME.breaks(rule, Noted, method, partial(opening, MemoryRuntime))


def log(rule: str, method: str) -> Callable[[M], M]:
    def opens(log_type: type[MemoryLog]) -> Open:
        def init(self: Any, spec: Any, program: Any) -> None:
            MemoryContainer.__init__(self, spec, program)
            self.log = log_type(spec.log_limit)

        return opening(MemoryRuntime, type("Container", (Noted,), {"__init__": init}))

    return RUNTIME.breaks(rule, MemoryLog, method, opens)


# Creating


RUNTIME.add(
    "a_runtime_that_isolates_nothing_says_so",
    "keeps_it_to_itself",
    opening(type("Silent", (MemoryRuntime,), {"capabilities": replace(MemoryRuntime.capabilities, notice="")})),
)


@runtime("create_runs_nothing", "create")
async def create_runs(self: Any, spec: Any) -> ContainerRef:
    ref = await MemoryRuntime.create(self, spec)
    await self.start(ref)
    return ref


@runtime("create_again_gives_the_same_container", "create")
async def create_makes_another(self: Any, spec: Any) -> ContainerRef:
    made = self.container_type(spec, self._program(spec))
    self.containers[made.ref.id] = made
    return made.ref  # type: ignore[no-any-return]


@runtime("create_again_gives_the_same_container", "create")
async def create_replaces(self: Any, spec: Any) -> ContainerRef:
    for made in list(self.containers.values()):
        if made.spec.name == spec.name:
            await self.remove(made.ref)
    return await MemoryRuntime.create(self, spec)


@runtime("create_with_other_labels_is_refused", "create")
async def create_ignores_labels(self: Any, spec: Any) -> ContainerRef:
    for made in self.containers.values():
        if made.spec.name == spec.name:
            return made.ref  # type: ignore[no-any-return]
    return await MemoryRuntime.create(self, spec)


@runtime("a_missing_program_is_refused", "_program")
def exits_with_127(self: Any, spec: Any) -> Any:
    try:
        return MemoryRuntime._program(self, spec)
    except PermanentError:
        return MemoryRuntime._program(self, replace(spec, command=("exit", "127")))


@runtime("a_missing_image_is_refused", "_program")
def says_transient(self: Any, spec: Any) -> Any:
    try:
        return MemoryRuntime._program(self, spec)
    except ImageUnavailable as error:
        raise TransientError(str(error)) from error


@runtime("a_missing_image_is_refused", "_program")
def runs_without_image(self: Any, spec: Any) -> Any:
    return MemoryRuntime._program(self, replace(spec, image=None))


RUNTIME.add(
    "a_directory_that_makes_no_image_is_refused",
    "runs_the_image_as_it_was",
    opening(type("Boasting", (MemoryRuntime,), {"capabilities": replace(MemoryRuntime.capabilities, builds=True)})),
)


@runtime("a_directory_that_makes_no_image_is_refused", "_program")
def refuses_what_it_does_not_offer(self: Any, spec: Any) -> Any:
    if spec.build is not None:
        raise PermanentError(f"container {spec.name}: nothing is built here.")
    return MemoryRuntime._program(self, spec)


@runtime("a_missing_source_is_refused", "_program")
def starts_anywhere(self: Any, spec: Any) -> Any:
    return MemoryRuntime._program(self, replace(spec, source=None))


# Starting, waiting


@runtime("exit_codes_are_data", "wait")
async def takes_failure_for_an_error(self: Any, ref: Any) -> ExitStatus:
    status = await MemoryRuntime.wait(self, ref)
    if status.code:
        raise ProviderError(f"exit code {status.code}")
    return status


@runtime("exit_codes_are_data", "wait")
async def knows_good_and_bad_only(self: Any, ref: Any) -> ExitStatus:
    return ExitStatus(code=int((await MemoryRuntime.wait(self, ref)).code != 0))


@runtime("a_death_by_signal_is_told", "wait")
async def has_negative_codes(self: Any, ref: Any) -> ExitStatus:
    status = await MemoryRuntime.wait(self, ref)
    return status if status.signal is None else ExitStatus(code=-status.signal, signal=status.signal)


@runtime("a_death_by_signal_is_told", "wait")
async def hides_the_signal(self: Any, ref: Any) -> ExitStatus:
    return replace(await MemoryRuntime.wait(self, ref), signal=None)


@runtime("starting_twice_runs_it_once", "start")
async def start_runs_again(self: Any, ref: Any) -> None:
    found = self._container(ref)
    found._main = None
    found.ended = asyncio.Event()
    found.start()


@runtime("starting_twice_runs_it_once", "start")
async def start_of_the_running_fails(self: Any, ref: Any) -> None:
    if self._container(ref).state is not ContainerState.CREATED:
        raise ProviderError("already started")
    await MemoryRuntime.start(self, ref)


@runtime("wait_is_for_many_and_again", "wait")
async def wait_removes(self: Any, ref: Any) -> ExitStatus:
    status = await MemoryRuntime.wait(self, ref)
    self.containers.pop(ref.id, None)
    return status


@runtime("cancelling_wait_stops_nothing", "wait")
async def cancelling_wait_kills(self: Any, ref: Any) -> ExitStatus:
    try:
        return await MemoryRuntime.wait(self, ref)
    except asyncio.CancelledError:
        await self.stop(ref, grace=timedelta(0))
        raise


@container("nothing_runs_after_wait", "spawn")
def forgets_children(self: Any, child: Any) -> None:
    self.orphans.append(asyncio.create_task(child))


@runtime("an_unknown_container_is_not_found", "wait")
async def waits_for_nobody(self: Any, ref: Any) -> ExitStatus:
    if ref.id not in self.containers:
        return ExitStatus(code=0)
    return await MemoryRuntime.wait(self, ref)


@runtime("an_unknown_container_is_not_found", "start")
async def starts_nobody(self: Any, ref: Any) -> None:
    if ref.id in self.containers:
        await MemoryRuntime.start(self, ref)


@runtime("an_unknown_container_is_not_found", "listen")
async def listens_for_nobody(self: Any, ref: Any, port: int) -> None:
    pass


@runtime("a_program_reaches_its_handler", "listen")
async def listens_for_ever(self: Any, ref: Any, port: int) -> None:
    await asyncio.Event().wait()


RUNTIME.add(
    "a_program_reaches_its_handler",
    "does_not_say_so",
    opening(type("Modest", (MemoryRuntime,), {"capabilities": replace(MemoryRuntime.capabilities, handler_api=False)})),
)


# On a terminal; a runtime need not offer it, and the one in memory does not


def interactive(function: Callable[..., Foreground]) -> None:
    """A process runtime that changes what is run."""

    class Broken(ProcessRuntime):
        async def interactive(self, spec: ContainerSpec, *, terminal: bool) -> Foreground:
            return function(await super().interactive(spec, terminal=terminal), spec)

    @asynccontextmanager
    async def opens(kit: Runtimes) -> AsyncIterator[ProcessRuntime]:
        with TemporaryDirectory() as directory, ThreadPoolExecutor(1) as threads:
            environments = Environments(Path(directory) / "python", timeout=60.0)
            runtime = Broken(Path(directory), threads, None, capabilities=CAPABILITIES, environments=environments)
            yield runtime
            await runtime.close()

    RUNTIME.add("what_is_interactive_is_the_same_container", function.__name__, opens, patience=5.0)


@interactive
def forgets_the_environment(good: Foreground, spec: ContainerSpec) -> Foreground:
    return replace(good, env={name: value for name, value in good.env.items() if name not in spec.env})


@interactive
def shows_the_environment(good: Foreground, spec: ContainerSpec) -> Foreground:
    return replace(good, argv=("env", *(f"{name}={value}" for name, value in spec.env.items()), *good.argv))


@interactive
def sees_another_workspace(good: Foreground, spec: ContainerSpec) -> Foreground:
    return replace(good, env={**good.env, "HANDLER_BASE_DIR": f"{spec.workspace}/in/"})


@interactive
def hides_the_exit_code(good: Foreground, spec: ContainerSpec) -> Foreground:
    return replace(good, argv=("/bin/sh", "-c", '"$@"; exit 0', "sh", *good.argv))


@interactive
def takes_no_input(good: Foreground, spec: ContainerSpec) -> Foreground:
    return replace(good, argv=("/bin/sh", "-c", '"$@" < /dev/null', "sh", *good.argv))


@runtime("containers_run_side_by_side", "start")
async def runs_one_at_a_time(self: Any, ref: Any) -> None:
    for other in self.containers.values():
        if other.state is ContainerState.RUNNING:
            await other.ended.wait()
    await MemoryRuntime.start(self, ref)


# Stopping, removing


@runtime("stop_asks_first", "stop")
async def stop_kills(self: Any, ref: Any, *, grace: timedelta) -> None:
    self._container(ref).signal(kill=True)
    await MemoryRuntime.stop(self, ref, grace=grace)


@runtime("stop_asks_first", "stop")
async def stop_sits_the_grace_out(self: Any, ref: Any, *, grace: timedelta) -> None:
    self._container(ref).signal(kill=False)
    await asyncio.sleep(grace.total_seconds())


@runtime("stop_kills_what_does_not_listen", "stop")
async def stop_only_asks(self: Any, ref: Any, *, grace: timedelta) -> None:
    self._container(ref).signal(kill=False)
    await self._container(ref).ended.wait()


@runtime("stop_kills_what_does_not_listen", "stop")
async def stop_does_not_wait(self: Any, ref: Any, *, grace: timedelta) -> None:
    await asyncio.sleep(grace.total_seconds())
    self._container(ref).signal(kill=True)


@runtime("stop_kills_what_does_not_listen", "stop")
async def stop_has_no_patience(self: Any, ref: Any, *, grace: timedelta) -> None:
    await MemoryRuntime.stop(self, ref, grace=timedelta(0))


@runtime("stop_of_what_does_not_run_is_fine", "stop")
async def stop_insists(self: Any, ref: Any, *, grace: timedelta) -> None:
    if self._container(ref).state is not ContainerState.RUNNING:
        raise ProviderError("is not running")
    await MemoryRuntime.stop(self, ref, grace=grace)


@runtime("stop_of_what_does_not_run_is_fine", "stop")
async def stop_misses_the_gone(self: Any, ref: Any, *, grace: timedelta) -> None:
    self._container(ref)
    await MemoryRuntime.stop(self, ref, grace=grace)


@runtime("remove_kills_what_runs", "remove")
async def remove_forgets(self: Any, ref: Any) -> None:
    self.containers.pop(ref.id, None)


@runtime("remove_kills_what_runs", "remove")
async def remove_refuses(self: Any, ref: Any) -> None:
    if ref.id in self.containers and self.containers[ref.id].state is ContainerState.RUNNING:
        raise ProviderError("is running")
    await MemoryRuntime.remove(self, ref)


@runtime("remove_of_what_is_gone_is_fine", "remove")
async def remove_misses_the_gone(self: Any, ref: Any) -> None:
    if ref.id not in self.containers:
        raise ContainerNotFound(ref.name)
    await MemoryRuntime.remove(self, ref)


# Finding


@runtime("find_needs_every_label", "find")
async def find_needs_one_label(self: Any, labels: Any) -> list[ContainerStatus]:
    every = await MemoryRuntime.find(self, {})
    return [status for status in every if labels.items() & status.labels.items()]


@runtime("find_needs_every_label", "find")
async def find_looks_at_names_of_labels(self: Any, labels: Any) -> list[ContainerStatus]:
    every = await MemoryRuntime.find(self, {})
    return [status for status in every if labels.keys() <= status.labels.keys()]


@runtime("find_tells_state_and_labels", "find")
async def find_knows_the_running_only(self: Any, labels: Any) -> list[ContainerStatus]:
    found = await MemoryRuntime.find(self, labels)
    return [status for status in found if status.state is ContainerState.RUNNING]


@runtime("find_tells_state_and_labels", "find")
async def find_tells_no_labels(self: Any, labels: Any) -> list[ContainerStatus]:
    return [replace(status, labels={}) for status in await MemoryRuntime.find(self, labels)]


RUNTIME.add(
    "find_sees_those_of_an_earlier_process", "remembers_nothing", reopen=lambda self: nullcontext(MemoryRuntime())
)


@runtime("errors_of_the_backend_become_ours", "create")
async def lets_the_librarys_error_out(self: Any, spec: Any) -> ContainerRef:
    if self.failing is not None:
        raise ConnectionRefusedError("by the library")
    return await MemoryRuntime.create(self, spec)


# What the program sees


@runtime("env_reaches_the_program", "create")
async def drops_env(self: Any, spec: Any) -> ContainerRef:
    return await MemoryRuntime.create(self, replace(spec, env={}))


@runtime("env_reaches_the_program", "create")
async def strips_env(self: Any, spec: Any) -> ContainerRef:
    env = {name: value.strip() for name, value in spec.env.items()}
    return await MemoryRuntime.create(self, replace(spec, env=env))


@runtime("the_dispatchers_environment_stays_outside", "create")
async def passes_its_environment_on(self: Any, spec: Any) -> ContainerRef:
    return await MemoryRuntime.create(self, replace(spec, env={**os.environ, **spec.env}))


@runtime("the_workspace_is_the_programs_base", "create")
async def copies_the_workspace(self: Any, spec: Any) -> ContainerRef:
    workspace = spec.workspace.with_name("copy")
    shutil.copytree(spec.workspace, workspace)
    return await MemoryRuntime.create(self, replace(spec, workspace=workspace))


@runtime("arguments_stand_behind_the_command", "create")
async def create_forgets_arguments(self: Any, spec: Any) -> ContainerRef:
    return await MemoryRuntime.create(self, replace(spec, args=()))


@runtime("a_command_starts_in_its_source", "create")
async def starts_in_the_workspace(self: Any, spec: Any) -> ContainerRef:
    return await MemoryRuntime.create(self, replace(spec, source=spec.workspace))


# Output


@log("logs_are_complete_and_in_order", "_add")
def loses_every_thousandth_line(self: Any, stream: Any, raw: bytes) -> None:
    self.count = getattr(self, "count", 0) + 1
    if self.count % 1000:
        MemoryLog._add(self, stream, raw)


@log("both_streams_are_told_apart", "write")
def has_one_stream(self: Any, stream: Any, data: bytes) -> None:
    MemoryLog.write(self, "stdout", data)


@log("both_streams_are_told_apart", "_add")
def strips_lines(self: Any, stream: Any, raw: bytes) -> None:
    if raw.strip():
        MemoryLog._add(self, stream, raw.strip())


@log("a_last_line_needs_no_newline", "close")
def wants_a_newline(self: Any) -> None:
    self._partial = {}
    MemoryLog.close(self)


@log("bytes_that_are_no_utf8_are_replaced", "_add")
def drops_bad_bytes(self: Any, stream: Any, raw: bytes) -> None:
    MemoryLog._add(self, stream, raw.decode(errors="ignore").encode())


@log("bytes_that_are_no_utf8_are_replaced", "_add")
def drops_bad_lines(self: Any, stream: Any, raw: bytes) -> None:
    if "\ufffd" not in raw.decode(errors="replace"):
        MemoryLog._add(self, stream, raw)


@log("a_long_line_stays_one_line", "_add")
def breaks_lines_at_64_kib(self: Any, stream: Any, raw: bytes) -> None:
    for start in range(0, len(raw), 1 << 16):
        MemoryLog._add(self, stream, raw[start : start + (1 << 16)])


@log("output_beyond_the_limit_loses_its_middle", "__init__")
def has_no_limit(self: Any, limit: int) -> None:
    MemoryLog.__init__(self, 1 << 30)


@log("output_beyond_the_limit_loses_its_middle", "_add")
def keeps_the_beginning(self: Any, stream: Any, raw: bytes) -> None:
    if not self._tail:
        MemoryLog._add(self, stream, raw)


@log("output_beyond_the_limit_loses_its_middle", "read")
def says_nothing_of_what_it_dropped(self: Any, position: int) -> Any:
    first = len(self._head) + self._dropped
    return MemoryLog.read(self, first if len(self._head) <= position < first else position)


@log("output_beyond_the_limit_loses_its_middle", "__init__")
def keeps_next_to_nothing(self: Any, limit: int) -> None:
    MemoryLog.__init__(self, limit // 100)


@runtime("following_shows_lines_as_they_come", "logs")
async def follows_at_the_end(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[Any]:
    if follow:
        await self._container(ref).ended.wait()
    async for line in MemoryRuntime.logs(self, ref):
        yield line


@runtime("following_shows_lines_as_they_come", "logs")
async def shows_nothing_before_the_end(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[Any]:
    if follow or self._container(ref).ended.is_set():
        async for line in MemoryRuntime.logs(self, ref, follow=follow):
            yield line


@runtime("following_ends_with_the_container", "logs")
async def follows_for_ever(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[Any]:
    async for line in MemoryRuntime.logs(self, ref, follow=follow):
        yield line
    if follow:
        await asyncio.Event().wait()


@runtime("following_ends_with_the_container", "logs")
async def follows_nothing(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[Any]:
    async for line in MemoryRuntime.logs(self, ref):
        yield line


@runtime("each_line_tells_its_time", "logs")
async def tells_uptime(self: Any, ref: Any, *, follow: bool = False) -> AsyncIterator[Any]:
    async for line in MemoryRuntime.logs(self, ref, follow=follow):
        yield replace(line, at=asyncio.get_running_loop().time())
