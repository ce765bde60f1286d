"""A message broker beside a plain model of it: lists of messages, and what is done to both."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ion_core.contracts.messaging import DeclaredQueue, Delivery, MessageBroker, QueueStats, RetryPolicy
from ion_core.errors import AlreadySettled, DeadLetterNotFound, QueueNotDeclared, Unroutable
from ion_core.testing.kit import refused

T = TypeVar("T")
NOW, LATER = timedelta(0), timedelta(minutes=10)
RETRY = RetryPolicy(retries=1, initial=LATER, maximum=LATER, jitter=0)
QUEUES, TOPICS = ("a", "b", "c"), ("x", "y")
LONGEST = 60.0
"""Seconds that a call may take."""
VERBS = (
    "dead_letter",
    "ack",
    "retry",
    "dead_letter",
    "retry later",
    "postpone",
    "postpone later",
    "release",
    "nothing",
)
queues, topics = st.sampled_from(QUEUES), st.sampled_from(TOPICS)


@dataclass(frozen=True, order=True)
class Stored:
    body: bytes
    attempt: int = 1


@dataclass
class Queue:
    """``delayed`` is for longer than any example takes; ``mixed``: what was moved there may stand anywhere."""

    topics: frozenset[str]
    ready: list[Stored] = field(default_factory=list)
    delayed: list[Stored] = field(default_factory=list)
    dead: list[Stored] = field(default_factory=list)
    mixed: bool = False

    def comparable(self, some: Iterable[Stored]) -> list[Stored]:
        return sorted(some) if self.mixed else [*some]


class BrokerMachine(RuleBasedStateMachine):
    """``opened`` opens the broker, whose counts lag ``patience`` seconds behind at most.

    ``keeps_places`` is as in ``MessageBrokerModel``. Names of queues and topics are unlike those of any other example.
    """

    def __init__(
        self, opened: Callable[[], AbstractAsyncContextManager[MessageBroker]], *, patience: float, keeps_places: bool
    ) -> None:
        super().__init__()
        self._patience, self._mixes = patience, not keeps_places
        self.model: dict[str, Queue] = {}
        self.published = 0
        self._prefix = f"model-{uuid.uuid4().hex[:12]}"
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        self.broker = self.done(self._stack.enter_async_context(opened()))

    def done(self, call: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(LONGEST):
                return await call

        return self._runner.run(bounded())

    def named(self, name: str) -> str:
        return f"{self._prefix}.{name}"

    def teardown(self) -> None:
        try:
            for name in self.model:
                self.done(self.broker.drop(self.named(name)))
            self.done(self._stack.aclose())
        finally:
            self._runner.close()

    @initialize()
    def begin(self) -> None:
        """Two queues that share a topic, and hold something in every state; the third is yet to be declared."""
        self.declare("a", {"x"})
        self.declare("b", {"x", "y"})
        self.publish("x", 4)
        for name in ("a", "b"):
            self.work_in(name, ["dead_letter", "retry later", "retry"])

    @rule(name=queues, chosen=st.sets(topics))
    def declare(self, name: str, chosen: set[str]) -> None:
        self.done(self.broker.declare(self.named(name), topics=[*map(self.named, sorted(chosen))], retry=RETRY))
        self.model.setdefault(name, Queue(frozenset(), mixed=self._mixes)).topics = frozenset(chosen)

    def having(self, *what: str) -> list[str]:
        """The queues in which there is any of that."""
        return [name for name, queue in self.model.items() if any(getattr(queue, it) for it in what)]

    @rule(name=queues, surely=st.integers(0, 3))
    def drop(self, name: str, surely: int) -> None:
        if surely:
            return  # seldom, so that there is something in them
        self.done(self.broker.drop(self.named(name)))
        self.model.pop(name, None)

    @rule(topic=topics, count=st.integers(2, 5))
    def publish(self, topic: str, count: int) -> None:
        taking = [queue for queue in self.model.values() if topic in queue.topics]
        for _ in range(count):
            self.published += 1
            body = b"%d" % self.published
            publishing = self.broker.publish(self.named(topic), body, headers={"n": body.decode()})
            if not taking:
                with refused(Unroutable):
                    self.done(publishing)
            else:
                self.done(publishing)
            for queue in taking:
                queue.ready.append(Stored(body))

    @rule(name=queues)
    def ask_of_what_is_not_declared(self, name: str) -> None:
        if name not in self.model:
            for call in (self._worked(name, ["ack"]), self.broker.stats(self.named(name))):
                with refused(QueueNotDeclared):
                    self.done(call)

    @precondition(lambda self: self.having("ready"))
    @rule(data=st.data(), verbs=st.lists(st.sampled_from(VERBS), min_size=2, max_size=5))
    def work(self, data: st.DataObject, verbs: Sequence[str]) -> None:
        """Subscribe, take as many as there are verbs, or messages; settle each in its way, and leave."""
        self.work_in(data.draw(st.sampled_from(self.having("ready"))), verbs)

    def work_in(self, name: str, verbs: Sequence[str]) -> None:
        queue = self.model[name]
        count = min(len(verbs), len(queue.ready))
        taken = self.done(self._worked(name, verbs[:count]))
        if not queue.mixed:
            assert taken == queue.ready[:count], "the oldest are given out first"
        for stored in taken:
            queue.ready.remove(stored)
        back = []
        for stored, verb in zip(taken, verbs, strict=False):
            again = replace(stored, attempt=stored.attempt + 1)
            if verb in ("retry", "postpone"):
                queue.ready.append(again if verb == "retry" else stored)
            elif verb in ("retry later", "postpone later"):
                queue.delayed.append(again if verb == "retry later" else stored)
            elif verb == "dead_letter":
                queue.dead.append(stored)
            elif verb in ("release", "nothing"):
                back.append(stored)
        queue.ready = back + queue.ready

    async def _worked(self, name: str, verbs: Sequence[str]) -> list[Stored]:
        async with self.broker.subscribe(self.named(name), prefetch=len(verbs)) as deliveries:
            held = [await anext(deliveries) for _ in verbs]
            for delivery, verb in zip(held, verbs, strict=True):
                assert delivery.headers == {"n": delivery.body.decode()}
                await self._settled(delivery, verb)
        return [Stored(delivery.body, delivery.attempt) for delivery in held]

    async def _settled(self, delivery: Delivery, verb: str) -> None:
        if verb == "nothing":
            return
        which, _, later = verb.partition(" ")
        if which in ("retry", "postpone"):
            await getattr(delivery, which)(delay=LATER if later else NOW)
        elif which == "dead_letter":
            await delivery.dead_letter("died", log_tail=["its last line"])
        else:
            await getattr(delivery, which)()
        with refused(AlreadySettled):
            await delivery.ack()

    @precondition(lambda self: self.having("dead"))
    @rule(data=st.data(), purge=st.booleans(), wrong=st.booleans())
    def redrive_or_purge(self, data: st.DataObject, purge: bool, wrong: bool) -> None:
        name = data.draw(st.sampled_from(self.having("dead")))
        queue = self.model[name]
        chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(queue.dead))))))
        letters = self.done(self.broker.dead_letters(self.named(name)))
        ids = [letters[n].id for n in chosen]
        call = self.broker.purge if purge else self.broker.redrive
        if wrong:
            with refused(DeadLetterNotFound, naming="no-such-id"):
                self.done(call(self.named(name), [*ids, "no-such-id"]))
            return
        assert self.done(call(self.named(name), ids)) == len(ids)
        for letter in [letters[n] for n in chosen]:
            queue.dead.remove(Stored(letter.body, letter.attempts))
            if not purge:
                queue.ready.append(Stored(letter.body))

    @precondition(lambda self: self.having("ready", "delayed", "dead"))
    @rule(data=st.data(), to=queues)
    def move(self, data: st.DataObject, to: str) -> None:
        name = data.draw(st.sampled_from(self.having("ready", "delayed", "dead")))
        if name == to:
            return
        source, target = self.model[name], self.model.get(to)
        moving = self.broker.move(self.named(name), self.named(to))
        if target is None:
            with refused(QueueNotDeclared):
                self.done(moving)
            return
        assert self.done(moving) == len(source.ready) + len(source.delayed) + len(source.dead)
        target.mixed = True
        target.ready, source.ready = target.ready + source.ready, []
        target.delayed, source.delayed = target.delayed + source.delayed, []
        target.dead, source.dead = target.dead + source.dead, []

    @invariant()
    def it_is_as_the_model_has_it(self) -> None:
        listed = [it for it in self.done(self.broker.queues()) if it.name.startswith(self._prefix)]
        assert listed == [
            DeclaredQueue(name=self.named(name), topics=frozenset(map(self.named, queue.topics)))
            for name, queue in sorted(self.model.items())
        ]
        for name, queue in self.model.items():
            self.done(self._is_as(name, queue))

    async def _is_as(self, name: str, queue: Queue) -> None:
        expected = QueueStats(ready=len(queue.ready), delayed=len(queue.delayed), unsettled=0, dead=len(queue.dead))
        deadline = asyncio.get_running_loop().time() + self._patience
        while (found := await self.broker.stats(self.named(name))) != expected:
            assert asyncio.get_running_loop().time() < deadline, f"counts of {name}: {expected}, it says {found}"
            await asyncio.sleep(0.01)
        ready = [Stored(it.body, it.attempt) for it in await self.broker.peek(self.named(name), limit=1000)]
        assert queue.comparable(ready) == queue.comparable(queue.ready)
        dead = [Stored(it.body, it.attempts) for it in await self.broker.dead_letters(self.named(name))]
        assert queue.comparable(dead) == queue.comparable(queue.dead)
        queue.mixed = self._mixes or (queue.mixed and bool(queue.ready or queue.delayed or queue.dead))
