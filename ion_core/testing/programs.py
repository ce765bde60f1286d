"""The runtime kit's commands, how it runs them, and the hooks of its subclasses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ion_core.contracts.runtime import (
    ContainerRef,
    ContainerRuntime,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    ExitStatus,
    LogLine,
)
from ion_core.testing.kit import Conformance, undeclared

BASE = '"${HANDLER_BASE_DIR:-/ion}"'
READY = "ready"
"""The first line of every command that goes on for ever."""

Command = Sequence[str]


class Commands:
    """What the kit's containers do. A runtime without ``/bin/sh`` overrides these, all of them."""

    def exits_with(self, code: int) -> Command:
        """A program and one argument or more."""
        return shell(f"exit {code}")

    def dies_by(self, signal: int) -> Command:
        """By that signal; where the first process of a container is immune to its own, by exit code 128 + signal."""
        return shell(f"kill -{signal} $$; exit {128 + signal}")

    def prints(self, *, stdout: bytes = b"", stderr: bytes = b"") -> Command:
        """Exactly these bytes."""
        octal = ("".join(f"\\{byte:03o}" for byte in data) for data in (stdout, stderr))
        return shell("printf '{}'; printf '{}' >&2".format(*octal))

    def prints_lines(self, count: int) -> Command:
        """``line 0``, ``line 1``, …"""
        return shell(f'n=0; while [ $n -lt {count} ]; do echo "line $n"; n=$((n+1)); done')

    def prints_long_line(self, length: int) -> Command:
        """So many ``x`` and a newline."""
        return shell(f"head -c {length} /dev/zero | tr '\\0' x; echo")

    def prints_env(self, *names: str) -> Command:
        """A line for each variable, empty where it is not set."""
        return shell("".join(f"printf '%s\\n' \"${name}\"; " for name in names))

    def prints_file(self, name: str) -> Command:
        """A file of the directory where the command starts."""
        return shell(f"cat {name}")

    def copies(self, source: str, target: str) -> Command:
        """A file of the workspace to another of the workspace."""
        return shell(f"cp {BASE}/{source} {BASE}/{target}")

    def appends(self, line: str, name: str) -> Command:
        """A line to a file of the workspace."""
        return shell(f"echo {line} >> {BASE}/{name}")

    def listens(self, source: str, target: str, *, code: int) -> Command:
        """Prints a file of the workspace and the variable ODD, copies its input to another file, and exits so."""
        return shell(f"cat {BASE}/{source}; printf '%s\\n' \"$ODD\"; cat > {BASE}/{target}; exit {code}")

    def hangs(self, *, on_term: int) -> Command:
        """For ever; SIGTERM makes it exit at once with that code."""
        return shell(f"trap 'exit {on_term}' TERM; echo {READY}; while :; do sleep 1 & wait $!; done")

    def ignores_term(self) -> Command:
        """For ever, whatever SIGTERM says."""
        return shell(f"trap '' TERM; echo {READY}; while :; do sleep 1; done")

    def keeps_writing(self, name: str) -> Command:
        """A file of the workspace, again and again, for ever."""
        return shell(f"echo {READY}; {_write_for_ever(name)}")

    def calls(self, port: int) -> Command:
        """``GET /`` at that port of its own machine, tried again for some seconds; prints what the answer holds."""
        python = f"import urllib.request as r; print(r.urlopen('http://localhost:{port}/', timeout=5).read().decode())"
        once = f'wget -q -O - http://localhost:{port}/ 2>/dev/null || python3 -c "{python}" 2>/dev/null'
        return shell(f"n=0; until {once}; do n=$((n+1)); [ $n -lt 50 ] || exit 1; sleep 0.1; done")

    def leaves_a_child_writing(self, name: str) -> Command:
        """Exits with 0 once its child, which ignores SIGTERM and SIGHUP, writes that file again and again."""
        return shell(f"(trap '' TERM HUP; {_write_for_ever(name)}) & while [ ! -e {BASE}/{name} ]; do sleep 0.05; done")


def shell(script: str) -> Command:
    """A command of ``/bin/sh``."""
    return ("/bin/sh", "-c", script)


def _write_for_ever(name: str) -> str:
    return f"while :; do echo tick > {BASE}/{name}; sleep 0.05; done"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a container ended and all it printed."""

    status: ExitStatus
    lines: Sequence[LogLine]
    workspace: Path

    def text(self, stream: str) -> list[str]:
        return [line.text for line in self.lines if line.stream == stream]


class RuntimeKit(Commands, Conformance):
    """``image`` is what every container is made of, None for a runtime without images."""

    contract = "runtime"
    image: ClassVar[str | None] = None
    missing_image: ClassVar[str | None] = None
    takes_source: ClassVar[bool] = True
    reopen: Callable[..., AbstractAsyncContextManager[Any]] | None = undeclared(
        "reopen", "def reopen(self): a context manager of a second runtime, as a later process on this machine has it"
    )
    outage: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "outage", "def outage(self, runtime): a context manager within which the backend fails every call"
    )

    def spec(self, tmp_path: Path, command: Command, **changes: Any) -> ContainerSpec:
        """A container of its own name and label, with an empty workspace."""
        workspace = tmp_path / self.fresh("workspace")
        for directory in ("in/data", "out/data", "out/events"):
            path = workspace / directory
            path.mkdir(parents=True)
            path.chmod(0o777)  # the program may be another user
        if self.takes_source and "source" not in changes:
            changes["source"] = workspace / "in"
        labels = {"ion-kit": self.fresh("label")}
        given = {"name": self.fresh("kit"), "image": self.image, "workspace": workspace, "labels": labels}
        return ContainerSpec(command=command, **(given | changes))

    @asynccontextmanager
    async def made(self, runtime: ContainerRuntime, spec: ContainerSpec) -> AsyncIterator[ContainerRef]:
        """A created container, removed in the end."""
        ref = await self.within(runtime.create(spec), "create")
        try:
            yield ref
        finally:
            await self.within(runtime.remove(ref), "remove")

    @asynccontextmanager
    async def running(self, runtime: ContainerRuntime, spec: ContainerSpec) -> AsyncIterator[ContainerRef]:
        """A container whose command has said that it is ready, removed in the end."""
        async with self.made(runtime, spec) as ref:
            await self.within(runtime.start(ref), "start")

            async def ready() -> None:
                async for line in runtime.logs(ref, follow=True):
                    if line.text == READY:
                        return

            await self.within(ready(), f"the line {READY!r} in the log")
            yield ref

    @asynccontextmanager
    async def handler_api(self) -> AsyncIterator[tuple[int, Callable[[socket.socket], Awaitable[None]]]]:
        """A port of ours at which every request is answered ``called``, and how to do that on another socket."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\ncalled")
            await writer.drain()
            writer.close()

        async with AsyncExitStack() as stack:

            async def serve(listening: socket.socket) -> None:
                await stack.enter_async_context(await asyncio.start_server(answer, sock=listening))

            ours = socket.create_server(("127.0.0.1", 0))
            await serve(ours)
            yield ours.getsockname()[1], serve

    async def ended(self, runtime: ContainerRuntime, ref: ContainerRef) -> ExitStatus:
        return await self.within(runtime.wait(ref), "the end of the container")

    async def lines(self, runtime: ContainerRuntime, ref: ContainerRef, *, follow: bool = False) -> list[LogLine]:
        async def collect() -> list[LogLine]:
            return [line async for line in runtime.logs(ref, follow=follow)]

        return await self.within(collect(), "the end of the log")

    async def run(self, runtime: ContainerRuntime, tmp_path: Path, command: Command, **changes: Any) -> Ran:
        """A container from create to remove."""
        spec = self.spec(tmp_path, command, **changes)
        async with self.made(runtime, spec) as ref:
            await self.within(runtime.start(ref), "start")
            status = await self.ended(runtime, ref)
            return Ran(status=status, lines=await self.lines(runtime, ref), workspace=spec.workspace)

    async def status(self, runtime: ContainerRuntime, spec: ContainerSpec) -> ContainerStatus | None:
        """As ``find`` sees it, None where it does not."""
        found = await self.within(runtime.find(spec.labels), "find")
        assert len(found) <= 1, f"several containers have the label of one: {found}"
        return found[0] if found else None

    async def state(self, runtime: ContainerRuntime, spec: ContainerSpec) -> ContainerState | None:
        status = await self.status(runtime, spec)
        return None if status is None else status.state
