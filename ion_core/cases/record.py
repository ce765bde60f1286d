"""Recording: what a job was given and what it committed, written as a case."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ion_core.cases.case import FILE
from ion_core.commits import Commit
from ion_core.contracts.storage import BlobInfo
from ion_core.dataplane import DataPlane
from ion_core.errors import UsageError, storage_error
from ion_core.events import Event, Pairs, StoredFile, pairs_to_json
from ion_core.stores import for_each

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_HEAD = """\
# Recorded from event {event_id}: `ion-core module test` gives the module what is in in/ and
# compares what it leaves with expected/.
event: {event_type}
# Outputs are data/<file>, insights/<key> and events/<n>/<key>, n from 0. The first pattern that fits says how one is
# compared: json (the same value, numbers within a tolerance) or any (only that it is there). Without one: bytes.
#   data/*.json: {{by: json, relative: 1e-6}}
compare: {{}}
"""


async def record(event: Event, commit: Commit, target: Path, *, dataplane: DataPlane) -> None:
    """Write the case ``target``, whole or not at all. ``event`` and ``commit`` are of one job.

    Raises UsageError if there is something at ``target``, what the stores raise, and TransientError or StorageFull when
    the disk does not take it.
    """
    await asyncio.to_thread(_check_free, target)
    event, inputs = await dataplane.stored_files(event)
    given = await dataplane.gathered(event)
    making = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        await asyncio.to_thread(_write_texts, making, event, commit)
        if given is not None:
            await asyncio.to_thread(_write_json, making / "in" / "gathered.json", given.told)
            inputs = (*inputs, *given.files)
        await _fetch(inputs, making / "in" / "data", dataplane)
        await _fetch(commit.files, making / "expected" / "data", dataplane)
        await asyncio.to_thread(making.rename, target)
    except OSError as error:
        raise storage_error(str(error.filename or target), error) from error
    finally:
        await asyncio.to_thread(remove, making)


def remove(directory: Path) -> None:
    """Fine if gone. Raises OSError."""
    if directory.is_dir():
        shutil.rmtree(directory)


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise UsageError(f"{target}: is there already. Nothing was written. Name the case with --name.")


def _write_texts(making: Path, event: Event, commit: Commit) -> None:
    making.mkdir(parents=True)
    head = _HEAD.format(event_id=json.dumps(event.context.event_id), event_type=json.dumps(event.type))
    (making / FILE).write_text(head, encoding="utf-8")
    write_pairs(making / "in" / "eventmeta.json", event.data)
    write_expected(making / "expected", commit.insights, commit.events)


def write_expected(directory: Path, insights: Pairs, events: Sequence[Event]) -> None:
    """``insights.json`` and ``events.json`` in ``directory``, each if there are any. Raises OSError."""
    write_pairs(directory / "insights.json", insights)
    shown = [{"type": it.type, "files": list(it.files), "data": pairs_to_json(it.data)} for it in events]
    _write_json(directory / "events.json", shown)


def write_pairs(path: Path, pairs: Pairs) -> None:
    _write_json(path, pairs_to_json(pairs))


def _write_json(path: Path, value: Sequence[Any] | Mapping[str, Any]) -> None:
    """Nothing for an empty one. Indented, so that versions can be compared by people."""
    if value:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


async def _fetch(files: Sequence[StoredFile], data: Path, dataplane: DataPlane) -> None:
    async def fetch(file: StoredFile) -> None:
        target = data / file.name
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        await dataplane.blobs.get(file.key, target, expect=BlobInfo(size=file.size, sha256=file.sha256))
        await asyncio.to_thread(target.chmod, file.mode)

    await for_each(fetch, files)
