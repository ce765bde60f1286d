"""Dispatcher: takes deliveries, runs jobs, settles them. Knows contracts, never a provider."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from ion_core.contracts.executor import Ticket
from ion_core.contracts.looking import OutboxView, SlotsView
from ion_core.contracts.messaging import Delivery, MessageBroker
from ion_core.contracts.observer import Observer
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.dataplane import DataPlane
from ion_core.dispatcher.answering import Answering, questions
from ion_core.dispatcher.at_engine import AtEngine
from ion_core.dispatcher.attempt_log import which
from ion_core.dispatcher.bounded import Backoff, wait_for_any
from ion_core.dispatcher.engine import Engine
from ion_core.dispatcher.health import Health, write_probe
from ion_core.dispatcher.hold import Leases
from ion_core.dispatcher.job_runner import JobRunner, Place
from ion_core.dispatcher.module_run import InSlots
from ion_core.dispatcher.outbox import Outbox
from ion_core.dispatcher.recovery import remove_orphans
from ion_core.dispatcher.running import RunningAttempts
from ion_core.dispatcher.slots import Slots
from ion_core.dispatcher.surroundings import Surroundings, trace_from_outside
from ion_core.dispatcher.trouble import StoreWitness
from ion_core.errors import DocumentNotFound, QueueNotDeclared, StorageFull, TransientError
from ion_core.events import MODULE_LOGS
from ion_core.handler import Handler, HandlerApi
from ion_core.jobs import Attempt, Verdict, job_id, log_id
from ion_core.modules import Module

log = logging.getLogger(__name__)


class Part(Enum):
    """What a dispatcher does. All of it, unless workers share it: each its jobs, and one process what is done once.

    ``JOBS``    takes deliveries and runs their jobs.
    ``UPKEEP``  declares queues, removes what an earlier life left, sweeps the outbox, asks the providers whether they
                answer, and sees to jobs that nobody fetches.
    """

    ALL = "all"
    JOBS = "jobs"
    UPKEEP = "upkeep"


CANCEL_WITHIN = 90.0
"""Seconds that cancelled jobs get to stop their containers and give their deliveries back."""


class Dispatcher:
    """Serves modules until told to stop.

    ``work`` is a directory for workspaces, ours alone; ``state_id`` marks our containers, so that those of an earlier
    life are known; ``drain_timeout`` is how long running jobs may go on after ``stop``. ``hide`` is what reasons and
    logs go through before they are kept.

    ``engines`` are the runtimes that are executors, and ``settings_of`` gives the configuration that steps of a module
    have there. ``traceparent`` says of an attempt what its module is told of the trace that it is part of.

    ``part`` is what of it all this one does. ``worker`` is its number among several that run jobs on one state
    directory, 0 where there is but one; ``modules`` are its share then.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        *,
        broker: MessageBroker,
        runtimes: Mapping[str, ContainerRuntime],
        dataplane: DataPlane,
        observer: Observer,
        work: Path,
        state_id: str,
        drain_timeout: timedelta = timedelta(seconds=30),
        grace: timedelta = timedelta(seconds=10),
        probe_every: float = 2.0,
        hide: Callable[[str], str] = str,
        engines: Mapping[str, Engine] | None = None,
        settings_of: Callable[[Module], bytes] = lambda module: b"",
        traceparent: Callable[[Attempt], str] = trace_from_outside,
        part: Part = Part.ALL,
        worker: int = 0,
    ) -> None:
        self.health = Health(lambda: write_probe(work))
        self._broker = broker
        self._runtimes = runtimes
        self._engines = engines or {}
        self._settings_of = settings_of
        self._drain_timeout = drain_timeout.total_seconds()
        self._state_id = state_id
        self._part = part
        self._worker = worker
        self.taken = 0
        """How many deliveries were taken so far."""
        self.counted: Callable[[], None] = lambda: None
        """Called whenever ``counts`` has changed by an attempt."""
        self._probe_every = probe_every
        self._handler = Handler(dataplane, work)
        self._outbox = Outbox(dataplane)
        self._leases = Leases()
        self.attempts = RunningAttempts()
        """What runs now, to be followed."""
        self._stopping = asyncio.Event()
        self._jobs: set[asyncio.Task[None]] = set()
        asked = questions(dataplane, runtimes, {name: it.executor for name, it in self._engines.items()})
        asked |= {"state directory": partial(self.health.look_for_space, work)}
        self._answering = Answering(asked, self.health, hide=hide)
        around = Surroundings(
            handler=self._handler,
            dataplane=dataplane,
            observer=observer,
            health=self.health,
            leases=self._leases,
            running=self.attempts,
            stores=StoreWitness(lambda: dataplane.answers(scratch=work, name=f"{state_id}{worker or ''}")),
            grace=grace,
            hide=hide,
            traceparent=traceparent,
            unanswered=self._answering.soon,
            counted=lambda: self.counted(),
        )
        self._api = HandlerApi()
        self._around = around
        self._runners = [JobRunner(module, self._place(module), around, stopping=self._stopping) for module in modules]

    def _place(self, module: Module) -> Place:
        if (engine := self._engines.get(module.runtime)) is not None:
            return AtEngine(module, engine, self._settings_of(module), self._around, stopping=self._stopping)
        runtime = self._runtimes[module.runtime]
        slots = Slots(module, runtime, self._handler, api=self._api, state_id=self._state_id, worker=self._worker)
        return InSlots(module, slots, self._around)

    @property
    def running(self) -> int:
        """How many deliveries are being handled."""
        return len(self._jobs)

    @property
    def warm(self) -> int:
        """How many slots wait ready for an event."""
        return sum(it.ready for it in self.slots())

    def slots(self) -> Sequence[SlotsView]:
        """Where attempts run, a view for each module."""
        return [runner.place.slots for runner in self._runners]

    def outbox(self) -> OutboxView:
        """What commits owe, as it was seen last."""
        return self._outbox.view

    def counts(self) -> Mapping[Verdict, int]:
        """How many attempts ended how, since the start; what we lost and is a dead letter elsewhere counts as one."""
        counts = {verdict: sum(runner.counts[verdict] for runner in self._runners) for verdict in Verdict}
        counts[Verdict.DEAD_LETTERED] += sum(runner.lost.died for runner in self._runners)
        return counts

    async def waiting(self) -> int:
        """How many messages wait in the queues of our modules, retries that wait for their delay included."""
        stats = [await self._broker.stats(runner.module.name) for runner in self._runners]
        return sum(queue.ready + queue.delayed for queue in stats)

    async def idle(self) -> bool:
        """Whether nothing is pending anywhere: no job here, no message in any queue of our modules, and none we lost.

        Nor is any gatherer owed its events, by us or by another that died. Raises StillPending where what we lost does
        not come back, and as the stores do.
        """
        gathering = self._around.dataplane.gathering
        if not await self._nothing_comes():
            return False
        if gathering is None or not gathering.graph.gatherers:
            return True
        await gathering.sweep()
        return not gathering.unsure and await self._nothing_comes()

    async def _nothing_comes(self) -> bool:
        """Of messages and jobs."""
        if self._jobs:
            return False
        for runner in self._runners:
            if (await self._broker.stats(runner.module.name)).pending:
                return False
        return await self.nothing_lost() and not self._jobs

    async def nothing_lost(self) -> bool:
        """Whether nothing of what we lost is still to come back, asked while no queue has anything.

        Raises StillPending where it does not come.
        """
        awaited = []
        for runner in self._runners:
            if runner.lost.any and await runner.lost.pending((await self._broker.stats(runner.module.name)).dead):
                awaited.append(runner.lost)
        if awaited and not self._jobs:
            for lost in awaited:
                lost.give_up()
        return not awaited

    async def recover(self, also: Sequence[Path] = ()) -> None:
        """Declare every queue; put an end to what an earlier life left: containers, workspaces, unpublished commits.

        ``also`` are directories of workspaces that nobody uses any more. Of a worker it is what that one has left, no
        more. Call it once, before ``run``. Raises what the providers raise.
        """
        if self._part is Part.JOBS:
            await remove_orphans(self._runtimes, self._state_id, worker=self._worker)
            await self._handler.sweep(also)
            return
        for runner in self._runners:
            await self._declare(runner.module)
        await remove_orphans(self._runtimes, self._state_id)
        for engine in self._engines.values():
            await engine.recover(self._is_put_away)
        await self._handler.sweep(also)
        modules = [runner.module for runner in self._runners]
        await self._handler.failed.trim({name: it.keep_failed for it in modules for name in (it.name, *it.formerly)})
        try:
            await self._outbox.sweep(older_than=timedelta(0))
        except StorageFull:
            raise
        except TransientError as error:  # what is owed is tried again while we serve
            log.warning("what earlier commits owe could not be published yet: %s", error)

    async def _is_put_away(self, ticket: Ticket) -> bool:
        dataplane = self._around.dataplane
        found = await dataplane.committed(job_id(ticket.event_id, ticket.module))
        if found is None or found[1]:
            return False
        try:
            await dataplane.documents.get(
                MODULE_LOGS, log_id(ticket.module, ticket.event_id, which(ticket.attempt, ticket.token))
            )
        except DocumentNotFound:
            return False
        return True

    async def _declare(self, module: Module) -> None:
        await self._broker.declare(module.name, topics=module.subscribes, retry=module.retry)

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Serve until ``stop``, then drain: running jobs may finish within the drain timeout.

        What still runs then, or when ``hurry`` is set, is stopped and its delivery released; but a job that is with an
        engine is left to it, unless ``hurry`` is set. Cancelling is as the end of the drain timeout. A module's failure
        never ends this; an ExceptionGroup out of here is a bug or a lost broker contract.

        Without the part of the jobs it is over with ``stop``.
        """
        async with AsyncExitStack() as stack:
            upkeep: list[tuple[str, Coroutine[Any, Any, None]]] = [
                ("space", self.health.watch_space(every=self._probe_every))
            ]
            if self._part is not Part.JOBS:
                upkeep += [("outbox", self._outbox.run()), ("answering", self._answering.run())]
                upkeep += [("engine", engine.keep(stop)) for engine in self._engines.values()]
            if self._part is not Part.UPKEEP:
                await stack.enter_async_context(self._api.listening())
                upkeep += [
                    ("leases", self._leases.run()),
                    ("workspaces", self._handler.keep_workspaces()),
                    ("stopping", self._tell_runners(stop)),
                    *(("place", runner.place.keep(stop)) for runner in self._runners),
                ]
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            background = [tasks.create_task(work, name=name) for name, work in upkeep]
            if self._part is Part.UPKEEP:
                await stop.wait()
            else:
                await self._serve_all(stop, hurry)
            for task in background:
                task.cancel()

    async def _serve_all(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as serving:
            for runner in self._runners:
                serving.create_task(self._serve(runner, stop, hurry), name=f"serve {runner.module.name}")

    async def _tell_runners(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping.set()

    async def _serve(self, runner: JobRunner, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """One module: subscribe, hand out deliveries, drain; subscribe anew when the broker fails us."""
        backoff = Backoff()
        name = runner.module.name
        jobs: set[asyncio.Task[None]] = set()
        try:
            while not stop.is_set():
                try:
                    await self._declare(runner.module)  # it may have been deleted while we were away
                    async with self._broker.subscribe(name, prefetch=runner.module.concurrency) as deliveries:
                        self.health.green(f"queue {name}")
                        backoff.reset()
                        try:
                            await self._take(deliveries, runner, jobs, stop)
                            await self._drain(jobs, hurry)
                        except asyncio.CancelledError:
                            await self._cancel(jobs)  # before the subscription gives back what they hold
                            raise
                except StorageFull as error:
                    self.health.storage_full(str(error))
                    await wait_for_any(self.health.room, stop)
                except (TransientError, QueueNotDeclared) as error:  # of a queue deleted meanwhile: declared anew
                    self.health.red(f"queue {name}", str(error))
                    await wait_for_any(stop, timeout=backoff.next())
            await self._drain(jobs, hurry)  # where the broker was away when the stop came
        finally:
            await self._cancel(jobs)

    async def _take(
        self,
        deliveries: AsyncIterator[Delivery],
        runner: JobRunner,
        jobs: set[asyncio.Task[None]],
        stop: asyncio.Event,
    ) -> None:
        """Start a job for each delivery, until ``stop``. Raises what the subscription raises."""
        pulling = asyncio.create_task(self._pull(deliveries, runner, jobs))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({pulling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if pulling.done():
                await pulling
                raise TransientError(f"the subscription of queue {runner.module.name} ended by itself")
        finally:
            stopping.cancel()
            pulling.cancel()
            await asyncio.wait({pulling})

    async def _pull(
        self, deliveries: AsyncIterator[Delivery], runner: JobRunner, jobs: set[asyncio.Task[None]]
    ) -> None:
        await self.health.room.wait()
        async for delivery in deliveries:
            self.taken += 1
            job = asyncio.create_task(runner.handle(delivery), name=f"job of {runner.module.name}")
            for group in (jobs, self._jobs):
                group.add(job)
                job.add_done_callback(group.discard)
            job.add_done_callback(_report_bug)
            await self.health.room.wait()

    async def _drain(self, jobs: set[asyncio.Task[None]], hurry: asyncio.Event) -> None:
        """Let running jobs finish, within bounds; stop the rest while the subscription can still take it back."""
        if jobs and not hurry.is_set():
            log.info("draining", extra={"jobs": len(jobs), "seconds": self._drain_timeout})
            hurrying = asyncio.create_task(hurry.wait())
            finishing = asyncio.create_task(_all_done(jobs))
            await asyncio.wait({hurrying, finishing}, timeout=self._drain_timeout, return_when=asyncio.FIRST_COMPLETED)
            hurrying.cancel()
            finishing.cancel()
        if hurry.is_set():
            self._around.hurrying.set()
        await self._cancel(jobs)

    async def _cancel(self, jobs: set[asyncio.Task[None]]) -> None:
        left = list(jobs)
        for job in left:
            job.cancel()
        if left:
            _, unfinished = await asyncio.wait(left, timeout=CANCEL_WITHIN)
            if unfinished:
                log.error("jobs do not end; their deliveries come back later", extra={"jobs": len(unfinished)})


async def _all_done(jobs: set[asyncio.Task[None]]) -> None:
    while jobs:
        await asyncio.wait(set(jobs))


def _report_bug(job: asyncio.Task[None]) -> None:
    """A job runner lets nothing out; if it does all the same, its delivery comes back by its lease."""
    if not job.cancelled() and (error := job.exception()) is not None:
        log.error("job runner failed by a bug", exc_info=error)
