"""The embedded executor of local processes passes the kit of executors, plain and inside bubblewrap."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Literal

import pytest

from ion_core.contracts.executor import Executor, JobRef
from ion_core.embedded.jobs import layout
from ion_core.embedded.jobs.executor import SubprocessExecutor, open_subprocess_executor
from ion_core.embedded.settings import SubprocessSettings
from ion_core.testing import ExecutorConformance
from ion_core.testing.executor import StepRules
from ion_core.testing.job_stops import StopRules
from ion_core.testing.jobs import ExecutorKit
from tests.support.away import a_file_in_place_of

HELD_STEPS = Path(__file__).parents[1] / "embedded" / "held_steps.py"


def command_lines() -> Iterator[str]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                yield (process / "cmdline").read_text(errors="replace")


class SubprocessHooks(ExecutorKit):
    isolation: Literal["none", "bubblewrap"] = "none"
    fill = None  # there is no quota
    forbid = None
    hold_queued = None  # a job is started at once

    @pytest.fixture
    async def executor(self, tmp_path: Path) -> AsyncIterator[Executor]:
        self.held = tmp_path / "held"
        self.held.mkdir()
        self.settings_of_it = SubprocessSettings.model_validate(
            {"path": tmp_path / "jobs", "environments": tmp_path / "python", "isolation": self.isolation}
        )
        async with self.reopen() as executor:
            yield executor

    def reopen(self) -> AbstractAsyncContextManager[Executor]:
        handler = (sys.executable, str(HELD_STEPS), str(self.held))
        return open_subprocess_executor(self.settings_of_it, handler=handler)

    @asynccontextmanager
    async def outage(self, executor: SubprocessExecutor) -> AsyncIterator[None]:
        with a_file_in_place_of(self.settings_of_it.path):
            yield

    @asynccontextmanager
    async def stores_away(self, tmp_path: Path) -> AsyncIterator[None]:
        """Their place is taken by a database that another process keeps to itself."""
        documents, away = tmp_path / "documents.sqlite", tmp_path / "away"
        files = [*tmp_path.glob("documents.sqlite*")]  # noqa: ASYNC240
        away.mkdir()
        for file in files:
            file.rename(away / file.name)
        with closing(sqlite3.connect(documents, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE others (x)")
            connection.execute("BEGIN EXCLUSIVE")
            yield
        documents.unlink()
        for file in files:
            (away / file.name).rename(file)

    def shared(self, tmp_path: Path) -> Path:
        return tmp_path

    async def listed(self, executor: SubprocessExecutor) -> str:
        """What every user of the machine sees: names of directories, and the command lines of processes."""
        return "\n".join([*(it.name for it in self.settings_of_it.path.iterdir()), *command_lines()])

    async def lose_node(self, executor: SubprocessExecutor, ref: JobRef) -> None:
        self.signal_supervisor(ref, signal.SIGKILL)

    async def evict(self, executor: SubprocessExecutor, ref: JobRef) -> None:
        """As when the machine is shut down."""
        self.signal_supervisor(ref, signal.SIGTERM)

    async def delete(self, executor: SubprocessExecutor, ref: JobRef) -> None:
        """By another process."""
        async with self.reopen() as another:
            await another.remove(ref)

    def signal_supervisor(self, ref: JobRef, number: int) -> None:
        supervisor, _ = layout.supervised(str(self.settings_of_it.path / ref.name))
        assert supervisor is not None
        os.kill(supervisor.pid, number)

    def hold_prepare(self, executor: SubprocessExecutor) -> AbstractAsyncContextManager[None]:
        return self.hold("prepare")

    def hold_commit(self, executor: SubprocessExecutor) -> AbstractAsyncContextManager[None]:
        return self.hold("commit")

    @asynccontextmanager
    async def hold(self, step: str) -> AsyncIterator[None]:
        file = self.held / step
        file.touch()
        yield
        file.unlink()


class TestSubprocess(SubprocessHooks, ExecutorConformance):
    pass


class TestSubprocessInBubblewrap(SubprocessHooks, StepRules, StopRules):
    """What depends on how the module's own process is run."""

    isolation = "bubblewrap"
    shared = None  # a module sees nothing of the machine that it could write to
