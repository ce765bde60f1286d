"""Metrics in a registry of their own: counted as things happen, gauged as they are when asked.

Asking costs a look at the queues, whatever was ever stored. Labels are modules, and types that these take or publish:
what else comes is ``other``.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Sums
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ion_console.rates import Rates
from ion_core.contracts.looking import Change, QueueView, SlotsView
from ion_core.contracts.service import ServiceHost
from ion_core.errors import IonError
from ion_core.jobs import Verdict

OTHER = "other"
SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
"""Buckets of durations: from the start of a process to a long computation."""
STEPS = ("prepare", "module", "commit", "all")
VERDICTS = frozenset(it.value for it in Verdict)


class Metrics:
    """Of the process that ``host`` is of."""

    def __init__(self, host: ServiceHost) -> None:
        self._host = host
        self.rates = Rates()
        pipeline = host.pipeline()
        self._limits = {it.name: it.concurrency for it in pipeline.modules}
        self._types = {it.type for it in pipeline.links} | {*host.event_types()}
        self._registry = CollectorRegistry()
        self._now = _Now()
        self._registry.register(self._now)
        job = ("module", "type")
        self._published = Counter("ion_events_published", "Events published.", ["type"], registry=self._registry)
        self._started = Counter("ion_attempts_started", "Attempts begun.", job, registry=self._registry)
        self._finished = Counter(
            "ion_attempts_finished",
            "Attempts ended, by what became of them.",
            [*job, "outcome"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "ion_step_seconds",
            "Seconds of prepare, module and commit of an attempt, and of all of it.",
            ["module", "step"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._missed = Counter(
            "ion_changes_missed", "How often more happened at once than could be counted.", registry=self._registry
        )

    async def count(self, counting: asyncio.Event) -> None:
        """Count what happens, until cancelled; ``counting`` is set once nothing is missed any more."""
        async with self._host.changes() as changes:
            counting.set()
            async for change in changes:
                self._add(change)

    async def text(self) -> bytes:
        """As Prometheus reads it. Without queues where the broker does not tell of them."""
        try:
            queues: Sequence[QueueView] | None = await self._host.queues()
        except IonError:
            queues = None
        self._now.families = [*self._of_queues(queues), *self._of_process()]
        return generate_latest(self._registry)

    def _add(self, change: Change) -> None:
        self.rates.seen += 1
        module = change.module if change.module in self._limits else OTHER
        type = change.type if change.type in self._types else OTHER
        match change.kind:
            case "published":
                self._published.labels(type).inc()
            case "started":
                self._started.labels(module, type).inc()
            case "finished":
                outcome = change.outcome if change.outcome in VERDICTS else OTHER
                self._finished.labels(module, type, outcome).inc()
                if module != OTHER:
                    self.rates.add(change)
                for step in STEPS:
                    if step in change.seconds:
                        self._seconds.labels(module, step).observe(change.seconds[step])
            case "missed":
                self._missed.inc()

    def _of_queues(self, queues: Sequence[QueueView] | None) -> Iterable[GaugeMetricFamily]:
        yield _gauge("ion_queues_known", "Whether the broker tells of its queues.", [], {(): queues is not None})
        ready, delayed, held, dead, age = Sums[str](), Sums[str](), Sums[str](), Sums[str](), dict[str, float]()
        now = datetime.now(UTC)
        for it in queues or ():
            name = it.name if it.name in self._limits else OTHER
            ready[name] += it.stats.ready
            delayed[name] += it.stats.delayed
            dead[name] += it.stats.dead
            if it.stats.unsettled is not None:
                held[name] += it.stats.unsettled
            if it.oldest is not None:
                age[name] = max(age.get(name, 0.0), (now - it.oldest).total_seconds())
        label = ["queue"]
        yield _gauge("ion_queue_ready", "Messages that wait to be delivered.", label, _each(ready))
        yield _gauge("ion_queue_delayed", "Messages that wait for a retry.", label, _each(delayed))
        yield _gauge("ion_queue_unsettled", "Messages that somebody holds.", label, _each(held))
        yield _gauge("ion_dead_letters", "Dead letters.", label, _each(dead))
        yield _gauge("ion_queue_oldest_seconds", "How long the event waits that is next.", label, _each(age))

    def _of_process(self) -> Iterable[Metric]:
        health = self._host.health()
        running = Sums(it.module if it.module in self._limits else OTHER for it in self._host.running())
        yield _gauge("ion_slots", "Jobs that may run at a time here.", ["module"], _each(self._limits))
        all_running = {**dict.fromkeys(self._limits, 0), **running}
        yield _gauge("ion_slots_used", "Modules that run here.", ["module"], _each(all_running))
        yield from self._of_slots()
        outbox = self._host.outbox()
        yield _gauge("ion_outbox_owed", "Commits that owe events for longer than a minute.", [], {(): outbox.owed})
        yield _counter("ion_outbox_published", "Commits whose events were published later.", [], {(): outbox.published})
        yield _gauge("ion_live", "Whether the event loop turns.", [], {(): health.live})
        yield _gauge("ion_ready", "Whether events are taken.", [], {(): health.ready})
        yield _gauge("ion_draining", "Whether the process is ending.", [], {(): health.draining})
        yield _gauge("ion_problems", "Why it is not ready: so many reasons.", [], {(): len(health.problems)})

    def _of_slots(self) -> Iterable[Metric]:
        slots = self._host.slots()
        label = ["module"]
        yield _gauge("ion_slots_warm", "Slots made ahead that wait.", label, {(it.module,): it.ready for it in slots})
        taken = [(it.module, how, n) for it in slots for how, n in _taken(it)]
        yield _counter(
            "ion_slots_taken",
            "Attempts that found a slot ready, were given a module that waited, or waited until one was made.",
            ["module", "how"],
            {(module, how): n for module, how, n in taken},
        )


def _taken(slots: SlotsView) -> Sequence[tuple[str, int]]:
    return (("warm", slots.found), ("reused", slots.reused), ("made", slots.made))


class _Now(Collector):
    """What was gauged last."""

    def __init__(self) -> None:
        self.families: Sequence[Metric] = ()

    def collect(self) -> Iterable[Metric]:
        return self.families


def _gauge(name: str, what: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    found = GaugeMetricFamily(name, what, labels=labels)
    for label, value in values.items():
        found.add_metric(label, float(value))
    return found


def _counter(
    name: str, what: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    found = CounterMetricFamily(name, what, labels=labels)
    for label, value in values.items():
        found.add_metric(label, float(value))
    return found


def _each(values: dict[str, int] | dict[str, float] | Sums[str]) -> dict[tuple[str, ...], float]:
    return {(name,): float(value) for name, value in values.items()}
