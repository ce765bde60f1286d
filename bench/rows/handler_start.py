"""``handler_start`` and ``handler_start_s3``: what step 1 of a job elsewhere takes where there is nothing to do.

Ours: the whole process ``ion-core handler prepare`` with a ticket, of an event without files or data: interpreter,
imports, settings read, both stores opened, one document read, an empty workspace made where there was none, as for each
job. Stores are the embedded ones, or one S3 server (moto) on this machine for both.

Theirs: the whole process ``python -c "import sqlite3, click"``, the same Python. A short job pays ours twice.

Neither compiles anything, as where it was installed: what the first pair, which is not counted, has compiled is kept,
whatever PYTHONDONTWRITEBYTECODE says here.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.embedded import EVENT_TYPE, embedded
from bench.measure import Benchmark, Pair, Unavailable, at_most
from bench.object_stores import BUCKET, moto_server
from bench.rows.help import milliseconds
from ion_core.contracts.storage import Document, DocumentStore
from ion_core.contracts.ticket import Ticket
from ion_core.events import EVENT_META, Context

CONTEXT = Context(name="bench", event_id="event", correlation_id="flow")


def local() -> Benchmark:
    return Benchmark(name="handler_start", unit="ms", goal=at_most(2.0), open=_open_local, pairs=21)


def s3() -> Benchmark:
    return Benchmark(name="handler_start_s3", unit="ms", goal=at_most(4.0), open=_open_s3, pairs=21)


@asynccontextmanager
async def _open_local(directory: Path) -> AsyncIterator[Pair]:
    async with embedded(directory) as ion:
        await _store(ion.dataplane.documents)
        storage = {
            "blobs": {"provider": "local", "path": str(directory / "blobs")},
            "documents": {"provider": "sqlite", "path": str(directory / "documents.sqlite")},
        }
        yield _pair(directory, storage, plugins=[])


@asynccontextmanager
async def _open_s3(directory: Path) -> AsyncIterator[Pair]:
    try:
        from ion_fsspec_storage import plugin
        from ion_fsspec_storage.documents import open_fsspec_documents
        from ion_fsspec_storage.settings import FsspecDocumentsSettings
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from error

    with moto_server(directory) as options:
        place = {"url": f"s3://{BUCKET}/ion", "options": options}
        async with open_fsspec_documents(FsspecDocumentsSettings.model_validate(place)) as documents:
            await _store(documents)
        storage = {name: {"provider": "fsspec", **place} for name in ("blobs", "documents")}
        registered = {"blobs": plugin.ion_blob_stores(), "documents": plugin.ion_document_stores()}
        plain = {name: it.plain for name, providers in registered.items() for it in providers}
        yield _pair(directory, storage, plugins=["ion-fsspec-storage"], plain=plain)


async def _store(documents: DocumentStore) -> None:
    body = {"id": CONTEXT.event_id, "context": CONTEXT.to_json(), "type": EVENT_TYPE, "data": [], "files": []}
    document = Document(kind=EVENT_META, id=CONTEXT.event_id, correlation_id=CONTEXT.correlation_id, body=body)
    await documents.create(document)


def _pair(directory: Path, storage: Mapping[str, Any], **plugins: Any) -> Pair:
    script = Path(sys.executable).with_name("ion-core")
    if not script.exists():
        raise Unavailable(f"{script.name} is not installed beside {Path(sys.executable).name}")
    modules = {"bench": {"command": ["true"], "subscribes": [EVENT_TYPE]}}
    said = {"version": 1, "state": str(directory), **plugins, "storage": storage, "modules": modules}
    ticket = Ticket(
        event_id=CONTEXT.event_id, correlation_id=CONTEXT.correlation_id, module="bench", attempt=1, token="bench"
    )
    (directory / "settings").write_text(json.dumps(said))
    (directory / "ticket").write_bytes(ticket.encode())
    command = [str(script), "handler", "prepare", "--loglevel", "error"]
    for flag, name in (("config", "settings"), ("ticket", "ticket"), ("result", "result")):
        command += [f"--{flag}", str(directory / name)]
    workspaces = (str(directory / f"workspace-{number}") for number in itertools.count())

    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = str(directory / "compiled")

    async def ours() -> float:
        return await milliseconds([*command, "--basedir", next(workspaces)], environ)

    async def theirs() -> float:
        return await milliseconds([sys.executable, "-c", "import sqlite3, click"], environ)

    return Pair(ours, theirs)
