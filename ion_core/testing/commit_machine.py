"""The commit protocol beside a plain model of it: attempts at one job, at any step of which a process may die.

What runs is the core's own: handler, data plane, outbox and ``gc``, on the stores and the broker of a test. Each
process does one call at a time, and the machine says when, and whether it is done, or its answer lost. What must hold
(``docs/delivery.md``) is looked at after each step, and once everything has come to rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ion_core.commits import Commit
from ion_core.contracts.messaging import Delivery, MessageBroker, RetryPolicy
from ion_core.contracts.storage import BlobInfo, BlobStore, Document, DocumentStore
from ion_core.dataplane import DataPlane
from ion_core.dispatcher.outbox import Outbox
from ion_core.errors import DeliveryLost, TransientError
from ion_core.events import COMMIT, EVENT_META, MODULE_LOGS, Context, Event, parse_event
from ion_core.handler import Handler
from ion_core.jobs import Attempt, Job, Outcome
from ion_core.modules import Module
from ion_core.retention import Removed, collect
from ion_core.testing.kit import only
from ion_core.testing.lives import Going, Life, gated

T = TypeVar("T")
NAMES = ("a", "sub/b", "ü ✓.txt")
INPUT = b"what the event brings"
MESSAGES = 3
"""How many messages of the event there are at most."""
FAR = timedelta(days=2)
ALIVE = (Going.DONE, Going.NOT_DONE, Going.ANSWER_LOST)
STEPS = ("get", "put", "create", "publish", "clear_pending", "ack", "delete")


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a module leaves: files, events (each with the names of its files), and whether there are insights."""

    files: frozenset[str]
    events: tuple[frozenset[str], ...]
    insights: bool


steps = st.sampled_from(STEPS)
files = st.sets(st.sampled_from(NAMES)).map(frozenset)
left = st.builds(
    Left, files=st.just(frozenset(NAMES)) | files, events=st.lists(files, max_size=2).map(tuple), insights=st.booleans()
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the module. No two leave the same: what is mixed up is seen."""

    number: int
    left: Left

    @property
    def files(self) -> Mapping[str, bytes]:
        return {name: f"{name} of run {self.number}".encode() for name in sorted(self.left.files)}

    @property
    def insights(self) -> list[dict[str, str]]:
        return [{"key": "run", "value": str(self.number)}] if self.left.insights else []

    @property
    def events(self) -> Mapping[str, list[str]]:
        """The files of each, by the name of the event's own file."""
        return {f"{n}.json": sorted(named & self.left.files) for n, named in enumerate(self.left.events)}

    def write(self, out: Path, event_type: str) -> None:
        for name, content in self.files.items():
            path = out / "data" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        (out / "insights.json").write_text(json.dumps(self.insights))
        for name, named in self.events.items():
            pairs = {"eventType": event_type, "run": str(self.number), "files": ",".join(named)}
            (out / "events" / name).write_text(json.dumps([{"key": key, "value": pairs[key]} for key in pairs]))


class _Hold:
    """A delivery, held until ``leave``: what is unsettled then is the broker's again."""

    def __init__(self, broker: MessageBroker, queue: str) -> None:
        self._taken = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._holding = asyncio.create_task(self._hold(broker, queue))

    async def _hold(self, broker: MessageBroker, queue: str) -> None:
        async with broker.subscribe(queue, prefetch=1) as deliveries:
            self._taken.set_result(await anext(deliveries))
            await self._over.wait()

    async def delivery(self) -> Delivery:
        await asyncio.wait({self._taken, self._holding}, return_when=asyncio.FIRST_COMPLETED)
        if not self._taken.done():
            await self._holding
        delivery: Delivery = self._taken.result()
        return delivery

    async def leave(self) -> None:
        self._over.set()
        if not self._taken.done():  # it was given nothing, which has been told of
            self._holding.cancel()
            await asyncio.wait({self._holding})
            return
        await self._holding


class _Process(Life):
    """With what it keeps on its own disk. ``hold`` is of the delivery that it works at, as long as it has it."""

    def __init__(
        self,
        place: Path,
        dataplane: DataPlane,
        did: Callable[[str, tuple[Any, ...]], None],
    ) -> None:
        super().__init__(did)
        self.place = place
        self.hold: _Hold | None = None
        blobs, documents = gated(dataplane.blobs, self.gate), gated(dataplane.documents, self.gate)
        self.dataplane = replace(dataplane, blobs=blobs, documents=documents, broker=gated(dataplane.broker, self.gate))
        self.handler = Handler(self.dataplane, place)

    async def recover(self) -> None:
        """As ``serve`` does when it starts."""
        with suppress(TransientError):
            await self.handler.sweep()
        await self.pay()

    async def pay(self) -> None:
        """What earlier commits owe."""
        with suppress(TransientError):
            await Outbox(self.dataplane).sweep(older_than=timedelta(0))

    async def attempt(self, delivery: Delivery, event: Event, module: Module, run: Run) -> None:
        """Steps S2 to S12. What a provider does not do, or that the delivery was lost, ends it."""
        attempt = Attempt(job=Job(event=event, module=module.name), number=delivery.attempt)
        with suppress(TransientError, DeliveryLost):
            found = await self.dataplane.committed(attempt.job.id)
            commit, owed = found or (await self._run(attempt, module, run), True)
            if owed:
                await self.dataplane.publish_commit(commit)
            await self.gate.call("ack", delivery.ack)

    async def _run(self, attempt: Attempt, module: Module, run: Run) -> Commit:
        workspace = await self.handler.open_workspace(attempt.token)
        try:
            await self.handler.prepare(attempt, workspace, link=False)
            assert (workspace.in_data / "input").read_bytes() == INPUT, "the file that the event brings"
            run.write(workspace.out, only(module.publishes))
            began = datetime.now(UTC).isoformat(timespec="milliseconds")
            committed = await self.handler.commit(attempt, module, workspace, image=None, started_at=began)
            return committed.commit
        finally:
            if not self.gate.killed:
                await self.handler.close_workspace(workspace)


class _Nobody:
    """An observer that is told everything, and does not care."""

    def job_started(self, attempt: Attempt) -> None: ...

    def job_finished(self, attempt: Attempt, outcome: Outcome) -> None: ...

    def event_published(self, event: Event) -> None: ...


@dataclass(kw_only=True)
class Opened:
    """What opens the providers of a test, on one event loop."""

    blobs: Callable[[], AbstractAsyncContextManager[BlobStore]]
    documents: Callable[[], AbstractAsyncContextManager[DocumentStore]]
    broker: Callable[[], AbstractAsyncContextManager[MessageBroker]]


@dataclass(kw_only=True)
class _Known:
    """The model: what has happened so far."""

    ready: int = 1
    """Messages of the event that nobody holds."""
    published: int = 1
    """All that there were."""
    runs: dict[int, Run] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    """Messages of child events that the broker has, by their ids."""
    logs: int = 0
    record: Document | None = None
    """The commit as it was first seen."""


class CommitMachine(RuleBasedStateMachine):
    """``opened`` opens the stores and the broker, of which a step takes ``patience`` seconds at most.

    Names of queues and topics, and ids of flows, are unlike those of any other example.
    """

    def __init__(self, opened: Opened, *, patience: float) -> None:
        super().__init__()
        self._patience = patience
        self._sound, self._looked = True, False
        self.known = _Known()
        self._directory = tempfile.TemporaryDirectory(prefix="ion-model-")
        prefix = f"model-{uuid.uuid4().hex[:12]}"
        self.flow, retry = prefix, RetryPolicy(retries=1_000, initial=timedelta(0))
        taken, made = f"{prefix}.taken", f"{prefix}.made"
        self.worker = Module(name=f"{prefix}-worker", subscribes=(taken,), publishes=(made,), retry=retry)
        self.modules = [
            self.worker,
            Module(name=f"{prefix}-sink", subscribes=(made,), retry=retry),
            # While this one has its message, no gc takes the flow for over.
            Module(name=f"{prefix}-keeper", subscribes=(taken,), retry=retry),
        ]
        _, self.sink, self.keeper = (it.name for it in self.modules)
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        self.done(self._open(opened))

    def done(self, call: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(2 * self._patience):
                return await call

        self._looked = False
        try:
            return self._runner.run(bounded())
        except BaseException:
            self._sound = False
            raise

    async def _open(self, opened: Opened) -> None:
        self.blobs = await self._stack.enter_async_context(opened.blobs())
        self.documents = await self._stack.enter_async_context(opened.documents())
        self.broker = await self._stack.enter_async_context(opened.broker())
        self.dataplane = DataPlane(self.blobs, self.documents, self.broker, _Nobody())
        for module in self.modules:
            await self.broker.declare(module.name, topics=module.subscribes, retry=module.retry)
        context = Context(name="test", event_id=f"{self.flow}-event", correlation_id=self.flow)
        self.job = Job(event=Event(context=context, type=only(self.worker.subscribes)), module=self.worker.name)

    @initialize()
    def begin(self) -> None:
        """The event is there, with a file, and two processes that may take it."""
        source = Path(self._directory.name) / "input"
        source.write_bytes(INPUT)
        event = self.done(self.dataplane.store(self.job.event, {"input": source}))
        self.job = replace(self.job, event=event)
        self.done(self.dataplane.publish(event))
        self.lives = [self._born(Path(self._directory.name) / str(n)) for n in range(2)]

    def _born(self, place: Path) -> _Process:
        place.mkdir(exist_ok=True)
        return _Process(place, self.dataplane, self._did)

    def _did(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "publish":
            self.known.sent[parse_event(args[1]).context.event_id] += 1

    # What may happen. A rule does nothing where it does not apply: with preconditions, a sequence that goes wrong would
    # not become any shorter.

    @rule(left=left)
    def take(self, left: Left) -> None:
        life = self._idle()
        if life is not None and self.known.ready:
            self.done(self._take(life, left))

    async def _take(self, life: _Process, left: Left) -> None:
        self.known.ready -= 1
        run = Run(number=len(self.known.runs) + 1, left=left)
        self.known.runs[run.number] = run
        life.hold = _Hold(self.broker, self.worker.name)
        try:
            delivery = await asyncio.wait_for(life.hold.delivery(), self._patience)
        except TimeoutError:
            raise AssertionError("a message that nobody holds was not given out") from None
        assert parse_event(delivery.body).context == self.job.event.context
        await life.begin(life.attempt(delivery, self.job.event, self.worker, run))
        await self._see_to(life)

    async def _go_on(self, life: _Process, how: Going) -> None:
        acks = life.gate.standing == "ack"
        if acks and how is Going.ANSWER_LOST:
            how = Going.DONE  # a verb whose answer is lost is asked again, by the provider or by us
        settles = acks and how is Going.DONE and life.hold is not None
        await life.go_on(how)
        if settles:
            self.known.ready -= 1  # which leaving would bring back
        await self._see_to(life)

    async def _see_to(self, life: _Process) -> None:
        if not life.works and life.hold is not None:
            await self._leave(life)

    async def _leave(self, life: _Process) -> None:
        if life.hold is not None:
            hold, life.hold = life.hold, None
            await hold.leave()
            self.known.ready += 1

    @rule(which=st.integers(0, 1), calls=st.integers(1, 4))
    def go_on(self, which: int, calls: int) -> None:
        life = self._one(which)
        for _ in range(calls):
            if life.works:
                self.done(self._go_on(life, Going.DONE))

    def _idle(self) -> _Process | None:
        return next((life for life in self.lives if not life.works), None)

    def _one(self, which: int) -> _Process:
        """One that works, if any does: that one, or the other."""
        return self.lives[which] if self.lives[which].works else self.lives[1 - which]

    @rule(left=left, which=st.integers(0, 1), step=steps, how=st.sampled_from(ALIVE))
    def go_on_to(self, left: Left, which: int, step: str, how: Going) -> None:
        """Up to such a call, which is done, or perhaps not."""
        life = self._at(step, left, which)
        if life.works:
            self.done(self._go_on(life, how))

    def _at(self, step: str, left: Left, which: int) -> _Process:
        """One that stands before such a call, if it came to one: where none works, with an attempt of its own."""
        if not any(life.works for life in self.lives):
            self.take(left)
        life = self._one(which)
        self._go_on_to(life, step)
        return life

    def _go_on_to(self, life: _Process, step: str) -> None:
        while life.works and life.gate.standing != step:
            self.done(self._go_on(life, Going.DONE))
            self.it_is_as_the_model_has_it()

    @rule(one=left, other=left)
    def race_to_the_fence(self, one: Left, other: Left) -> None:
        """Both processes have an attempt that is about to create the commit record."""
        if self.known.record is not None:
            return
        for life, left in zip(self.lives, (one, other), strict=True):
            self.publish_again()
            if not life.works and self.known.ready:
                self.done(self._take(life, left))
            self._go_on_to(life, "create")

    @rule(left=left, which=st.integers(0, 1), step=steps)
    def crash(self, left: Left, which: int, step: str) -> None:
        """kill -9 before such a call, and a restart."""
        life = self._at(step, left, which)
        if life.works:
            self.done(self._crash(life))

    async def _crash(self, life: _Process) -> None:
        await life.go_on(Going.KILLED)
        await self._leave(life)
        self.lives.remove(life)
        self.lives.append(again := self._born(life.place))
        await again.begin(again.recover())

    @rule(which=st.integers(0, 1))
    def lose(self, which: int) -> None:
        """The broker has taken the delivery back, and the attempt goes on: it will be a late one."""
        life = self.lives[which] if self.lives[which].hold is not None else self.lives[1 - which]
        self.done(self._leave(life))

    @rule()
    def publish_again(self) -> None:
        if self.known.ready + sum(it.hold is not None for it in self.lives) < MESSAGES:
            self.known.ready += 1
            self.known.published += 1
            self.done(self.dataplane.publish(self.job.event))

    @rule()
    def pay(self) -> None:
        """One has time for what earlier commits owe."""
        life = self._idle()
        if life is not None and self.known.record is not None:
            self.done(life.begin(life.pay()))

    @rule(left=left, which=st.integers(0, 1), step=steps)
    def gc_beside_a_late_attempt(self, left: Left, which: int, step: str) -> None:
        """Which has files that no document names, where it stands before the fence."""
        life = self._at(step, left, which)
        self.done(self._leave(life))
        self.gc(old=True)

    @rule(old=st.booleans())
    def gc(self, old: bool) -> None:
        """Of what is old, or of nothing: also under a late attempt."""
        removed = self.done(self._gc(FAR if old else -FAR))
        assert removed.flows == 0, "its messages wait"

    async def _gc(self, later: timedelta) -> Removed:
        """Behind a log: what has no time is as old as what stands behind it."""
        now = datetime.now(UTC)
        body = {"context": self.job.event.context.to_json(), "finishedAt": now.isoformat(timespec="milliseconds")}
        self.known.logs += 1
        id = f"{self.flow}-log-{self.known.logs}"
        await self.documents.put(Document(kind=MODULE_LOGS, id=id, correlation_id=self.flow, body=body))
        return await collect(self.dataplane, self.modules, before=now + later)

    # What must hold at every moment

    @invariant()
    def it_is_as_the_model_has_it(self) -> None:
        if not self._looked:
            self.done(self._is_as())
            self._looked = True

    async def _is_as(self) -> None:
        documents = [it async for it in self.documents.find(correlation_id=self.flow)]
        records = [it for it in documents if it.kind == COMMIT]
        assert len(records) <= 1, "one commit"
        if self.known.record is None and records:
            self.known.record = only(records)
        assert [it.body for it in records] == ([] if self.known.record is None else [self.known.record.body])
        others = {(it.kind, it.id): it.body for it in documents if it.kind not in (COMMIT, MODULE_LOGS)}
        others.pop((EVENT_META, self.job.event.context.event_id))
        if self.known.record is None:
            assert not others, "nothing is visible of what has not committed"
            assert not self.known.sent, "nor published"
            return
        commit = Commit.from_document(self.known.record)
        run = self._run_of(commit)
        expected = {(it.kind, it.id): it.body for it in commit.documents()}
        foreign = {key: body for key, body in others.items() if expected.get(key) != body}
        assert not foreign, "what is visible is the commit's"
        assert set(self.known.sent) <= {it.context.event_id for it in commit.events}
        for id in self.known.sent:
            assert (EVENT_META, id) in others, "the document of an event is there before its message"
        if not only(records).pending:
            assert others == expected, "what is owed no more is there"
            assert set(self.known.sent) == {it.context.event_id for it in commit.events}, "and published"
        await self._has_files(commit, run)

    def _run_of(self, commit: Commit) -> Run:
        """The run whose commit that is: all that it left, and nothing else."""
        number = {int(value) for pairs in (commit.insights, *(it.data for it in commit.events)) for _, value in pairs}
        by_content = {_info(content): run.number for run in self.known.runs.values() for content in run.files.values()}
        number |= {by_content[BlobInfo(size=file.size, sha256=file.sha256)] for file in commit.files}
        empty = Run(number=0, left=Left(files=frozenset(), events=(), insights=False))
        assert len(number) <= 1, "a commit is of one run"
        run = self.known.runs[number.pop()] if number else empty
        assert {it.name: BlobInfo(size=it.size, sha256=it.sha256) for it in commit.files} == {
            name: _info(content) for name, content in run.files.items()
        }
        assert [{"key": key, "value": value} for key, value in commit.insights] == run.insights
        assert {it.context.event_id: sorted(it.files) for it in commit.events} == {
            self.job.child_id(name): named for name, named in run.events.items()
        }
        return run

    async def _has_files(self, commit: Commit, run: Run) -> None:
        target = Path(self._directory.name) / "got"
        for file in commit.files:
            await self.blobs.get(file.key, target, expect=BlobInfo(size=file.size, sha256=file.sha256))
            assert target.read_bytes() == run.files[file.name], "a file of the commit"
            target.unlink()

    # And once everything has come to rest

    def teardown(self) -> None:
        try:
            if self._sound:
                self._come_to_rest()
                self.done(self._is_over())
        finally:
            try:
                self.done(self._clean())
            finally:
                self._runner.close()
                self._directory.cleanup()

    def _come_to_rest(self) -> None:
        """Every message is worked off; processes that are late go on, too. Then all start anew."""
        some = Left(files=frozenset(NAMES), events=(frozenset(NAMES),), insights=True)
        while self.known.ready or any(life.works for life in self.lives):
            for life in self.lives:
                if life.works:
                    self.done(self._go_on(life, Going.DONE))
                elif self.known.ready:
                    self.done(self._take(life, some))
            self.it_is_as_the_model_has_it()
        for life in self.lives:
            again = self._born(life.place)
            self.done(again.begin(again.recover()))
            while again.works:
                self.done(self._go_on(again, Going.DONE))
        self.it_is_as_the_model_has_it()

    async def _is_over(self) -> None:
        for life in self.lives:
            assert [*life.place.iterdir()] == [], "no workspace is left"
        record = await self.documents.get(COMMIT, self.job.id)
        assert not record.pending, "nothing is owed"
        assert (await self._gc(FAR)).flows == 0, "what it made waits"
        commit = Commit.from_document(record)
        found = {key async for key in self.blobs.list(self.flow)}
        inputs = {key for key in found if key.split("/")[2] == "_"}
        assert found - inputs == {file.key for file in commit.files}, "no file without a commit"
        made = await self._emptied(self.sink, self.known.sent.total())
        sent = Counter(parse_event(it).context.event_id for it in made)
        assert sent == self.known.sent, "every message of a child event that was published, once"
        brought = await self._emptied(self.keeper, self.known.published)
        assert {parse_event(it).context.event_id for it in brought} == {self.job.event.context.event_id}
        await self._goes()
        assert [it async for it in self.documents.find(correlation_id=self.flow)] == []
        assert [it async for it in self.blobs.list(self.flow)] == []

    async def _goes(self) -> None:
        """With all that there is of it. Counts of queues may lag behind."""
        deadline = asyncio.get_running_loop().time() + self._patience
        while not (await self._gc(FAR)).flows:
            assert asyncio.get_running_loop().time() < deadline, "the flow is over, and gc removes it"
            await asyncio.sleep(0.01)

    async def _emptied(self, queue: str, count: int) -> Sequence[bytes]:
        """The bodies of the messages in it, so many; they are gone then."""
        found = []
        async with self.broker.subscribe(queue, prefetch=1) as deliveries:
            for _ in range(count):
                delivery = await anext(deliveries)
                found.append(delivery.body)
                await delivery.ack()
        assert await self.broker.peek(queue, limit=1) == [], "no message more"
        return found

    async def _clean(self) -> None:
        """Whatever went wrong, nothing of this example is left."""
        for life in getattr(self, "lives", []):
            await life.end()
            await self._leave(life)
        for module in self.modules:
            await self.broker.drop(module.name)
        for document in [it async for it in self.documents.find(correlation_id=self.flow)]:
            await self.documents.delete(document.kind, document.id)
        for key in [it async for it in self.blobs.list(self.flow)]:
            await self.blobs.delete(key)
        await self._stack.aclose()


def _info(content: bytes) -> BlobInfo:
    return BlobInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())
