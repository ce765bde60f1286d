"""A provider in a process of its own, which a test stops in the middle of its work: blocked, or by ``kill -9``.

Run as a program it is that process: it opens the provider, and does what it is told over its standard input and output.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Concatenate

Opening = tuple[Callable[[Any], AbstractAsyncContextManager[Any]], Any]
"""What opens the provider, found by its module and name, and what it is given, which can be pickled."""


class Test:
    """The test, as the work in the other process has it."""

    __test__ = False

    def say(self, **what: Any) -> None:
        print(json.dumps(what), flush=True)

    def ask(self) -> None:
        """Wait until the test says ``go``. The whole process waits: nothing of the provider goes on meanwhile."""
        sys.stdin.readline()


Work = Callable[Concatenate[Any, Test, ...], Awaitable[None]]
"""A coroutine function of a module: is given the provider, the test, and what ``elsewhere`` was given by name."""


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """The other process, as the test has it."""

    process: asyncio.subprocess.Process
    errors: Any

    async def said(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        if line := await self.process.stdout.readline():
            return json.loads(line)
        self.errors.seek(0)
        raise AssertionError(f"the provider's own process has ended:\n{self.errors.read().decode(errors='replace')}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def elsewhere(opening: Opening, work: Work, **given: Any) -> AsyncIterator[Elsewhere]:
    """Have ``work`` done in a process of its own, which is killed at the end."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = asyncio.subprocess.PIPE
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=pipe, stdout=pipe, stderr=errors, env=environ
        )
        other = Elsewhere(process=process, errors=errors)
        try:
            assert process.stdin is not None
            process.stdin.write(base64.b64encode(pickle.dumps((*opening, work, given))) + b"\n")
            yield other
        finally:
            await other.kill()


async def _main() -> None:
    opens, settings, work, given = pickle.loads(base64.b64decode(sys.stdin.readline()))
    async with opens(settings) as provider:
        await work(provider, Test(), **given)


if __name__ == "__main__":
    asyncio.run(_main())
