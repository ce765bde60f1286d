"""``listing``: what it costs to find the flows that failed.

Ours: the whole process ``ion-core trace list --failed``, in a state directory with 1,000 flows, of which 50 failed.
Theirs: the whole process ``ion-core trace list``, in the same.

Each flow has two events, two jobs, and a log of each; both commands print at most 20 flows. What lies there is written
through the contracts, in the shapes a dispatcher leaves, outside the timing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.measure import Benchmark, Pair, Unavailable, at_most
from bench.rows.help import milliseconds
from ion_core.app import App
from ion_core.commits import Commit, child_event
from ion_core.config import load_config
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.dispatcher.attempt_log import AttemptLog
from ion_core.events import COMMIT, EVENT_META, Context, Event, event_meta
from ion_core.jobs import Attempt, Job, Outcome, Verdict

EVERY = 20
"""Of so many flows one failed."""
TIME = "2024-01-01T00:00:00.000+00:00"
MODULES = """\
modules:
  make: {command: [sh, -c, "true"], source: ., subscribes: [bench.asked], publishes: [bench.made]}
  take: {command: [sh, -c, "true"], source: ., subscribes: [bench.made]}
"""


def benchmark(flows: int = 1_000) -> Benchmark:
    return Benchmark(name="listing", unit="ms", goal=at_most(1.2), open=partial(_open, flows), pairs=21)


@asynccontextmanager
async def _open(flows: int, directory: Path) -> AsyncIterator[Pair]:
    script = Path(sys.executable).with_name("ion-core")
    if not script.exists():
        raise Unavailable(f"{script.name} is not installed beside {Path(sys.executable).name}")
    file = await asyncio.to_thread(_configuration, directory)
    async with App.open(load_config(file)) as app:
        documents = await app.documents()
        for number in range(flows):
            await stored_flow(documents, number)
    command = [str(script), "trace", "list", "--config", str(file)]
    yield Pair(lambda: milliseconds([*command, "--failed"]), lambda: milliseconds(command))


def _configuration(directory: Path) -> Path:
    file = directory / "ion.yaml"
    file.write_text(MODULES, encoding="utf-8")
    return file


async def stored_flow(documents: DocumentStore, number: int) -> None:
    """The flow of that number, as it is when it is over; the first of each ``EVERY`` was given up."""
    for document in _flow(number):
        await documents.put(document)


def fan(count: int) -> list[Document]:
    """A flow, ``flow-fan``, whose first job made so many events; of each a job has committed."""
    asked = Event(
        context=Context(name="bench", event_id="asked-fan", correlation_id="flow-fan"), type="bench.asked", data=()
    )
    first = Attempt(job=Job(event=asked, module="make"), number=1)
    made = [
        child_event(first, f"{n}.json", event_type="bench.made", data=(("n", str(n)),), files=()) for n in range(count)
    ]
    body = event_meta(asked, ())
    found = [Document(kind=EVENT_META, id="asked-fan", correlation_id="flow-fan", body=body), *_done(first, *made)]
    for it in made:
        found += _done(Attempt(job=Job(event=it, module="take"), number=1))
    return found


def _flow(number: int) -> list[Document]:
    asked = Event(
        context=Context(name="bench", event_id=f"asked-{number}", correlation_id=f"flow-{number}"),
        type="bench.asked",
        data=(("number", str(number)),),
    )
    first = Attempt(job=Job(event=asked, module="make"), number=1)
    made = child_event(first, "0.json", event_type="bench.made", data=(("n", "1"),), files=())
    second = Attempt(job=Job(event=made, module="take"), number=1)
    flow = asked.context.correlation_id
    meta = event_meta(asked, ())
    found = [Document(kind=EVENT_META, id=asked.context.event_id, correlation_id=flow, body=meta), *_done(first, made)]
    if number % EVERY:
        return found + _done(second)
    given_up = Outcome(verdict=Verdict.DEAD_LETTERED, reason="exit code 3")
    return [*found, AttemptLog(second).failure(given_up), _log(second, given_up)]


def _done(attempt: Attempt, *events: Event) -> list[Document]:
    context = replace(attempt.job.event.context, name=attempt.job.module, document_type=COMMIT)
    commit = Commit(
        job_id=attempt.job.id,
        context=context,
        attempt=1,
        token=attempt.token,
        image=None,
        started_at=TIME,
        committed_at=TIME,
        events=events,
    )
    record = replace(commit.to_document(), pending=False)
    return [record, *commit.documents(), _log(attempt, Outcome(verdict=Verdict.COMMITTED))]


def _log(attempt: Attempt, outcome: Outcome) -> Document:
    log = AttemptLog(attempt)
    log.worker += [f"line {n} of what the module printed" for n in range(20)]
    return log.document(outcome)
