"""The runtime kit's commands as coroutines, for the memory runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL
from typing import ClassVar

from ion_core.embedded.memory.runtime import Program, this_container
from ion_core.testing.job_commands import JobCommands
from ion_core.testing.kit import Conformance
from ion_core.testing.programs import READY, Command, Commands


def say(line: str) -> None:
    this_container().log.write("stdout", line.encode() + b"\n")


async def write_for_ever(path: Path, first: asyncio.Event) -> int:
    while True:
        path.write_text("tick")  # noqa: ASYNC240
        first.set()
        await asyncio.sleep(0.01)


class MemoryCommands(Commands):
    """``programs`` is what the runtime of the fixture is made with."""

    programs: ClassVar[dict[str, Program]] = {}

    def program(self, body: Program) -> Command:
        name = Conformance.fresh("program")
        self.programs[name] = body
        return (name,)

    def exits_with(self, code: int) -> Command:
        return ("exit", str(code))

    def dies_by(self, signal: int) -> Command:
        return ("exit", str(-signal))

    def prints(self, *, stdout: bytes = b"", stderr: bytes = b"") -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            this_container().log.write("stdout", stdout)
            this_container().log.write("stderr", stderr)
            return 0

        return self.program(body)

    def prints_lines(self, count: int) -> Command:
        return ("print", *(f"line {n}" for n in range(count)))

    def prints_long_line(self, length: int) -> Command:
        return ("print", "x" * length)

    def prints_env(self, *names: str) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            for name in names:
                say(env.get(name, ""))
            return 0

        return self.program(body)

    def prints_file(self, name: str) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            source = this_container().spec.source
            assert source is not None
            this_container().log.write("stdout", (source / name).read_bytes())
            return 0

        return self.program(body)

    def copies(self, source: str, target: str) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            (Path(env["HANDLER_BASE_DIR"]) / target).write_bytes((workspace / source).read_bytes())
            return 0

        return self.program(body)

    def appends(self, line: str, name: str) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            with (workspace / name).open("a") as file:
                file.write(f"{line}\n")
            return 0

        return self.program(body)

    def hangs(self, *, on_term: int) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            say(READY)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return on_term
            return 0

        return self.program(body)

    def ignores_term(self) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            say(READY)
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    say("no")

        return self.program(body)

    def keeps_writing(self, name: str) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            say(READY)
            return await write_for_ever(workspace / name, asyncio.Event())

        return self.program(body)

    def calls(self, port: int) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return 1
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            say((await reader.read()).partition(b"\r\n\r\n")[2].decode())
            writer.close()
            return 0

        return self.program(body)

    def leaves_a_child_writing(self, name: str) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            written = asyncio.Event()
            this_container().spawn(write_for_ever(workspace / name, written))
            await written.wait()
            return 0

        return self.program(body)


class MemoryJobCommands(MemoryCommands, JobCommands):
    """Those of the executor kit too."""

    def leaves(self, files: Mapping[str, bytes], *, hang: bool = False) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            for name, content in files.items():
                (workspace / name).write_bytes(content)
            say(READY)
            if hang:
                await asyncio.Event().wait()
            return 0

        return self.program(body)

    def prints_arguments(self) -> Command:
        return ("print",)

    def prints_names_of_env(self) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            for name in env:
                say(name)
            return 0

        return self.program(body)

    def prints_names_of_files(self) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            for path in _files(workspace):
                say(str(path.relative_to(workspace)))
            return 0

        return self.program(body)

    def looks_for(self, text: str, *, below: str = "") -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            spec = this_container().spec
            if text in repr((env, spec.argv)):
                say("seen in what it was started with")
            for path in _files(workspace):
                if text.encode() in path.read_bytes():
                    say(f"seen in {path}")
            say("looked")
            return 0

        return self.program(body)

    def touches(self, path: Path) -> Command:
        return self.keeps_writing(str(path))  # which is absolute

    def leaves_a_child_touching(self, path: Path) -> Command:
        return self.leaves_a_child_writing(str(path))

    def takes_memory(self) -> Command:
        async def body(workspace: Path, env: Mapping[str, str]) -> int:
            this_container().limit = "memory"
            return -SIGKILL

        return self.program(body)


def _files(workspace: Path) -> list[Path]:
    return [path for path in workspace.rglob("*") if path.is_file()]
