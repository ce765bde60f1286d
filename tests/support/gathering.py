"""A random tree of jobs, worked off by dispatchers that die at any call, and a plain model that knows all of it.

The model shares nothing with the code under test but what modules say of themselves: it follows types and events by
the plainest means there are.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

from ion_core.commits import Commit
from ion_core.contracts.messaging import MESSAGE_HEADER, DeadLetter
from ion_core.contracts.storage import Document
from ion_core.dataplane import DataPlane, forget_rounds
from ion_core.dispatcher.outbox import Outbox
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.errors import Unroutable
from ion_core.events import GATHERED, GATHERED_TYPE, Context, Event, parse_event
from ion_core.gathered import Share, gathered_type
from ion_core.gathering.graph import joined
from ion_core.jobs import Attempt, Job
from ion_core.letters import purge
from ion_core.modules import Gather, Module
from ion_core.rounds import Round
from tests.support.worlds import Observed

LAYERS = 4
Keys = frozenset[tuple[str, str]]
"""Jobs, by event and module."""
MOMENT = 40
"""Turns of the loop that the last look of a gatherer, and its decision, may take."""


class Killed(BaseException):
    """The dispatcher is dead from here on: nothing of it does anything any more."""


@dataclass
class Letter:
    queue: str
    body: bytes
    headers: Mapping[str, str]


class Queues:
    """Of a broker, what is needed here: messages come at least once, some of them twice."""

    letters_unseen_for = timedelta(0)

    def __init__(self, chance: random.Random) -> None:
        self.topics: dict[str, list[str]] = {}
        self.waiting: dict[str, deque[Letter]] = {}
        self.held = 0
        self.dead: dict[str, dict[str, DeadLetter]] = {}
        self._chance = chance
        self._numbers = iter(range(1 << 30))

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        queues = [queue for queue, topics in self.topics.items() if topic in topics]
        if not queues:
            raise Unroutable(topic)
        for queue in queues:
            for _ in range(2 if self._chance.random() < 0.1 else 1):
                self.waiting[queue].append(Letter(queue, body, dict(headers)))

    def take(self) -> Letter | None:
        """Some message, of any queue; not always the oldest."""
        queues = [it for it in self.waiting.values() if it]
        if not queues:
            return None
        queue = self._chance.choice(queues)
        if self._chance.random() < 0.3:
            queue.rotate(1)
        self.held += 1
        return queue.popleft()

    def settle(self, letter: Letter, *, back: bool = False) -> None:
        self.held -= 1
        if back:
            self.waiting[letter.queue].appendleft(letter)

    def die(self, letter: Letter, reason: str) -> None:
        id = str(next(self._numbers))
        self.dead[letter.queue][id] = DeadLetter(
            id=id, queue=letter.queue, body=letter.body, headers=letter.headers, reason=reason, attempts=1,
            died_at=datetime.now(UTC),
        )  # fmt: skip

    async def dead_letters(self, queue: str) -> Sequence[DeadLetter]:
        return list(self.dead[queue].values())

    async def purge(self, queue: str, ids: Sequence[str]) -> int:
        return len([self.dead[queue].pop(id) for id in ids])

    async def redrive(self, queue: str, ids: Sequence[str]) -> None:
        for id in ids:
            letter = self.dead[queue].pop(id)
            self.waiting[queue].append(Letter(queue, letter.body, letter.headers))


class Mortal:
    """A backend as one dispatcher has it: any call may be its last, before or after it has its effect."""

    def __init__(self, inner: Any, life: Life) -> None:
        self._inner = inner
        self._life = life

    def __getattr__(self, name: str) -> Any:
        if name == "find":
            return self._find
        if name == "each_dead_letter":
            return self._each_dead_letter
        inner = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(inner):
            return inner

        async def call(*arguments: Any, **named: Any) -> Any:
            await self._life.goes_on()
            found = await inner(*arguments, **named)
            await self._life.goes_on()
            return found

        return call

    async def _find(self, *arguments: Any, **named: Any) -> AsyncIterator[Document]:
        """As a store that lists late: what came last may not be there yet."""
        found = [it async for it in self._inner.find(*arguments, **named)]
        if found and self._life.chance.random() < self._life.lists_late:
            found.pop()
        for document in found:
            await self._life.goes_on()
            yield document

    @asynccontextmanager
    async def _each_dead_letter(self, queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        letters = await self.dead_letters(queue)

        async def reading() -> AsyncIterator[DeadLetter]:
            for letter in letters:
                yield letter

        yield reading()


@dataclass
class Life:
    """Of one dispatcher, from its start to its death."""

    chance: random.Random
    deadly: float
    lists_late: float = 0.0
    dead: bool = False

    async def goes_on(self) -> None:
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        if self.dead or self.chance.random() < self.deadly:
            self.dead = True
            raise Killed


def random_modules(chance: random.Random) -> list[Module]:
    """Modules and gatherers without circles: each takes types of layers up to its own, and publishes of later ones."""
    types = [f"t{layer}.{n}" for layer in range(LAYERS + 1) for n in range(2)]

    def of(low: int, high: int) -> list[str]:
        return types[2 * low : 2 * high + 2]

    found: list[Module] = []
    for layer in range(LAYERS):
        for n in range(chance.randint(1, 2)):
            takes = chance.sample(of(0, layer), chance.randint(1, min(2, 2 * layer + 2)))
            if n == 0 and not any(set(of(layer, layer)) & set(it.subscribes) for it in found):
                takes[0] = of(layer, layer)[0]
            emits = chance.sample(of(layer + 1, layer + 1), 1)
            emits += chance.sample(of(layer + 1, LAYERS), chance.randint(0, 2))
            emits = [] if n and chance.random() < 0.2 else list(dict.fromkeys(emits))
            found.append(
                Module(
                    name=f"m{layer}-{n}", command=("x",), subscribes=tuple(dict.fromkeys(takes)), publishes=tuple(emits)
                )
            )
    for n in range(chance.randint(1, 3)):
        layer = chance.randint(1, LAYERS - 1)
        published = sorted({it for module in found for it in module.publishes} & {*of(1, layer + 1)})
        taken = sorted({it for module in found for it in module.subscribes} & {*of(0, layer)})
        gather = Gather(
            events=tuple(chance.sample(published, min(len(published), chance.randint(1, 2)))),
            within=chance.choice([None, *taken]),
            by=chance.choice([None, None, "k"]),
            missing=chance.choice(["wait", "go"]),
            if_none=chance.choice(["run", "skip"]),
        )
        later = of(layer + 2, LAYERS)
        found.append(
            Module(
                name=f"g{n}",
                command=("x",),
                subscribes=(gathered_type(f"g{n}"),),
                publishes=tuple(chance.sample(later, min(1, len(later)))),
                gather=gather,
            )
        )
    return joined(found)


@dataclass
class Truth:
    """All that happened, noted where it happened; and what follows from it, by the plainest means."""

    modules: Sequence[Module]
    made: dict[tuple[str, str], list[Event]] = field(default_factory=dict)
    """The events of each job that has committed, by event and module."""
    given_up: dict[tuple[str, str], str] = field(default_factory=dict)
    """Jobs that are dead letters (``dead``), or were (``purged``)."""
    decided: dict[tuple[str, str], list[Event]] = field(default_factory=dict)
    """The events that start a gatherer, by scope and module."""
    roots: list[Event] = field(default_factory=list)
    now: int = 0
    """Turns of the loop."""
    redriven: dict[tuple[str, str], int] = field(default_factory=dict)
    """When a job was redriven last."""
    early: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def leads(self, module: Module, gatherer: Module, seen: frozenset[str] = frozenset()) -> bool:
        """Whether something that it makes may come to be gathered, beneath the same scope."""
        gather = gatherer.gather
        assert gather is not None
        for event_type in module.publishes:
            if event_type in gather.events:
                return True
            if event_type == gather.within or module.name in seen:
                continue
            for other in self.modules:
                takes = event_type in other.subscribes or (other.gather and other.gather.within == event_type)
                if takes and self.leads(other, gatherer, seen | {module.name}):
                    return True
        return False

    def jobs(self, event: Event, gatherer: Module) -> list[Module]:
        return [it for it in self.modules if event.type in it.subscribes and self.leads(it, gatherer)]

    def gathers(self, event: Event, gatherer: Module) -> list[Module]:
        first = event in self.roots
        return [
            it
            for it in self.modules
            if it.gather
            and (it.gather.within == event.type or (it.gather.within is None and first))
            and self.leads(it, gatherer)
        ]

    def unseen(self, gatherer: Module) -> list[Keys]:
        """Jobs that may count as dead still, each way in which they may: nothing first, where none does.

        Between its last look and its decision a gatherer that goes without them sees no redrive, nor what came of it.
        """
        assert gatherer.gather is not None
        if gatherer.gather.missing != "go":
            return [frozenset()]
        just_now = [key for key, at in self.redriven.items() if self.now - at < MOMENT]
        return [frozenset(it) for n in range(len(just_now) + 1) for it in combinations(just_now, n)]

    def below(self, event: Event, gatherer: Module, unseen: Keys = frozenset()) -> Iterator[Event]:
        """Events beneath, in order, without what is in a scope of their own."""
        for module in self.modules:
            key = (event.context.event_id, module.name)
            if module in self.jobs(event, gatherer) and key not in unseen:
                yield from self._subtree(self.made.get(key, []), gatherer, unseen)
        for module in self.gathers(event, gatherer):
            yield from self._subtree(self.decided.get((event.context.event_id, module.name), []), gatherer, unseen)

    def _subtree(self, events: Sequence[Event], gatherer: Module, unseen: Keys) -> Iterator[Event]:
        assert gatherer.gather is not None
        for event in events:
            yield event
            if event.type != gatherer.gather.within:
                yield from self.below(event, gatherer, unseen)

    def unfinished(self, scope: Event, gatherer: Module, unseen: Keys = frozenset()) -> list[str]:
        """What the gatherer has still to wait for."""
        assert gatherer.gather is not None
        over = ("purged", "dead") if gatherer.gather.missing == "go" else ("purged",)
        found = []
        inside = [scope] + [it for it in self.below(scope, gatherer, unseen) if it.type != gatherer.gather.within]
        for event in inside:
            id = event.context.event_id
            for module in self.jobs(event, gatherer):
                key = (id, module.name)
                if key not in self.made and self.given_up.get(key) not in over and key not in unseen:
                    found.append(f"{module.name} of {event.type}")
            for module in self.gathers(event, gatherer):
                if (id, module.name) not in self.decided:
                    found.append(f"gatherer {module.name} of {event.type}")
        return found

    def shares(self, scope: Event, gatherer: Module, unseen: Keys = frozenset()) -> dict[str | None, list[str]]:
        """What it is to be given, by key."""
        gather = gatherer.gather
        assert gather is not None
        found: dict[str | None, list[str]] = {}
        for event in self.below(scope, gatherer, unseen):
            if event.type in gather.events:
                key = dict(event.data).get(gather.by) if gather.by else None
                found.setdefault(key, []).append(event.context.event_id)
        return found or ({} if gather.if_none == "skip" else {None: []})

    def scopes(self) -> Iterator[tuple[Event, Module]]:
        """Every event that is a scope, with the gatherer, where anything is to wait for."""
        everything = [*self.roots, *(it for events in self.made.values() for it in events)]
        for event in everything:
            for module in self.modules:
                gather = module.gather
                if gather is None or not (self.jobs(event, module) or self.gathers(event, module)):
                    continue
                if gather.within == event.type or (gather.within is None and event in self.roots):
                    yield event, module


class Watched(MemoryDocumentStore):
    """Tells the truth of each decision at the moment at which it is made."""

    def __init__(self, truth: Truth) -> None:
        super().__init__()
        self._truth = truth

    async def create(self, document: Document) -> None:
        new = (document.kind, document.id) not in self.documents
        await super().create(document)
        if document.kind == GATHERED and new:
            self._tell(document)

    def _tell(self, document: Document) -> None:
        truth, context = self._truth, document.body["context"]
        [gatherer] = [it for it in truth.modules if it.name == context["name"]]
        [scope] = [event for event, module in truth.scopes() if module is gatherer and
                   event.context.event_id == context["eventId"]]  # fmt: skip
        done = [unseen for unseen in truth.unseen(gatherer) if not truth.unfinished(scope, gatherer, unseen)]
        if not done:
            truth.early.append(f"{gatherer.name} of {scope.type}: {truth.unfinished(scope, gatherer)}")
        shares = [Share.from_json(it) for it in document.body["shares"]]
        given = {share.key: [id for _, ids in share.made for id in ids] for share in shares}
        right = [truth.shares(scope, gatherer, unseen) for unseen in done]
        if given not in right:
            truth.wrong.append(f"{gatherer.name} of {scope.type}: {given} for {right}")
        from ion_core.gathering.records import Decision

        truth.decided[scope.context.event_id, gatherer.name] = [
            event for event, _ in Decision.from_document(document).events()
        ]


class Forest:
    """Some flows, and what works them off."""

    def __init__(self, seed: int, *, deadly: float = 0.02, fails: float = 0.1, lists_late: float = 0.0) -> None:
        self.chance = random.Random(seed)
        self._seed = seed
        self._deadly = deadly
        self._fails = fails
        self._lists_late = lists_late
        self._meddles = True
        self.modules = random_modules(self.chance)
        self.truth = Truth(self.modules)
        self.documents = Watched(self.truth)
        self.queues = Queues(self.chance)
        for module in self.modules:
            self.queues.topics[module.name] = list(module.subscribes)
            self.queues.waiting[module.name] = deque()
            self.queues.dead[module.name] = {}
        self.deaths = 0
        self.runs: dict[tuple[str, str], int] = {}
        self.redriven: set[tuple[str, str]] = set()

    def plane(self, life: Life) -> DataPlane:
        """As a dispatcher has it that has just been started."""
        documents, broker = Mortal(self.documents, life), Mortal(self.queues, life)
        return DataPlane(MemoryBlobStore(), documents, broker, Observed()).with_gatherers(self.modules)

    def safe(self) -> Life:
        return Life(self.chance, 0.0)

    async def publish(self, count: int) -> None:
        plane = self.plane(self.safe())
        first = [it for module in self.modules for it in module.subscribes if it.startswith("t0.")]
        for n in range(count):
            context = Context(name="outside", event_id=f"e{n}", correlation_id=f"c{self.chance.randrange(2)}")
            event = Event(context=context, type=self.chance.choice(first), data=(("k", "0"),))
            self.truth.roots.append(event)
            await plane.accept(event, {})

    # What a job does

    def _does(self, event: Event, module: Module) -> list[tuple[str, str]]:
        """Types and keys of what it makes: the same in every attempt."""
        chance = random.Random(f"{self._seed}/{event.context.event_id}/{module.name}")
        count = chance.choice([0, 1, 2, 2, 3]) if module.publishes else 0
        return [(chance.choice(module.publishes), str(chance.randrange(3))) for _ in range(count)]

    def _is_broken(self, event: Event, module: Module) -> bool:
        key = (event.context.event_id, module.name)
        chance = random.Random(f"{self._seed}/{key}/fails")
        return chance.random() < self._fails and key not in self.redriven

    def _commit(self, attempt: Attempt, module: Module) -> Commit:
        job = attempt.job
        events = []
        for n, (event_type, key) in enumerate(self._does(job.event, module)):
            context = Context(
                name=module.name,
                event_id=job.child_id(f"{n}.json"),
                correlation_id=job.event.context.correlation_id,
                parent_event_id=job.event.context.event_id,
            )
            data = (("k", key),) if key != "2" else ()
            events.append(Event(context=context, type=event_type, data=data, hops=job.event.hops + 1))
        return Commit(
            job_id=job.id,
            context=replace(job.event.context, name=module.name, document_type="commit"),
            attempt=1,
            token=attempt.token,
            image=None,
            started_at="",
            committed_at=datetime.now(UTC).isoformat(),
            events=tuple(events),
            cause_type=job.event.type,
            evaluates=bool(module.leads_to),
        )

    # Dispatchers

    async def handle(self, plane: DataPlane, letter: Letter) -> None:
        """S0 to S11 of one delivery, as the job runner has it."""
        [module] = [it for it in self.modules if it.name == letter.queue]
        attempt = Attempt(
            job=Job(event=parse_event(letter.body, documented=True), module=module.name),
            number=1,
            message=letter.headers[MESSAGE_HEADER],
        )
        job, gathering = attempt.job, plane.gathering
        assert gathering is not None
        if (found := await plane.committed(job.id)) is not None:
            if found[1]:
                await plane.publish_commit(found[0])
            elif module.leads_to:
                await gathering.committed(found[0])
            return
        key = (job.event.context.event_id, module.name)
        known = await plane.round(job.id)
        if known is not None and known.next_at is None and known.message != attempt.message:
            return  # a double of a dead letter
        if self._is_broken(job.event, module):
            now = datetime.now(UTC)
            record = Round.of(attempt, reason="broken", failed_at=now, next_at=None)
            if known is None:
                if not await plane.first_round(record):
                    await self.handle(plane, letter)
                    return
            else:
                await plane.further_round(record)
            if module.leads_to:
                await gathering.dying(job, message=attempt.message, reason="broken")
            await plane.broker.dead_letters(letter.queue)  # a call, at which we may die
            if not any(it.headers[MESSAGE_HEADER] == attempt.message for it in self.queues.dead[letter.queue].values()):
                self.queues.die(letter, "broken")
            if self.truth.given_up.get(key) is None:
                self.truth.given_up[key] = "dead"
            if module.leads_to:
                await gathering.dead(job)
            return
        if job.event.type.startswith(GATHERED_TYPE):
            await plane.gathered(job.event)
        commit = self._commit(attempt, module)
        if await self._fence(plane, commit):
            self.runs[key] = self.runs.get(key, 0) + 1
        record_of = await plane.committed(job.id)
        assert record_of is not None
        if record_of[0].owes or module.leads_to:
            await plane.publish_commit(record_of[0])

    async def _fence(self, plane: DataPlane, commit: Commit) -> bool:
        """True for the one commit that counts. What is true is noted in the same moment, whatever dies then."""
        before = (commit.to_document().kind, commit.job_id) in self.documents.documents
        key = (commit.context.event_id, commit.context.name)
        if not before:
            self.truth.made.setdefault(key, list(commit.events))
            await MemoryDocumentStore.create(self.documents, commit.to_document())
            await plane.documents.get("commit", commit.job_id)  # a call, at which we may die
            return True
        return await plane.commit(commit)

    async def dispatcher(self, patience: int = 25) -> None:
        """Works until there is nothing, dies now and then, and is started anew."""
        idle = 0
        while idle < patience:
            life = Life(self.chance, self._deadly, self._lists_late)
            plane = self.plane(life)
            try:
                await Outbox(plane).sweep(older_than=timedelta(0))
                while idle < patience:
                    letters = [it for _ in range(2) if (it := self.queues.take()) is not None]
                    if not letters:
                        idle = idle + 1 if not self.queues.held else 0
                        await asyncio.sleep(0)
                        continue
                    idle = 0
                    await self._together(plane, letters)
            except Killed:
                self.deaths += 1

    async def _together(self, plane: DataPlane, letters: Sequence[Letter]) -> None:
        ended = await asyncio.gather(*(self.handle(plane, it) for it in letters), return_exceptions=True)
        for letter, error in zip(letters, ended, strict=True):
            self.queues.settle(letter, back=isinstance(error, BaseException))
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def work(self, dispatchers: int = 2) -> None:
        """All dispatchers, and somebody who redrives some dead letters meanwhile."""
        somebody = asyncio.create_task(self._meddle())
        async with asyncio.TaskGroup() as tasks:
            for _ in range(dispatchers):
                tasks.create_task(self.dispatcher())
        somebody.cancel()
        await asyncio.wait({somebody})

    async def _meddle(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.truth.now += 1
            letters = [it for queue in self.queues.dead.values() for it in queue.values()]
            if letters and self._meddles and self.chance.random() < 0.02:
                await self._redrive(self.chance.choice(letters))

    async def _redrive(self, letter: DeadLetter) -> None:
        key = (parse_event(letter.body).context.event_id, letter.queue)
        await forget_rounds(self.documents, [letter])
        self.truth.given_up.pop(key, None)  # from this very moment it is waited for again
        self.truth.redriven[key] = self.truth.now
        self.redriven.add(key)
        await self.queues.redrive(letter.queue, [letter.id])

    async def settle(self) -> None:
        """What a dispatcher does that lives: no death, no late listing, until nothing is left to do."""
        self._deadly, self._lists_late, self._meddles = 0.0, 0.0, False
        await self.work(1)
        await self.work(1)

    async def mend(self) -> None:
        """Half of the dead letters are redriven, the others purged; whoever purges may die."""
        for queue, letters in self.queues.dead.items():
            for letter in list(letters.values()):
                event = parse_event(letter.body)
                key = (event.context.event_id, queue)
                if self.chance.random() < 0.5:
                    await self._redrive(letter)
                    continue
                while letter.id in letters:
                    plane = self.plane(Life(self.chance, 0.1))
                    self.truth.given_up[key] = "purged"
                    try:
                        await purge([letter], plane.broker, plane.documents, plane.gathering)
                    except Killed:
                        self.deaths += 1

    # What came of it

    def forgotten(self) -> list[str]:
        """Scopes that are done, and whose gatherer has not run, or not as often as it should; and the reverse."""
        found = []
        for scope, gatherer in self.truth.scopes():
            id = scope.context.event_id
            started = self.truth.decided.get((id, gatherer.name))
            if started is None:
                if not self.truth.unfinished(scope, gatherer):
                    found.append(f"{gatherer.name} of {scope.type} {id}: not decided")
                continue
            for event in started:
                key = (event.context.event_id, gatherer.name)
                if key not in self.truth.made and key not in self.truth.given_up:
                    found.append(f"{gatherer.name} of {scope.type} {id}: has not run")
        found += [f"{it.kind} {it.id}: is pending" for it in self.documents.documents.values() if it.pending and
                  it.kind != "gathering"]  # fmt: skip
        return found

    def double(self) -> list[str]:
        """Jobs of gatherers that committed twice."""
        return [f"{key}: {count}" for key, count in self.runs.items() if count > 1]
