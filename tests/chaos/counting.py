"""What is in the stores in the end, counted: every promise about it, as lines that say what was broken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.pipeline import DIES, PARTS, TAKES
from tests.support.object_stores import ObjectStore, client

Json = Mapping[str, Any]
Job = tuple[str, str]
"""An event's id and the name of a module."""


@dataclass(frozen=True)
class Stored:
    """``documents`` by kind, ids of those that are ``owing``, ``keys`` of all blobs, ``dead`` letters, and how many
    messages are ``waiting`` in all queues.
    """

    documents: Mapping[str, Sequence[Json]]
    owing: Sequence[str]
    keys: frozenset[str]
    dead: Sequence[Json]
    waiting: int

    def commits(self) -> Counter[Job]:
        return Counter(_job(it) for it in self.documents.get("commit", ()))

    def letters(self) -> Counter[Job]:
        return Counter((it["eventId"], it["module"]) for it in self.dead)


@dataclass
class Counted:
    """``broken`` has a line for each promise that does not hold, with what it does not hold for."""

    events: int = 0
    jobs: int = 0
    commits: int = 0
    dead: int = 0
    lost: int = 0
    double: int = 0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.events} events, {self.jobs} jobs: {self.commits} committed, {self.dead} dead letters; "
            f"{self.lost} lost, {self.double} double"
        )


def count(stored: Stored, accepted: Sequence[str]) -> Counted:
    """I1 to I4. ``accepted`` are ids of the events that were taken in from outside."""
    metas = {it["context"]["eventId"]: it for it in stored.documents.get("eventMeta", ())}
    commits, letters = stored.commits(), stored.letters()
    wanted = {(id, module) for id, meta in metas.items() for module in TAKES.get(meta["type"], ())}
    found = Counted(events=len(metas), jobs=len(wanted), commits=commits.total(), dead=letters.total())
    found.broken += _each_once(wanted, commits, letters, found)
    found.broken += [f"I1: event {id} was accepted, and is not stored" for id in accepted if id not in metas]
    found.broken += _all_of_a_flow(stored, accepted)
    if stored.waiting:
        found.broken.append(f"I1: {stored.waiting} messages wait in queues")
    found.broken += _fences(stored)
    found.broken += [f"I3: {id} still owes something" for id in stored.owing]
    found.broken += _children(stored, metas)
    found.broken += _files(stored, metas)
    return found


def _each_once(wanted: set[Job], commits: Counter[Job], letters: Counter[Job], found: Counted) -> Iterator[str]:
    for job in sorted(wanted | commits.keys() | letters.keys()):
        ends = commits[job] + letters[job]
        if job not in wanted:
            yield f"I1: there is no event for the job {job}"
        elif ends == 0:
            found.lost += 1
            yield f"I1: lost: {job} has neither committed nor died"
        elif ends > 1:
            found.double += 1
            yield f"I2: double: {job} has {commits[job]} commits and {letters[job]} dead letters"
        elif (job[1] == DIES) != (letters[job] == 1):
            yield f"I1: {job} {'has committed' if commits[job] else 'is a dead letter'}"


def _all_of_a_flow(stored: Stored, accepted: Sequence[str]) -> Iterator[str]:
    """That every flow is whole: whatever got lost with all its traces is missing here."""
    flows: dict[str, Counter[str]] = {}
    for it in stored.documents.get("commit", ()):
        flows.setdefault(it["context"]["correlationId"], Counter())[it["context"]["name"]] += 1
    whole = Counter({"split": 1, "join": PARTS, "bind": 1})
    for id in accepted:
        if (there := flows.get(id, Counter())) != whole:
            yield f"I1: the flow of {id} has committed {dict(there)} instead of {dict(whole)}"


def _fences(stored: Stored) -> Iterator[str]:
    """No attempt but that of the record was told that it has committed."""
    tokens = {_job(it): it["token"] for it in stored.documents.get("commit", ())}
    for log in stored.documents.get("modulelogs", ()):
        if log["outcome"] == "committed" and log["token"] != tokens.get(_job(log)):
            yield f"I2: double: attempt {log['attempt']} of {_job(log)} has committed as well"


def _children(stored: Stored, metas: Mapping[str, Json]) -> Iterator[str]:
    for commit in stored.documents.get("commit", ()):
        for event in commit["events"]:
            if metas.get(event["id"], {}).get("type") != event["type"]:
                yield f"I3: {event['type']} {event['id']} of {_job(commit)} is not stored"


def _files(stored: Stored, metas: Mapping[str, Json]) -> Iterator[str]:
    visible = {file["key"] for commit in stored.documents.get("commit", ()) for file in commit["outputs"]}
    visible |= {blob["key"] for meta in metas.values() for blob in meta.get("blobs", ())}
    yield from (f"I4: {key} is of no commit" for key in sorted(stored.keys - visible))
    yield from (f"I4: {key} is missing" for key in sorted(visible - stored.keys))


def _job(document: Json) -> Job:
    return document["context"]["eventId"], document["context"]["name"]


def stored_in(s3: ObjectStore, place: str, dead: Sequence[Json], waiting: int) -> Stored:
    """What lies in the bucket below this prefix, read without Ion."""
    bucket, below = s3.root.removeprefix("s3://"), f"{place}/blobs/"
    with closing(client(s3)) as asked:
        pages = asked.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        names = [it["Key"] for page in pages for it in page.get("Contents", ())]
        found: dict[str, list[Json]] = {}
        stamped: set[str] = set()
        for name in names:
            if name.startswith(f"{place}/documents/"):
                record = json.loads(asked.get_object(Bucket=bucket, Key=name)["Body"].read())
                found.setdefault(record["kind"], []).append(record["body"])
                stamped.add(f"{record['stamp']}.{name.removeprefix(f'{place}/documents/').replace('/', '.')}")
    # a marker counts where the document that it names has its stamp
    marked = {it.removeprefix(f"{place}/pending/") for it in names if it.startswith(f"{place}/pending/")}
    keys = frozenset(it.removeprefix(below) for it in names if it.startswith(below))
    return Stored(documents=found, owing=sorted(marked & stamped), keys=keys, dead=dead, waiting=waiting)
