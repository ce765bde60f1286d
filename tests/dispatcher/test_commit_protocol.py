"""The commit protocol as a state machine: attempts of one job, at any point of which a process may die.

Every call to a provider waits until the machine lets it go on; a life that crashed is never let go on. What must hold
is checked all the time, and once everything has come to rest (``docs/delivery.md``).
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.runtime import ContainerRef
from ion_core.contracts.storage import BlobInfo, Document
from ion_core.dispatcher.health import Health
from ion_core.dispatcher.hold import Leases
from ion_core.dispatcher.job_runner import JobRunner
from ion_core.dispatcher.module_run import InSlots
from ion_core.dispatcher.outbox import Outbox
from ion_core.dispatcher.running import RunningAttempts
from ion_core.dispatcher.slots import Slots
from ion_core.dispatcher.surroundings import Surroundings
from ion_core.dispatcher.trouble import StoreWitness
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery, MemoryQueue
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.embedded.memory.runtime import MemoryRuntime
from ion_core.errors import TransientError
from ion_core.events import parse_event
from ion_core.handler import Handler, HandlerApi
from tests.support.worlds import AT_ONCE, Clock, Observed, World, emit, module

T = TypeVar("T")
MODULE = module("worker", concurrency=3, retry=RetryPolicy(retries=1_000, initial=timedelta(0)))


class Gate:
    """Where the calls of one life of a process wait to be let through."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, asyncio.Event]] = []
        self._open = False

    def open(self) -> None:
        self._open = True
        for _, go in self.waiting:
            go.set()

    async def through(self, what: str) -> None:
        if self._open:
            return
        go = asyncio.Event()
        self.waiting.append((what, go))
        await go.wait()


_gate: ContextVar[Gate | None] = ContextVar("gate", default=None)


async def gated(what: str, call: Callable[[], Awaitable[T]]) -> T:
    gate = _gate.get()
    if gate is None:
        return await call()
    await gate.through(what)
    return await call()


class Blobs(MemoryBlobStore):
    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        return await gated(f"put {key}", lambda: super(Blobs, self).put(key, source, consume=consume, told=told))

    async def delete(self, key: str) -> None:
        await gated(f"delete {key}", lambda: super(Blobs, self).delete(key))


class Documents(MemoryDocumentStore):
    async def create(self, document: Document) -> None:
        what = "fence" if document.kind == "commit" else f"create {document.kind}"
        await gated(what, lambda: super(Documents, self).create(document))

    async def put(self, document: Document) -> None:
        await gated(
            "fence" if document.kind == "commit" else f"put {document.kind}",
            lambda: super(Documents, self).put(document),
        )

    async def get(self, kind: str, id: str) -> Document:
        return await gated(f"get {kind}", lambda: super(Documents, self).get(kind, id))

    async def clear_pending(self, kind: str, id: str) -> None:
        await gated("clear pending", lambda: super(Documents, self).clear_pending(kind, id))


class Delivery(MemoryDelivery):
    async def ack(self) -> None:
        await gated("ack", lambda: super(Delivery, self).ack())


class Broker(MemoryBroker):
    delivery_type = Delivery

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        await gated("publish", lambda: super(Broker, self).publish(topic, body, headers=headers))


class Runtime(MemoryRuntime):
    async def remove(self, ref: ContainerRef) -> None:
        await gated("remove", lambda: super(Runtime, self).remove(ref))


class Life:
    """One process from its start to its end: a job runner and what it keeps on its own disk."""

    def __init__(self, world: World, base: Path) -> None:
        self.gate = Gate()
        self.jobs: dict[asyncio.Task[None], MemoryDelivery] = {}
        self.handler = Handler(world.dataplane, base)
        around = Surroundings(
            handler=self.handler,
            dataplane=world.dataplane,
            observer=Observed(),
            health=Health(lambda: None),
            leases=Leases(),
            running=RunningAttempts(),
            stores=StoreWitness(_nobody_answers),
            grace=timedelta(0),
        )
        slots = Slots(MODULE, Runtime(world.programs), self.handler, api=HandlerApi(), state_id="ours")
        self._runner = JobRunner(MODULE, InSlots(MODULE, slots, around), around, stopping=asyncio.Event())

    def take(self, delivery: MemoryDelivery) -> None:
        async def handle() -> None:
            _gate.set(self.gate)
            await self._runner.handle(delivery)

        self.jobs[asyncio.create_task(handle())] = delivery


async def _nobody_answers() -> None:
    raise TransientError("away")


async def _inline(call: Callable[..., T], *args: Any, **known: Any) -> T:
    return call(*args, **known)


class CommitProtocol(RuleBasedStateMachine):
    lives_at_once = 2

    @initialize()
    def begin(self) -> None:
        self.lives: list[Life] = []
        self._patched = pytest.MonkeyPatch()
        self._patched.setattr(asyncio, "to_thread", _inline)  # nothing happens but what the machine does
        self._directory = tempfile.TemporaryDirectory()
        self._loop = asyncio.Runner()
        self.runs = self.failures_left = 0
        self.crashed: list[Life] = []
        self.record: Mapping[str, Any] | None = None
        self.do(self._begin())

    async def _begin(self) -> None:
        base = Path(self._directory.name)
        self.clock = Clock()
        self.world = World(base, broker=Broker(call_later=self.clock.call_later), blobs=Blobs(), documents=Documents())
        self.world.programs["worker"] = self._module
        self.world.modules += [MODULE, module("sink", takes="out", retry=AT_ONCE)]
        self.event = await self.world.publish(event_id="e", correlation_id="c")
        self.places = [base / str(n) for n in range(self.lives_at_once)]
        for place in self.places:
            place.mkdir()
        self.lives = [Life(self.world, place) for place in self.places]

    async def _module(self, workspace: Path, env: Mapping[str, str]) -> int:
        """No two runs leave the same: what is mixed up would be seen."""
        self.runs += 1
        run = self.runs
        gate = _gate.get()
        assert gate is not None
        await gate.through("module")
        if self.failures_left:
            self.failures_left -= 1
            return 1
        for name in ("a", "sub/b"):
            path = workspace / "out" / "data" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{name} of run {run}")
        (workspace / "out" / "insights.json").write_text(json.dumps([{"key": "run", "value": str(run)}]))
        for n in range(1 + run % 2):
            emit(workspace, "out", ("run", str(run)), files="a,sub/b", name=f"{n}.json")
        return 0

    def do(self, work: Awaitable[None]) -> None:
        async def until_all_wait() -> None:
            await work
            await asyncio.sleep(0)
            while asyncio.get_running_loop()._ready:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(0)

        self._loop.run(until_all_wait())

    @property
    def queue(self) -> MemoryQueue:
        return self.world.broker.queue("worker")

    @property
    def waiting(self) -> list[tuple[Life, int]]:
        return [(life, n) for life in self.lives for n in range(len(life.gate.waiting))]

    # What may happen

    @rule(data=st.data())
    @precondition(lambda self: bool(self.queue.ready))
    def deliver(self, data: st.DataObject) -> None:
        self.do(self._take(data.draw(st.sampled_from(self.lives), label="life")))

    async def _take(self, life: Life) -> None:
        life.take(self.world.broker._take("worker"))

    @rule(data=st.data())
    @precondition(lambda self: bool(self.waiting))
    def go_on(self, data: st.DataObject) -> None:
        life, n = data.draw(st.sampled_from(self.waiting), label="call")
        self.do(self._let(life, n))

    @rule(
        data=st.data(),
        point=st.sampled_from(["module", "put", "fence", "put", "publish", "clear pending", "ack", "remove"]),
    )
    @precondition(lambda self: bool(self.waiting))
    def go_on_to(self, data: st.DataObject, point: str) -> None:
        """One life does what it can until all that waits in it waits here."""
        life = data.draw(st.sampled_from([life for life in self.lives if life.gate.waiting]), label="life")
        self._go_on_to(life, point)

    def _go_on_to(self, life: Life, point: str) -> None:
        while others := [n for n, (what, _) in enumerate(life.gate.waiting) if not what.startswith(point)]:
            self.do(self._let(life, others[0]))
            self.check()

    @rule()
    @precondition(lambda self: self.record is None)
    def race_to_the_fence(self) -> None:
        """Every life has an attempt that is about to create the commit record."""
        for life in self.lives:
            if not self.queue.ready:
                self.do(self.world.dataplane.publish(self.event))
            self.do(self._take(life))
            self._go_on_to(life, "fence")

    async def _let(self, life: Life, n: int) -> None:
        life.gate.waiting.pop(n)[1].set()

    @rule(data=st.data())
    @precondition(lambda self: any(not job.done() for life in self.lives for job in life.jobs))
    def crash(self, data: st.DataObject) -> None:
        """kill -9 and a restart, which sweeps."""
        n = data.draw(st.sampled_from([n for n, life in enumerate(self.lives) if life.jobs]), label="life")
        self.do(self._crash(n))

    async def _crash(self, n: int) -> None:
        dead, self.lives[n] = self.lives[n], Life(self.world, self.places[n])
        self.crashed.append(dead)
        for delivery in dead.jobs.values():
            delivery.take_back()
        await self.lives[n].handler.sweep()
        await Outbox(self.world.dataplane).sweep(older_than=timedelta(0))

    @rule(data=st.data(), again=st.booleans())
    @precondition(lambda self: bool(self.queue.held))
    def lose(self, data: st.DataObject, again: bool) -> None:
        """The broker takes a delivery back, perhaps to give it to the same life again; its job goes on."""
        held = sorted(self.queue.held, key=lambda delivery: delivery._stored.number)
        delivery = data.draw(st.sampled_from(held), label="delivery")
        self.do(self._lose(delivery))
        if again:
            for life in self.lives:
                if delivery in life.jobs.values() and self.queue.ready:
                    self.do(self._take(life))

    async def _lose(self, delivery: MemoryDelivery) -> None:
        delivery.take_back()

    @rule()
    @precondition(lambda self: len(self.queue.ready) + len(self.queue.held) < 4)
    def publish_again(self) -> None:
        self.do(self.world.dataplane.publish(self.event))

    @rule()
    @precondition(lambda self: bool(self.queue.delayed))
    def time_passes(self) -> None:
        self.do(self._until_the_next_is_due())

    async def _until_the_next_is_due(self) -> None:
        self.clock.pass_to_next()

    @rule()
    def the_next_run_fails(self) -> None:
        self.failures_left = 1

    @rule()
    def sweep_the_outbox(self) -> None:
        async def sweep() -> None:
            await Outbox(self.world.dataplane).sweep(older_than=timedelta(0))

        self.do(sweep())

    # What must hold at every moment

    @invariant()
    def there_is_at_most_one_commit_and_it_never_changes(self) -> None:
        records = [document.body for document in self.world.documents_of("commit")]
        assert len(records) <= 1
        if self.record is None and records:
            self.record = records[0]
        assert records == ([] if self.record is None else [self.record])

    @invariant()
    def what_is_visible_belongs_to_the_commit(self) -> None:
        children = {} if self.record is None else {event["id"]: event for event in self.record["events"]}
        told = [document for document in self.world.documents_of("eventMeta") if document.id != "e"]
        for document in told:
            assert document.body["data"] == children[document.id]["data"]
        for document in self.world.documents_of("insight"):
            assert self.record is not None
            assert document.body["data"] == self.record["insights"]
        for stored in self.world.broker.queue("sink").ready:
            event = parse_event(stored.message.body)
            assert event.context.event_id in children
            assert event.context.event_id in {document.id for document in told}, "its document is there before it"

    @invariant()
    def every_file_of_the_commit_is_there(self) -> None:
        for file in [] if self.record is None else self.record["outputs"]:
            content = self.world.blobs.blobs[file["key"]].decode()
            assert self.record is not None
            [run] = {pair["value"] for pair in self.record["insights"]}
            assert content == f"{file['name']} of run {run}"

    def check(self) -> None:
        self.there_is_at_most_one_commit_and_it_never_changes()
        self.what_is_visible_belongs_to_the_commit()
        self.every_file_of_the_commit_is_there()

    # And once everything has come to rest

    def teardown(self) -> None:
        try:
            if self.lives:
                self._come_to_rest()
                self._check_the_end()
        finally:
            self._loop.run(self._let_all_end())
            self._loop.close()
            self._directory.cleanup()
            self._patched.undo()

    def _come_to_rest(self) -> None:
        self.failures_left = 0
        for _ in range(1_000):
            if self.waiting:
                self.do(self._let(*self.waiting[0]))
            elif self.queue.ready:
                self.do(self._take(self.lives[0]))
            elif self.queue.delayed:
                self.do(self._until_the_next_is_due())
            else:
                break
        self.do(self._restart())
        self.check()

    async def _restart(self) -> None:
        for life in self.lives:
            await life.handler.sweep()

    async def _let_all_end(self) -> None:
        """Also those that crashed, so that the loop can be closed: nothing is looked at any more."""
        for life in [*self.lives, *self.crashed]:
            life.gate.open()
            await asyncio.gather(*life.jobs, return_exceptions=True)

    def _check_the_end(self) -> None:
        counts = self.world.broker.counts("worker")
        assert counts.pending == counts.dead == 0, "I1: committed, neither pending nor dead"
        for life in self.lives:
            for job in life.jobs:
                assert job.done()
                assert job.exception() is None
        assert self.record is not None, "I2: one commit"
        [document] = self.world.documents_of("commit")
        assert not document.pending
        sent = {parse_event(found.message.body).context.event_id for found in self.world.broker.queue("sink").ready}
        assert sent == {event["id"] for event in self.record["events"]}, "I3: every child was published, and no other"
        assert set(self.world.blobs.blobs) == {file["key"] for file in self.record["outputs"]}, "I4: and nothing else"
        for place in self.places:
            assert list(place.iterdir()) == [], "I5: nothing is left"


TestCommitProtocol = CommitProtocol.TestCase
TestCommitProtocol.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
