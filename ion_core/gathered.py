"""What one job of a gatherer is given: which events, by their commits, and what is missing. Facts, no I/O."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ion_core.events import GATHERED_TYPE, Event, StoredFile, pairs_to_json
from ion_core.jobs import ION

_IDS = uuid.uuid5(ION, "gathering")


def gathered_type(module: str) -> str:
    """The type of the events that start the gatherer of this name."""
    return f"{GATHERED_TYPE}{module}"


def gathering_id(scope: str, module: str) -> str:
    """The id of what a gatherer has to do with a scope: the same whoever works it out, whenever."""
    return str(uuid.uuid5(_IDS, json.dumps([scope, module])))


def gathered_id(scope: str, module: str, key: str | None) -> str:
    """The id of the event that starts the gatherer for a scope, and for a value of its ``by``."""
    return str(uuid.uuid5(_IDS, json.dumps([scope, module, key])))


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A job beneath the scope that was given up, and why."""

    event_id: str
    type: str
    module: str
    reason: str

    def to_json(self) -> dict[str, str]:
        return {"eventId": self.event_id, "type": self.type, "module": self.module, "reason": self.reason}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Missing:
        return cls(event_id=value["eventId"], type=value["type"], module=value["module"], reason=value["reason"])


Made = tuple[tuple[str, tuple[str, ...]], ...]
"""Job ids, and of the events that the commit of each made those that are meant: in the order of the tree."""


def runs(events: Iterable[tuple[str, str]]) -> Made:
    """Job id and event id of each, as ``Made``: those of one commit that follow each other stand together."""
    found: list[tuple[str, list[str]]] = []
    for job, event in events:
        if not found or found[-1][0] != job:
            found.append((job, []))
        found[-1][1].append(event)
    return tuple((job, tuple(ids)) for job, ids in found)


@dataclass(frozen=True, kw_only=True)
class Share:
    """The events of a gatherer's job, and its key: None without ``by``, and of events that do not have that pair."""

    key: str | None
    made: Made

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "made": [{"job": job, "events": list(ids)} for job, ids in self.made]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Share:
        return cls(key=value["key"], made=tuple((it["job"], tuple(it["events"])) for it in value["made"]))


@dataclass(frozen=True, kw_only=True)
class Given:
    """What stands in the document of an event that starts a gatherer."""

    scope: str
    scope_type: str
    by: str | None
    share: Share
    missing: tuple[Missing, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "scope": {"eventId": self.scope, "type": self.scope_type},
            "by": self.by,
            **self.share.to_json(),
            "missing": [it.to_json() for it in self.missing],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Given:
        return cls(
            scope=value["scope"]["eventId"],
            scope_type=value["scope"]["type"],
            by=value["by"],
            share=Share.from_json(value),
            missing=tuple(Missing.from_json(it) for it in value["missing"]),
        )


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a job of a gatherer finds in ``in/``: ``files`` under their names there, ``told`` in ``gathered.json``."""

    files: tuple[StoredFile, ...]
    told: Mapping[str, Any]

    @classmethod
    def of(cls, given: Given, events: Sequence[tuple[Event, Sequence[StoredFile]]]) -> Inputs:
        """``events`` are those that are meant, in order, with their files. Each has a directory of its own."""
        width = max(4, len(str(len(events))))
        files: list[StoredFile] = []
        told = []
        for n, (event, stored) in enumerate(events, 1):
            directory = f"{n:0{width}}"
            here = [replace(file, name=f"{directory}/{file.name}") for file in stored]
            files += here
            told.append(
                {
                    "directory": directory,
                    "eventId": event.context.event_id,
                    "type": event.type,
                    "name": event.context.name,
                    "data": pairs_to_json(event.data),
                    "files": [file.name for file in here],
                }
            )
        return cls(
            files=tuple(files),
            told={
                "scope": {"eventId": given.scope, "type": given.scope_type},
                "by": None if given.by is None else {"key": given.by, "value": given.share.key},
                "events": told,
                "missing": [it.to_json() for it in given.missing],
            },
        )
