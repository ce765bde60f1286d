"""A small world of memory providers around the core, for tests: conditions to wait on, a clock, observed outcomes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.commits import Commit
from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import ContainerState
from ion_core.contracts.storage import Document
from ion_core.dataplane import DataPlane, forget_rounds
from ion_core.dispatcher import Dispatcher
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.embedded.memory.runtime import MemoryRuntime, Program, this_container
from ion_core.errors import TransientError
from ion_core.events import Context, Event
from ion_core.gathering.graph import joined
from ion_core.handler import Handler
from ion_core.intake import Intake
from ion_core.jobs import Attempt, Job, Outcome, Verdict
from ion_core.letters import purge
from ion_core.modules import Module
from ion_core.stores import Patience

PATIENCE = 30.0
AT_ONCE = RetryPolicy(retries=2, initial=timedelta(0))


async def eventually(condition: Callable[[], bool]) -> None:
    """Once it holds; asked at every turn of the loop, for what tells nobody when it changes."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


class OneBlobWithheld(MemoryBlobStore):
    """Answers for every blob but those whose key says ``poisoned``, as for want of permission."""

    tries = 0

    async def get(self, key: str, target: Path, **how: Any) -> None:
        if "poisoned" in key:
            self.tries += 1
            raise TransientError(f"blob {key}: access is denied (403).")
        await super().get(key, target, **how)


class Observed:
    """An observer that remembers, and a condition on what it saw."""

    def __init__(self) -> None:
        self.started: list[Attempt] = []
        self.finished: list[tuple[Attempt, Outcome]] = []
        self.published: list[Event] = []
        self._changed = asyncio.Event()

    def job_started(self, attempt: Attempt) -> None:
        self.started.append(attempt)
        self._tell()

    def job_finished(self, attempt: Attempt, outcome: Outcome) -> None:
        self.finished.append((attempt, outcome))
        self._tell()

    def event_published(self, event: Event) -> None:
        self.published.append(event)
        self._tell()

    @property
    def verdicts(self) -> list[Verdict]:
        return [outcome.verdict for _, outcome in self.finished]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await self._changed.wait()

    async def finishes(self, attempts: int) -> None:
        """Once as many attempts have ended."""
        await self.until(lambda: len(self.finished) >= attempts)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Clock:
    """Calls back when told that time has passed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(self.now + seconds, call)
        self.timers.append(timer)
        return timer

    def pass_to_next(self) -> float:
        """Until the next call is due; returns how many seconds that took."""
        timer = min((timer for timer in self.timers if not timer.cancelled), key=lambda timer: timer.due)
        self.timers.remove(timer)
        waited, self.now = timer.due - self.now, timer.due
        timer.call()
        return waited


@dataclass(eq=False)
class Timer:
    due: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Scene:
    """A program a test drives: ``arrived`` counts those that wait for ``go``; ``most`` is how many ran at once."""

    def __init__(self, code: int = 0) -> None:
        self.go = asyncio.Event()
        self.code = code
        self.arrived = self.running = self.most = self.cancelled = 0
        self._changed = asyncio.Event()

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        self.arrived += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self._tell()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self._tell()
        return self.code

    async def until(self, arrived: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.arrived < arrived:
                await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def say(*lines: str) -> None:
    """For programs: print."""
    for line in lines:
        this_container().log.write("stdout", line.encode() + b"\n")


def emit(
    workspace: Path, event_type: str, *pairs: tuple[str, str], files: str | None = None, name: str = "0.json"
) -> None:
    """For programs: write an event file."""
    found = [("eventType", event_type), *pairs] + ([("files", files)] if files is not None else [])
    raw = json.dumps([{"key": key, "value": value} for key, value in found])
    (workspace / "out" / "events" / name).write_text(raw)


def exits(code: int) -> Program:
    async def program(workspace: Path, env: Mapping[str, str]) -> int:
        return code

    return program


def does(work: Callable[[Path], Any]) -> Program:
    """A program that does this with its workspace and succeeds."""

    async def program(workspace: Path, env: Mapping[str, str]) -> int:
        found = work(workspace)
        if isinstance(found, Awaitable):
            await found
        return 0

    return program


def fails_first(times: int, then: Program) -> Program:
    left = times

    async def program(workspace: Path, env: Mapping[str, str]) -> int:
        nonlocal left
        if left:
            left -= 1
            say(f"about to fail, {left} to go")
            return 3
        return await then(workspace, env)

    return program


def module(name: str, *, takes: str = "in", emits: Sequence[str] = ("out",), **more: Any) -> Module:
    return Module(name=name, image=name, subscribes=(takes,), publishes=tuple(emits), **{"retry": AT_ONCE, **more})


@dataclass
class World:
    """Everything around the core in memory. Programs are images; a module's image is its name."""

    work: Path
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    documents: MemoryDocumentStore = field(default_factory=MemoryDocumentStore)
    programs: dict[str, Program] = field(default_factory=dict)
    observed: Observed = field(default_factory=Observed)
    modules: list[Module] = field(default_factory=list)
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        self.runtime = MemoryRuntime(self.programs)
        self.inputs = self.work / "inputs"
        self.workspaces = self.work / "work"
        for directory in (self.inputs, self.workspaces):
            directory.mkdir(parents=True, exist_ok=True)

    def add(self, program: Program, name: str = "worker", **more: Any) -> Module:
        self.programs[name] = program
        self.modules.append(module(name, **more))
        return self.modules[-1]

    @property
    def dataplane(self) -> DataPlane:
        dataplane = DataPlane(self.blobs, self.documents, self.broker, self.observed, patience=self.patience)
        return dataplane.with_gatherers(self.modules)

    @property
    def handler(self) -> Handler:
        return Handler(self.dataplane, self.workspaces)

    def dispatcher(self, **more: Any) -> Dispatcher:
        known: dict[str, Any] = {"state_id": "ours", "probe_every": 0.0, "grace": timedelta(0)}
        known |= {"runtimes": {"default": self.runtime}, **more}
        return Dispatcher(
            joined(self.modules),
            broker=self.broker,
            dataplane=self.dataplane,
            observer=self.observed,
            work=self.workspaces,
            **known,
        )

    async def publish(self, event_type: str = "in", *, files: Mapping[str, bytes] | None = None, **more: Any) -> Event:
        intake = Intake(self.dataplane, self.modules)
        await intake.declare()
        paths = {}
        for n, (name, content) in enumerate((files or {}).items()):
            paths[name] = self.inputs / str(n)
            paths[name].write_bytes(content)
        return await intake.publish(event_type, name="test", files=paths, **more)

    @asynccontextmanager
    async def serving(self, **more: Any) -> AsyncIterator[Serving]:
        """A dispatcher at work; at the end it is drained, and what it left is for the test to look at."""
        dispatcher = self.dispatcher(**more)
        await dispatcher.recover()
        serving = Serving(dispatcher, asyncio.Event(), asyncio.Event())
        serving.task = asyncio.create_task(dispatcher.run(serving.stop, serving.hurry))
        try:
            yield serving
            serving.stop.set()
            async with asyncio.timeout(PATIENCE):
                await serving.task
        finally:
            serving.task.cancel()
            await asyncio.wait({serving.task}, timeout=PATIENCE)

    async def run(self, **more: Any) -> Dispatcher:
        """Serve until nothing is pending."""
        async with self.serving(**more) as serving, asyncio.timeout(PATIENCE):
            await self.broker.idle()
        return serving.dispatcher

    def documents_of(self, kind: str) -> list[Document]:
        return [document for document in self.documents.documents.values() if document.kind == kind]

    @property
    def commits(self) -> list[Commit]:
        return [Commit.from_document(document) for document in self.documents_of("commit")]

    @property
    def logs(self) -> dict[str, Mapping[str, Any]]:
        return {document.id: document.body for document in self.documents_of("modulelogs")}

    def log_of(self, event: Event, module: str = "worker", number: int = 1) -> Mapping[str, Any]:
        """That of the one attempt with this number."""
        prefix = f"module:{module}-event:{event.context.event_id}-attempt:{number}-"
        [body] = [body for id, body in self.logs.items() if id.startswith(prefix)]
        return body

    async def dead(self, queue: str = "worker") -> list[Any]:
        return list(await self.broker.dead_letters(queue))

    async def redrive(self, queue: str = "worker") -> None:
        """All dead letters of the queue, as the command does."""
        letters = await self.dead(queue)
        await forget_rounds(self.documents, letters)
        await self.broker.redrive(queue, [letter.id for letter in letters])

    async def purge(self, queue: str = "worker") -> int:
        """All dead letters of the queue, as the command does."""
        gathering = self.dataplane.gathering
        return await purge(await self.dead(queue), self.broker, self.documents, gathering)

    def alive(self) -> int:
        """How many containers run at this moment."""
        return sum(container.state is ContainerState.RUNNING for container in self.runtime.containers.values())

    def left_behind(self) -> list[str]:
        """What should be gone once all is done: containers and workspaces."""
        return [path.name for path in self.workspaces.iterdir()] + list(self.runtime.containers)


@dataclass
class Serving:
    dispatcher: Dispatcher
    stop: asyncio.Event
    hurry: asyncio.Event
    task: asyncio.Task[None] = field(init=False)

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({self.task})


def attempt(event_id: str = "e1", *, worker: str = "worker", number: int = 1, **context: str) -> Attempt:
    known = {"name": "test", "correlation_id": "c1"} | context
    event = Event(context=Context(event_id=event_id, **known), type="in")
    return Attempt(job=Job(event=event, module=worker), number=number)


@contextmanager
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Providers that are down are tried again at once."""
    with monkeypatch.context() as patched:
        patched.setattr("ion_core.dispatcher.bounded.Backoff.next", lambda self: 0.0)
        yield


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]
