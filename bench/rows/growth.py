"""``growth``: what history costs. The time of an event where 100,000 were stored before, against 1,000.

Both sides: an event with one small file, embedded providers, one module that runs ``true``, from ``Intake.publish`` to
the acknowledgement, as in ``embedded_event``. What differs is what lies in the state directory already:

Ours: 100,000 events, each with its document, commit record and log; 10,000 waiting in another queue; 10,000 blobs.
Theirs: 1,000 events likewise, 100 waiting, 100 blobs.

History is written through the contracts, in the shapes a dispatcher leaves, outside the timing.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.embedded import EVENT_TYPE, Ion, at_rest, embedded, module, process_runtime
from bench.measure import Benchmark, Pair, Side, at_most
from ion_core.commits import Commit
from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.storage import Document
from ion_core.events import COMMIT, EVENT_META, MODULE_LOGS, Context, Event, event_meta
from ion_core.jobs import Job
from ion_core.stores import for_each

OTHER_TYPE = "bench.other"
FLOW = 10
"""Events of one flow; one of them has a file, and one waits in the other queue."""
TIME = "2024-01-01T00:00:00.000+00:00"


def benchmark(many: int = 100_000, few: int = 1_000) -> Benchmark:
    return Benchmark(name="growth", unit="ms", goal=at_most(1.1), open=partial(_open, many, few), pairs=101)


@asynccontextmanager
async def _open(many: int, few: int, directory: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_with_history(many, directory / "many"))
        theirs = await stack.enter_async_context(_with_history(few, directory / "few"))
        await asyncio.to_thread(os.sync)
        yield Pair(ours, theirs)


@asynccontextmanager
async def _with_history(events: int, directory: Path) -> AsyncIterator[Side]:
    file = await asyncio.to_thread(_make_input, directory)
    modules = [module(directory)]
    async with embedded(directory) as ion, process_runtime(directory) as runtime:
        intake = await ion.intake(modules)
        await ion.broker.declare("other", topics=[OTHER_TYPE], retry=RetryPolicy())
        await for_each(partial(_store_flow, ion, file), range(events // FLOW))
        async with ion.serving(modules, runtime) as dispatcher:

            async def event() -> float:
                begun = time.perf_counter()
                published = await intake.publish(EVENT_TYPE, name="bench", files={"input": file})
                await ion.finished.job_of(published.context.event_id)
                taken = time.perf_counter() - begun
                await at_rest(dispatcher)
                return 1000 * taken

            yield event


def _make_input(directory: Path) -> Path:
    directory.mkdir()
    file = directory / "input"
    file.write_bytes(b"x" * 1000)
    return file


async def _store_flow(ion: Ion, file: Path, number: int) -> None:
    """One flow as it is when it is over: an event with a file that waits elsewhere too, and others that came of it."""
    correlation_id = str(uuid.UUID(int=number))
    events = [
        Event(
            context=Context(name="bench", event_id=f"{correlation_id}-{n}", correlation_id=correlation_id),
            type=OTHER_TYPE if n == 0 else EVENT_TYPE,
            data=(("number", str(n)),),
        )
        for n in range(FLOW)
    ]
    await ion.dataplane.accept(events[0], {"input": file})
    documents = [document for event in events for document in _documents(event)]
    await asyncio.gather(*(ion.documents.put(document) for document in documents))


def old_flow(number: int) -> list[Document]:
    """The documents of a flow of one event, over; ids begin with the number in eight hexadecimal digits."""
    id = f"{number:08x}-0000-4000-8000-000000000000"
    event = Event(context=Context(name="bench", event_id=id, correlation_id=id), type=EVENT_TYPE, data=(("n", "1"),))
    *others, meta = _documents(event)
    return [meta, *(replace(document, pending=False) for document in others)]


def _documents(event: Event) -> list[Document]:
    where = event.context
    job = Job(event=event, module="noop")
    commit = Commit(
        job_id=job.id,
        context=replace(where, name=job.module, document_type=COMMIT),
        attempt=1,
        token="0123456789ab",
        image=None,
        started_at=TIME,
        committed_at=TIME,
    )
    log = {
        "id": f"module:{job.module}-event:{where.event_id}-attempt:1-0123456789ab",
        "context": replace(where, name=job.module, document_type=MODULE_LOGS).to_json(),
        "desc": "attempt 1: committed",
        "logs": "Preparer logs\nevent\n0 files and 1 pairs prepared\n\nWorker logs\n\nCommitter logs\n0 files\n",
        "succeeded": True,
        "attempt": 1,
        "token": commit.token,
        "finishedAt": TIME,
    }
    found = [
        commit.to_document(),
        Document(kind=MODULE_LOGS, id=str(log["id"]), correlation_id=where.correlation_id, body=log),
    ]
    if event.type == EVENT_TYPE:
        meta = event_meta(event, ())
        found.append(Document(kind=EVENT_META, id=where.event_id, correlation_id=where.correlation_id, body=meta))
    return found
