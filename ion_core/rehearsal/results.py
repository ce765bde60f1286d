"""What a flow made, copied into a directory for people."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ion_core.commits import Commit
from ion_core.contracts.storage import BlobInfo, BlobStore, DocumentStore
from ion_core.errors import storage_error
from ion_core.events import COMMIT, MODULE_LOGS, StoredFile, pairs_to_json, parse_context
from ion_core.stores import for_each, key_segment


@dataclass(kw_only=True)
class JobResult:
    """What one module made of one event. ``commit`` is None if it came to none.

    ``logs`` are those of its attempts, in the order in which they ended.
    """

    directory: Path
    commit: Commit | None = None
    logs: list[str] = field(default_factory=list)


Jobs = Mapping[tuple[str, str], JobResult]
"""By the event's id and the module's name."""


async def copy_results(correlation_id: str, target: Path, *, blobs: BlobStore, documents: DocumentStore) -> Jobs:
    """Write ``<target>/<module>/<event id>/`` for every job of the flow; ``target`` must not exist yet.

    In it ``data/`` holds the files it committed, ``insights.json`` the pairs (where there are any), ``events.json`` the
    events, and ``log.txt`` the logs of all attempts. Raises what the stores raise; TransientError or StorageFull where
    the directory cannot be written.
    """
    jobs: dict[tuple[str, str], JobResult] = {}
    logs: list[tuple[str, int, JobResult, str]] = []
    async for document in documents.find(correlation_id=correlation_id):
        if document.kind not in (COMMIT, MODULE_LOGS):
            continue
        context = parse_context(document.body, what="document", problems=[])
        place = target / context.name / key_segment(context.event_id)
        job = jobs.setdefault((context.event_id, context.name), JobResult(directory=place))
        if document.kind == COMMIT:
            job.commit = Commit.from_document(document)
        else:
            text = f"== {document.body.get('desc', '')}\n{document.body.get('logs', '')}"
            logs.append((str(document.body.get("finishedAt", "")), len(logs), job, text))
    for _, _, job, text in sorted(logs, key=lambda it: it[:2]):
        job.logs.append(text)
    try:
        await asyncio.to_thread(_make, target)
        for job in jobs.values():
            await asyncio.to_thread(_write, job)
            if job.commit is not None:
                await _fetch(job.commit.files, job.directory / "data", blobs)
    except OSError as error:
        raise storage_error(str(error.filename or target), error) from error
    return jobs


def _make(target: Path) -> None:
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
        ignore = "# Results of `ion-core dev run` do not belong into version control.\n*\n"
        (target.parent / ".gitignore").write_text(ignore, encoding="utf-8")
    target.mkdir()


def _write(job: JobResult) -> None:
    job.directory.mkdir(parents=True)
    (job.directory / "log.txt").write_text("\n".join(job.logs), encoding="utf-8", errors="backslashreplace")
    if job.commit is None:
        return
    if job.commit.insights:
        _write_json(job.directory / "insights.json", pairs_to_json(job.commit.insights))
    if job.commit.events:
        events = [it.to_wire() | {"files": list(it.files)} for it in job.commit.events]
        _write_json(job.directory / "events.json", events)
    for parent in {(job.directory / "data" / file.name).parent for file in job.commit.files}:
        parent.mkdir(parents=True, exist_ok=True)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


async def _fetch(files: tuple[StoredFile, ...], data: Path, blobs: BlobStore) -> None:
    async def fetch(file: StoredFile) -> None:
        await blobs.get(file.key, data / file.name, expect=BlobInfo(size=file.size, sha256=file.sha256))
        if file.executable:
            await asyncio.to_thread((data / file.name).chmod, file.mode)

    await for_each(fetch, files)
