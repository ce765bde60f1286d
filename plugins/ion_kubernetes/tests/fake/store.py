"""What the fake API server holds: objects with their versions, and what has changed, for those who watch."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from plugins.ion_kubernetes.tests.fake.statuses import already_exists, conflict, not_found

Json = dict[str, Any]
Key = tuple[str, str, str]
"""Resource (``pods``, ``jobs.batch``), namespace and name."""


def now(later: float = 0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    version: int
    kind: str
    """ADDED, MODIFIED or DELETED."""
    resource: str
    before: Json | None
    object: Json


@dataclass
class Store:
    """Every change has a version of its own, larger than all before it, as in etcd."""

    version: int = 1000
    oldest: int = 0
    """Changes before this version are forgotten: who asks for them is told ``Expired``."""
    objects: dict[Key, Json] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    _told: asyncio.Event = field(default_factory=asyncio.Event)
    _told_of: dict[str, asyncio.Event] = field(default_factory=dict)

    def get(self, key: Key) -> Json:
        """A copy. Raises Refused."""
        if key not in self.objects:
            raise not_found(key[0], key[2])
        return copy.deepcopy(self.objects[key])

    def listed(self, resource: str, namespace: str | None) -> Iterator[Json]:
        for (kind, place, _), found in sorted(self.objects.items(), key=lambda item: item[0]):
            if kind == resource and namespace in (None, place):
                yield copy.deepcopy(found)

    def made(self, key: Key, object: Json, *, dry_run: bool) -> Json:
        """The object with what the server adds to it, stored unless ``dry_run``."""
        if (there := self.objects.get(key)) is not None:
            raise already_exists(key[0], key[2], terminating="deletionTimestamp" in there["metadata"])
        made = copy.deepcopy(object)
        made["metadata"] |= {"namespace": key[1], "uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        return made if dry_run else self._put("ADDED", key, made)

    def changed(self, key: Key, object: Json) -> Json:
        """Replaces what is stored. A change of its spec is a generation; one of nothing is no change."""
        before = self.get(key)
        after = copy.deepcopy(object)
        if _without_version(before) == _without_version(after):
            return before
        after["metadata"]["generation"] = before["metadata"]["generation"] + (after.get("spec") != before.get("spec"))
        return self._put("MODIFIED", key, after)

    def gone(self, key: Key) -> Json:
        """Removes it; what watches are told is its last state, with the version of its removal."""
        last = self.get(key)
        self._note("DELETED", key, last)
        del self.objects[key]
        return last

    def check_uid(self, key: Key, wanted: str | None) -> None:
        """Raises Refused (409) where another object of that name is there."""
        has = self.get(key)["metadata"]["uid"]
        if wanted is not None and wanted != has:
            why = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {has}"
            raise conflict(key[0], key[2], why)

    def forget(self) -> None:
        """From now on every version up to the present one is too old, as after a restart or a compaction."""
        self.version += 1
        self.oldest = self.version
        self.changes.clear()

    def _put(self, kind: str, key: Key, object: Json) -> Json:
        self._note(kind, key, object)
        self.objects[key] = object
        return copy.deepcopy(object)

    def _note(self, kind: str, key: Key, object: Json) -> None:
        self.version += 1
        object["metadata"]["resourceVersion"] = str(self.version)
        before = copy.deepcopy(self.objects.get(key))
        self.changes.append(Change(self.version, kind, key[0], before, copy.deepcopy(object)))
        self.tell(object["metadata"]["uid"])

    def tell(self, uid: str | None = None) -> None:
        """Wakes all who wait for a change, or for one of that object."""
        self._told.set()
        self._told = asyncio.Event()
        if uid is not None and (told := self._told_of.pop(uid, None)):
            told.set()

    async def change(self, uid: str | None = None) -> None:
        """Until something was told after this call: of that object, where one is named."""
        told = self._told if uid is None else self._told_of.setdefault(uid, asyncio.Event())
        await told.wait()


def _without_version(object: Json) -> Json:
    meta = {key: value for key, value in object["metadata"].items() if key != "resourceVersion"}
    return {**object, "metadata": meta}
