"""The executor kit's jobs and their stores, how it runs them, and the hooks of its subclasses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from ion_core import strict_json
from ion_core.contracts.executor import (
    Executor,
    JobEnd,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    ModuleSpec,
    Step,
    StepLogLine,
    Ticket,
)
from ion_core.contracts.storage import BlobStore, Document, DocumentStore
from ion_core.errors import BlobNotFound
from ion_core.events import COMMIT, EVENT_META, Context, Event, StoredFile, event_meta
from ion_core.registry import Kind, load_plugins
from ion_core.testing.job_commands import JobCommands
from ion_core.testing.kit import Conformance, only, undeclared
from ion_core.testing.programs import READY, Command

EMITTED = "kit.told"
"""The event type that modules of the kit may publish."""
NOBODY = JobRef(id="0" * 32, name="no-such-job")
STARTED_AT = "2026-01-02T03:04:05.678+00:00"


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Stores that steps 1 and 3 reach too; ``settings`` makes the configuration file of a module's steps."""

    blobs: BlobStore
    documents: DocumentStore
    settings: Callable[[str], bytes]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A created job, and the ticket that it is to be started with."""

    spec: JobSpec
    ref: JobRef
    ticket: Ticket


@dataclass(frozen=True, kw_only=True)
class RanJob:
    """How a job ended, all that its steps printed, and the bodies of the commit records of its event."""

    made: Made
    end: JobEnd
    lines: Sequence[StepLogLine]
    records: Sequence[Mapping[str, Any]]

    def text(self, step: Step, *streams: str) -> list[str]:
        """Lines of that step, of all streams or only these."""
        return [it.text for it in self.lines if it.step is step and (not streams or it.stream in streams)]

    @property
    def record(self) -> Mapping[str, Any]:
        """The one commit record."""
        return only(self.records)


class Jobs:
    """Jobs of one executor and its stores, for one test: all that it makes is removed in the end."""

    def __init__(self, kit: ExecutorKit, executor: Executor, stores: Stores, directory: Path) -> None:
        self._kit = kit
        self._executor = executor
        self._stores = stores
        self._directory = directory
        self._made: list[JobRef] = []

    async def event(self, files: Mapping[str, bytes] | None = None, **ids: str) -> Event:
        """An event that is stored, with its files and one pair of data, and that nobody publishes."""
        given = {"event_id": self._kit.fresh("event"), "correlation_id": self._kit.fresh("flow")} | ids
        context = Context(name="kit", **given)
        stored = []
        for name, content in (files or {}).items():
            source = self._directory / self._kit.fresh("file")
            source.write_bytes(content)
            key = f"{self._kit.fresh('kit')}/{name}"
            info = await self._stores.blobs.put(key, source)
            stored.append(StoredFile(name=name, key=key, size=info.size, sha256=info.sha256))
        event = Event(
            context=context, type="kit.made", data=(("colour", "blue"),), files=tuple(it.name for it in stored)
        )
        body = event_meta(event, stored)
        document = Document(kind=EVENT_META, id=context.event_id, correlation_id=context.correlation_id, body=body)
        await self._stores.documents.create(document)
        return event

    def spec(self, command: Command, **changes: Any) -> JobSpec:
        """A job of its own name and label; ``changes`` are of the spec, or of its module."""
        of_module = {key: changes.pop(key) for key in [*changes] if key in ModuleSpec.__dataclass_fields__}
        name = changes.pop("job_name", self._kit.fresh("kit"))
        of_module.setdefault("name", "kit-module")
        module = ModuleSpec(**{"image": self._kit.image, "command": command, **of_module})
        given: dict[str, Any] = {"labels": {"ion-kit": self._kit.fresh("label")}, "timeout": timedelta(minutes=10)}
        settings = changes.pop("settings", None) or self._stores.settings(module.name)
        return JobSpec(name=name, module=module, settings=settings, **(given | changes))

    def ticket(self, event: Event, module: str = "kit-module", **changes: Any) -> Ticket:
        """Of a first attempt of the event."""
        given: dict[str, Any] = {"attempt": 1, "token": self._kit.fresh("token"), "started_at": STARTED_AT}
        context = event.context
        return Ticket(
            event_id=context.event_id, correlation_id=context.correlation_id, module=module, **(given | changes)
        )

    async def create(self, spec: JobSpec, *, by: Executor | None = None) -> JobRef:
        """Of whatever executor, by ``by`` where that is another: it is removed in the end."""
        ref = await self._kit.within((by or self._executor).create(spec), "create")
        self._made.append(ref)
        return ref

    async def made(
        self, command: Command | JobSpec, *, event: Event | None = None, by: Executor | None = None, **changes: Any
    ) -> Made:
        """Created only. An engine that holds nothing back knows of it by its start: who is to start it, makes it."""
        spec = command if isinstance(command, JobSpec) else self.spec(command, **changes)
        event = event or await self.event()
        return Made(spec=spec, ref=await self.create(spec, by=by), ticket=self.ticket(event, spec.module.name))

    async def started(self, command: Command | JobSpec, **changes: Any) -> Made:
        made = await self.made(command, **changes)
        await self._kit.within(self._executor.start(made.ref, made.ticket), "start")
        return made

    async def running(self, command: Command | JobSpec, **changes: Any) -> Made:
        """Started, and its module has said that it is ready."""
        made = await self.started(command, **changes)
        await self.says(made.ref, READY)
        return made

    async def says(self, ref: JobRef, text: str) -> None:
        """Once its module has printed that line."""

        async def said() -> None:
            async for line in self._executor.logs(ref, follow=True):
                if line.step is Step.MODULE and line.text == text:
                    return
            raise AssertionError(f"the module ended without the line {text!r}: {await self.brief(ref)}")

        await self._kit.within(said(), f"the line {text!r} in the log")

    async def brief(self, ref: JobRef) -> str:
        """What is known of a job, for messages."""
        lines = [f"{it.step.value}: {it.text}" async for it in self._executor.logs(ref)]
        found = [it for it in await self._executor.find({}) if it.ref.id == ref.id]
        end = await self._executor.wait(ref) if found and found[0].state is JobState.ENDED else None
        return f"{end}\n" + "\n".join(lines[-40:])

    async def end(self, ref: JobRef) -> JobEnd:
        return await self._kit.within(self._executor.wait(ref), "the end of the job")

    async def lines(self, ref: JobRef, *, follow: bool = False) -> list[StepLogLine]:
        async def collect() -> list[StepLogLine]:
            return [line async for line in self._executor.logs(ref, follow=follow)]

        return await self._kit.within(collect(), "the end of the log")

    async def ran(self, made: Made) -> RanJob:
        """A job that has been started, once it has ended."""
        end = await self.end(made.ref)
        records = await self.records(made.ticket)
        return RanJob(made=made, end=end, lines=await self.lines(made.ref), records=records)

    async def run(self, command: Command | JobSpec, **changes: Any) -> RanJob:
        """From create to the end."""
        return await self.ran(await self.started(command, **changes))

    async def documents(self, ticket: Ticket) -> list[Document]:
        """The commit records of the ticket's flow."""
        return [it async for it in self._stores.documents.find(COMMIT, correlation_id=ticket.correlation_id)]

    async def records(self, ticket: Ticket) -> list[Mapping[str, Any]]:
        return [it.body for it in await self.documents(ticket)]

    async def output(self, record: Mapping[str, Any], name: str) -> bytes:
        """A file that the record lists."""
        file = only([it for it in record["outputs"] if it["name"] == name])
        target = self._directory / self._kit.fresh("output")
        try:
            await self._stores.blobs.get(file["key"], target)
        except BlobNotFound as error:
            raise AssertionError(f"the commit record lists {name}, which is not stored: {error}") from error
        return target.read_bytes()

    async def status(self, spec: JobSpec, executor: Executor | None = None) -> JobStatus | None:
        """As ``find`` sees it, None where it does not."""
        found = await self._kit.within((executor or self._executor).find(spec.labels), "find")
        assert len(found) <= 1, f"several jobs have the label of one: {found}"
        return found[0] if found else None

    async def state(self, spec: JobSpec) -> JobState | None:
        status = await self.status(spec)
        return None if status is None else status.state

    async def remove_all(self) -> None:
        for ref in self._made:
            await self._kit.within(self._executor.remove(ref), f"remove of {ref.name}")


class ExecutorKit(JobCommands, Conformance):
    """``image`` is what every module is made of, None for an executor without images."""

    contract = "executors"
    patience = 60.0
    image: ClassVar[str | None] = None
    missing_image: ClassVar[str | None] = None
    limits_memory: ClassVar[bool] = True
    short: ClassVar[timedelta] = timedelta(seconds=1)
    """A timeout of a module that never ends."""
    reopen: Callable[..., AbstractAsyncContextManager[Any]] = undeclared(
        "reopen", "def reopen(self): a context manager of a second executor on the same engine, as another process has"
    )
    outage: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "outage", "def outage(self, executor): a context manager within which the engine answers no call"
    )
    stores_away: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "stores_away", "def stores_away(self, tmp_path): a context manager within which steps find no store answering"
    )
    shared: Callable[..., Path] | None = undeclared(
        "shared", "def shared(self, tmp_path): a directory that modules may write to and that is here at the same path"
    )
    listed: Callable[..., Any] | None = undeclared(
        "listed", "async def listed(self, executor): all that the engine shows of its jobs, as text"
    )
    lose_node: Callable[..., Any] | None = undeclared(
        "lose_node", "async def lose_node(self, executor, ref): what the job runs on is gone, with all that it knew"
    )
    evict: Callable[..., Any] | None = undeclared(
        "evict", "async def evict(self, executor, ref): the engine ends the job for reasons of its own"
    )
    delete: Callable[..., Any] | None = undeclared(
        "delete", "async def delete(self, executor, ref): somebody deletes the job with the engine's own tool"
    )
    fill: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "fill", "def fill(self, executor): a context manager within which the engine has no room for a further job"
    )
    forbid: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "forbid", "def forbid(self, executor): a context manager within which a policy allows no job"
    )
    hold_queued: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "hold_queued", "def hold_queued(self, executor): a context manager within which started jobs stay queued"
    )
    hold_prepare: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "hold_prepare", "def hold_prepare(self, executor): a context manager within which step 1 does not end"
    )
    hold_commit: Callable[..., AbstractAsyncContextManager[None]] | None = undeclared(
        "hold_commit", "def hold_commit(self, executor): a context manager within which step 3 does not end"
    )

    def storage(self, tmp_path: Path) -> Mapping[str, Mapping[str, Any]]:
        """The section ``storage`` of a configuration: stores that steps 1 and 3 reach from where they run."""
        return {
            "blobs": {"provider": "local", "path": str(tmp_path / "blobs")},
            "documents": {"provider": "sqlite", "path": str(tmp_path / "documents.sqlite")},
        }

    @asynccontextmanager
    async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]:
        """Opened stores, of ``storage``."""
        sections, plugins = self.storage(tmp_path), load_plugins()

        def opening(key: str, kind: Kind) -> AbstractAsyncContextManager[Any]:
            section = dict(sections[key])
            where = f"storage.{key}"
            provider = plugins.choose(kind, section.pop("provider"), where=where)
            return provider.open(provider.settings.model_validate(section))

        def settings(module: str) -> bytes:
            return self.settings(module, sections, state=tmp_path / "state")

        async with opening("blobs", Kind.BLOB_STORE) as blobs, opening("documents", Kind.DOCUMENT_STORE) as documents:
            yield Stores(blobs=blobs, documents=documents, settings=settings)

    def settings(self, module: str, storage: Mapping[str, Any], *, state: Path) -> bytes:
        """What ``JobSpec.settings`` is made of, as the core makes it; ``self.secret`` is in it."""
        self.secret = self.fresh("secret")
        configuration = {
            "version": 1,
            "state": str(state),
            "storage": storage,
            "hidden": [self.secret],
            "modules": {module: {"command": ["true"], "subscribes": ["kit.made"], "publishes": [EMITTED]}},
        }
        return strict_json.dumps(configuration) + b"\n"

    @asynccontextmanager
    async def jobs(self, executor: Executor, tmp_path: Path) -> AsyncIterator[Jobs]:
        """Stores that are open, and jobs that are removed in the end."""
        async with self.stores(tmp_path) as stores:
            jobs = Jobs(self, executor, stores, tmp_path)
            try:
                yield jobs
            finally:
                await jobs.remove_all()

    @asynccontextmanager
    async def waiting(self, executor: Executor, ref: JobRef) -> AsyncIterator[Callable[[], Awaitable[JobEnd]]]:
        """Somebody waits for the job's end by then, which the coroutine returns."""
        task = asyncio.create_task(executor.wait(ref))
        try:
            await asyncio.wait({task}, timeout=self.quiet)
            yield lambda: self.within(asyncio.shield(task), "the end of the job")
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=self.patience)

    async def nothing_touches(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # noqa: ASYNC240
        await self.a_while()
        assert not path.exists(), f"a process of the job still writes {path.name}"  # noqa: ASYNC240


def other(ticket: Ticket, **changes: Any) -> Ticket:
    """The ticket of a further attempt."""
    further: dict[str, Any] = {"attempt": ticket.attempt + 1, "token": f"{ticket.token}x"}
    return replace(ticket, **(further | changes))


async def together(*awaitables: Any) -> list[Any]:
    """All of them at once."""
    return [*(await asyncio.gather(*awaitables))]
