import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.executor import Executor, JobRef
from ion_core.contracts.provider import Provider
from ion_core.testing import ExecutorConformance, ProviderConformance
from ion_sample import plugin
from ion_sample.executor import open_sample
from ion_sample.settings import SampleSettings

HELD_STEPS = Path(__file__).with_name("held_steps.py")


class TestSample(ExecutorConformance):
    limits_memory = False
    fill = None  # there is no quota
    forbid = None  # and no policy
    hold_queued = None  # a job is started at once

    @pytest.fixture
    async def executor(self, tmp_path: Path) -> AsyncIterator[Executor]:
        self.settings_of_it = SampleSettings(path=tmp_path / "sample")
        self.held = tmp_path / "held"
        self.held.mkdir()
        async with self.reopen() as executor:
            yield executor

    def reopen(self) -> AbstractAsyncContextManager[Executor]:
        return open_sample(self.settings_of_it, handler=(sys.executable, str(HELD_STEPS), str(self.held)))

    @asynccontextmanager
    async def outage(self, executor: Executor) -> AsyncIterator[None]:
        with in_place_of(self.settings_of_it.path):
            yield

    @asynccontextmanager
    async def stores_away(self, tmp_path: Path) -> AsyncIterator[None]:
        """In the place of the documents is a database that somebody else keeps to himself."""
        documents, away = tmp_path / "documents.sqlite", tmp_path / "away"
        files = [*tmp_path.glob("documents.sqlite*")]
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

    async def listed(self, executor: Executor) -> str:
        """What every user of the machine sees: names of directories, and the command lines of processes."""
        return "\n".join([*(it.name for it in self.settings_of_it.path.iterdir()), *command_lines()])

    async def lose_node(self, executor: Executor, ref: JobRef) -> None:
        os.kill(self.supervisor_of(ref), signal.SIGKILL)

    async def evict(self, executor: Executor, ref: JobRef) -> None:
        os.kill(self.supervisor_of(ref), signal.SIGTERM)

    async def delete(self, executor: Executor, ref: JobRef) -> None:
        async with self.reopen() as another:
            await another.remove(ref)

    def supervisor_of(self, ref: JobRef) -> int:
        return int((self.settings_of_it.path / ref.name / "supervisor").read_text())

    def hold_prepare(self, executor: Executor) -> AbstractAsyncContextManager[None]:
        return self.hold("prepare")

    def hold_commit(self, executor: Executor) -> AbstractAsyncContextManager[None]:
        return self.hold("commit")

    @asynccontextmanager
    async def hold(self, step: str) -> AsyncIterator[None]:
        file = self.held / step
        file.touch()
        yield
        file.unlink()


class TestProvider(ProviderConformance):
    not_set_up = None  # settings say all that it takes

    @pytest.fixture
    def provider(self) -> Provider[Executor]:
        (provider,) = plugin.ion_executors()
        return provider

    def section(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": tmp_path / "sample"}

    def unusable(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": "/dev/null/sample"}


@contextmanager
def in_place_of(directory: Path) -> Iterator[None]:
    """A file is there instead."""
    away = directory.rename(directory.with_name("away"))
    directory.touch()
    try:
        yield
    finally:
        directory.unlink()
        away.rename(directory)


def command_lines() -> Iterator[str]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                yield (process / "cmdline").read_text(errors="replace")
