"""Evaluations: whether a scope is done, asked when something beneath it has ended; and what follows, done once."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.messaging import DeadLetter, MessageBroker
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import DocumentExists, DocumentNotFound, TransientError
from ion_core.events import COMMIT, EVENT_META, GATHERED, GATHERED_TYPE, GATHERING, Context, Event, parse_context
from ion_core.gathered import Given, gathering_id
from ion_core.gathering.giving_up import GivingUp
from ion_core.gathering.graph import Graph, gather_of
from ion_core.gathering.records import DEAD, Decision, Scope, waited_for, waiting_document
from ion_core.gathering.walk import Walk
from ion_core.jobs import Job, job_id
from ion_core.modules import Module, present_names
from ion_core.stores import event_of, for_each

log = logging.getLogger(__name__)

SCOPES_KEPT = 1_000
"""Scopes of which it is remembered what is done beneath them. Of others the tree is walked anew."""
EVENTS_KEPT = 20_000
"""Events of which it is remembered what is above them."""

K = TypeVar("K")
V = TypeVar("V")


class _Kept(OrderedDict[K, V]):
    """The last ones that were used."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def use(self, key: K) -> V | None:
        if (found := self.get(key)) is not None:
            self.move_to_end(key)
        return found

    def keep(self, key: K, value: V) -> None:
        self[key] = value
        self.move_to_end(key)
        while len(self) > self._most:
            self.popitem(last=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Above:
    """An event, as it is seen from below: ``made`` says that a job made it, or Ion for a gatherer.

    ``cause_type`` is the type of the event above it, where the commit of that job tells.
    """

    context: Context
    type: str
    made: bool
    cause_type: str = ""


class Evaluations:
    """What gatherers of these modules have to do, worked out from ``documents``.

    ``broker`` is asked for dead letters alone. ``publish`` hands an event whose document is stored to the broker. All
    methods may be called again, and by any number of processes at once. They raise as the document store and
    ``publish`` do; what is owed is owed still then.
    """

    def __init__(
        self,
        modules: Iterable[Module],
        documents: DocumentStore,
        broker: MessageBroker,
        publish: Callable[[Event], Awaitable[None]],
    ) -> None:
        modules = list(modules)
        self.graph = Graph(modules)
        self._now = present_names(modules)
        self._documents = documents
        self._giving_up = GivingUp(documents, broker, self.waits_for)
        self._publish = publish
        self._walks: _Kept[str, Walk] = _Kept(SCOPES_KEPT)
        self._over: _Kept[str, bool] = _Kept(EVENTS_KEPT)
        """Scopes and gatherers whose decision is made, and published."""
        self._above: _Kept[str, _Above] = _Kept(EVENTS_KEPT)

    def waits_for(self, module: str) -> bool:
        """Whether a gatherer waits for jobs of this module."""
        return bool(self.graph.leads_to(module))

    @property
    def unsure(self) -> bool:
        """Whether the last ``sweep`` could not tell yet if some dead letters are purged."""
        return self._giving_up.unsure

    # What has ended

    async def committed(self, commit: Commit) -> None:
        """A job has committed, and what it made is published: run the gatherers for which it was the last."""
        self._remember(commit)
        for name in self.graph.leads_to(commit.context.name):
            walk = await self._walk_above(commit.context, name, commit.cause_type)
            if walk is None:
                continue
            walk.learn(commit)
            if not any(walk.awaited(it.type) for it in commit.events):  # else it is not the last
                await self._evaluate(walk)

    async def begins(self, job: Job) -> None:
        """A job is about to run: have it in the documents that gatherers wait.

        Before it can commit: a dispatcher that has no such gatherer may be the one that pays what its commit owes.
        """
        for name in self.graph.leads_to(job.module):
            await self._walk_above(job.event.context, name, job.event.type)

    async def dying(self, job: Job, *, message: str, reason: str) -> None:
        """A job is about to be a dead letter: have it in the documents, and that gatherers wait.

        ``message`` is the id of its message.
        """
        await self._giving_up.dying(job, message=message, reason=reason)
        await self.begins(job)

    async def dead(self, job: Job) -> None:
        """It is a dead letter: run the gatherers that need not wait for anything else."""
        await self._giving_up.end(job.id, DEAD)
        await self._given_up(job.event.context, job.event.type, job.module)

    async def purge(self, letters: Sequence[DeadLetter], purge: Callable[[], Awaitable[int]]) -> int:
        """``purge`` these letters, and run the gatherers that waited for nothing else. If we die, ``sweep`` does."""
        begun = await self._giving_up.purging(letters)
        count = await purge()
        if begun:
            crash.reached(crash.PURGED)
        await self._gave_up(begun)
        return count

    async def _gave_up(self, documents: Sequence[Document]) -> None:
        for document in documents:
            await self._giving_up.end(document.id, document.body["state"])
            context = parse_context(document.body, what="given up", problems=[])
            await self._given_up(context, document.body["type"], context.name)

    async def _given_up(self, event: Context, event_type: str, module: str) -> None:
        for name in self.graph.leads_to(module):
            if (walk := await self._walk_above(event, name, event_type)) is not None:
                await self._evaluate(walk)

    async def sweep(self) -> int:
        """Evaluate all scopes that are waited for; returns how many were done. Others' gatherers are left alone."""
        await self._gave_up(await self._giving_up.left())
        count = 0
        async for document in self._documents.find(GATHERING, pending=True):
            scope, name = waited_for(document)
            now = self._now.get(name, name)
            if now not in self.graph.gatherers:
                continue
            walk = await self._walk(scope, now)
            if walk is not None and now != name:  # what it had still to do under its former name it has to do now
                await self._waits(scope, now)
                await self._documents.clear_pending(GATHERING, document.id)
            count += walk is None or await self._evaluate(walk)
        return count

    async def _waits(self, scope: Scope, gatherer: str) -> None:
        """Have it in the documents that the gatherer waits. Idempotent."""
        with contextlib.suppress(DocumentExists):  # of an event of others each commit tells what it knows
            await self._documents.create(waiting_document(scope, gatherer))

    # The scope

    async def _walk_above(self, event: Context, gatherer: str, event_type: str) -> Walk | None:
        """The walk of the scope that a job for this event is in; None where it is in none, or that is over."""
        scope = await self._scope(event, gatherer, event_type)
        if scope is None or self._over.use(id := gathering_id(scope.id, gatherer)):
            return None
        if (known := self._walks.use(id)) is not None:
            return known
        await self._waits(scope, gatherer)
        crash.reached(crash.WAITING)
        return await self._walk(scope, gatherer)

    async def _walk(self, scope: Scope, gatherer: str) -> Walk | None:
        """None where the decision is there; then what it owes is paid."""
        id, module = gathering_id(scope.id, gatherer), self.graph.modules[gatherer]
        for name in (gatherer, *module.formerly):
            try:
                decided = Decision.from_document(await self._documents.get(GATHERED, gathering_id(scope.id, name)))
            except DocumentNotFound:
                continue
            await self._pay(decided)
            if name != gatherer:
                await self._is_paid(id)
            self._is_over(id)
            return None
        walk = self._walks.use(id)  # of somebody who asked meanwhile
        if walk is None:
            walk = Walk(self.graph, module, scope, self._documents)
            self._walks.keep(id, walk)
        return walk

    def _is_over(self, id: str) -> None:
        self._over.keep(id, True)
        self._walks.pop(id, None)

    async def _scope(self, event: Context, gatherer: str, event_type: str) -> Scope | None:
        """The nearest event above a job, from its own event on, that is a scope of the gatherer."""
        within = gather_of(self.graph.gatherers[gatherer]).within
        seen: set[str] = set()
        here = await self._seen(event, event_type)
        while here.context.event_id not in seen:  # documents of others may say anything
            seen.add(here.context.event_id)
            if here.type == within or (within is None and not here.made):
                return Scope(context=here.context, type=here.type, first=not here.made)
            if not here.made:
                return None
            parent = Context(name="", event_id=here.context.parent_event_id, correlation_id=here.context.correlation_id)
            here = await self._seen(parent, here.cause_type)
        return None

    async def _seen(self, event: Context, event_type: str) -> _Above:
        """An event by its document; of one that has none, what is known from its message."""
        if (known := self._above.use(event.event_id)) is not None:
            return known
        try:
            document = await self._documents.get(EVENT_META, event.event_id)
        except DocumentNotFound:
            return _Above(context=event, type=event_type, made=False)
        stored = event_of(document)
        if stored.type.startswith(GATHERED_TYPE):
            said = document.body.get("gathered")
            made, cause_type = True, "" if said is None else Given.from_json(said).scope_type
        else:
            made, cause_type = await self._maker(stored)
        found = _Above(context=stored.context, type=stored.type, made=made, cause_type=cause_type)
        self._above.keep(event.event_id, found)
        return found

    async def _maker(self, event: Event) -> tuple[bool, str]:
        """Whether a job made the event, and the type of the event above it where that is told."""
        context = event.context
        if not context.parent_event_id:
            return False, ""
        try:
            found = await self._documents.get(COMMIT, job_id(context.parent_event_id, context.name))
        except DocumentNotFound:
            return False, ""
        commit = Commit.from_document(found)
        self._remember(commit)
        if all(it.context.event_id != context.event_id for it in commit.events):
            return False, ""  # it only says so
        return True, commit.cause_type

    def _remember(self, commit: Commit) -> None:
        for event in commit.events:
            found = _Above(context=event.context, type=event.type, made=True, cause_type=commit.cause_type)
            self._above.keep(event.context.event_id, found)

    # The decision

    async def _evaluate(self, walk: Walk) -> bool:
        """Whether the scope is done; then the decision is made, and what follows from it is published."""
        if self._over.use(walk.id):
            return True
        if not await walk.look():
            return False
        async with walk.deciding:  # one of us is enough
            if not self._over.use(walk.id):
                if (decision := await self._decided(walk)) is None:
                    return False
                await self._pay(decision)
                self._is_over(walk.id)
        return True

    async def _decided(self, walk: Walk) -> Decision | None:
        """What was decided: by us, or by whoever was first. None where somebody saw meanwhile that it is not done."""
        try:
            return Decision.from_document(await self._documents.get(GATHERED, walk.id))
        except DocumentNotFound:
            pass
        try:
            scope = event_of(await self._documents.get(EVENT_META, walk.scope.id))
            data, traceparent = scope.data, scope.traceparent
        except DocumentNotFound:  # an event of others, who brought what it says in its message
            data, traceparent = (), ""
        if not walk.complete:  # a dead letter was redriven, and another look has found that
            return None
        decision = walk.decision(data, traceparent)
        try:
            await self._documents.create(decision.to_document())
        except DocumentExists:
            return Decision.from_document(await self._documents.get(GATHERED, walk.id))
        crash.reached(crash.DECIDED)
        log.info(
            "gathered",
            extra={
                "moduleName": decision.module,
                "eventId": decision.scope.id,
                "correlationId": decision.scope.flow,
                "events": sum(len(ids) for share in decision.shares for _, ids in share.made),
                "missing": len(decision.missing),
            },
        )
        return decision

    async def _pay(self, decision: Decision) -> None:
        """Publish the events that start the gatherer. Repeatable: they follow from the decision."""
        if not await self._is_owed(decision.id):
            return
        await for_each(self._start, list(decision.events()))
        crash.reached(crash.STARTED)
        if not decision.shares:  # nothing will commit: who waits for the gatherer need not any more
            await self._skipped(decision)
        await self._is_paid(decision.id)

    async def _is_paid(self, id: str) -> None:
        with contextlib.suppress(DocumentNotFound):  # under its present name it need not have waited
            await self._documents.clear_pending(GATHERING, id)

    async def _is_owed(self, id: str) -> bool:
        try:
            return (await self._documents.get(GATHERING, id)).pending
        except DocumentNotFound:
            raise TransientError(f"gathering {id}: is not in the document store yet. It is tried again.") from None

    async def _start(self, made: tuple[Event, Document]) -> None:
        event, document = made
        try:
            await self._documents.create(document)
        except DocumentExists:
            log.error("an event that starts a gatherer is stored with other content", extra={"eventId": document.id})
        await self._publish(event)

    async def _skipped(self, decision: Decision) -> None:
        scope = decision.scope
        for name in self.graph.leads_to(self._now.get(decision.module, decision.module)):
            if (walk := await self._walk_above(scope.context, name, scope.type)) is not None:
                await self._evaluate(walk)
