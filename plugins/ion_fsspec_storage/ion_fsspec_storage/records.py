"""A document as it is stored: its record, the stamp that orders it, and the markers that lead to it."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ion_core.contracts.storage import Document
from ion_core.errors import DocumentsDamaged
from ion_fsspec_storage.names import name_of_id

_DAY = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEX = frozenset("0123456789abcdef")


class Clock:
    """Gives stamps: nanoseconds since 1970 in hexadecimal, and something random so that no two are alike.

    Stamps of one process always grow; between hosts their order is that of their clocks.
    """

    def __init__(self, now: Callable[[], int] = time.time_ns) -> None:
        self._now = now
        self._last = 0
        self._lock = threading.Lock()

    def stamp(self) -> str:
        with self._lock:
            self._last = max(self._last + 1, self._now())
            return f"{self._last:016x}{secrets.token_hex(4)}"

    @staticmethod
    def read(stamp: str) -> datetime:
        """The moment that it stands for, to the microsecond."""
        return _EPOCH + timedelta(microseconds=int(stamp[:16], 16) // 1000)

    def is_old(self, stamp: str) -> bool:
        """More than a day: whoever made it has either finished or died."""
        return self._now() - int(stamp[:16], 16) > _DAY * 1_000_000_000


@dataclass(frozen=True)
class Record:
    document: Document
    stamp: str

    @staticmethod
    def name_of(kind: str, id: str) -> str:
        return f"documents/{name_of_id(kind)}/{name_of_id(id)}"

    @property
    def name(self) -> str:
        return self.name_of(self.document.kind, self.document.id)

    def markers(self) -> list[str]:
        """The paths of those that must be there."""
        flow = f"{flow_prefix(self.document.correlation_id)}/{self._marker()}"
        return [flow, self.pending_marker()] if self.document.pending else [flow]

    def pending_marker(self) -> str:
        return f"pending/{self._marker()}"

    def _marker(self) -> str:
        return f"{self.stamp}.{name_of_id(self.document.kind)}.{name_of_id(self.document.id)}"

    def told(self, *, pending: bool) -> Document:
        """The document as readers have it; ``pending`` is what its marker says."""
        return replace(self.document, pending=pending, cursor=self.stamp, stored_at=Clock.read(self.stamp))

    def begins(self, id: str | None, correlation_id: str | None) -> bool:
        document = self.document
        return document.id.startswith(id or "") and document.correlation_id.startswith(correlation_id or "")

    def encoded(self) -> bytes:
        document = self.document
        value = {
            "kind": document.kind,
            "id": document.id,
            "correlationId": document.correlation_id,
            "pending": document.pending,
            "stamp": self.stamp,
            "body": document.body,
        }
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")

    @classmethod
    def decoded(cls, raw: bytes, where: str) -> Record:
        """Raises DocumentsDamaged for what is no record of ours."""
        try:
            value: Any = json.loads(raw.decode("utf-8", "surrogatepass"))
            document = Document(
                kind=value["kind"],
                id=value["id"],
                correlation_id=value["correlationId"],
                body=value["body"],
                pending=value["pending"],
            )
            if not isinstance(document.body, dict):
                raise TypeError(type(document.body))
            return cls(document, value["stamp"])
        except (ValueError, KeyError, TypeError) as error:
            raise DocumentsDamaged(f"{where}: is damaged, it is no document. Restore it, or remove it.") from error


@dataclass(frozen=True)
class Marker:
    path: str
    name: str
    stamp: str
    kind: str
    id: str
    """Of the document, as it is in names."""
    record: str

    @classmethod
    def parse(cls, path: str) -> Marker | None:
        """None for what is none of ours."""
        name = path.rpartition("/")[2]
        stamp, _, rest = name.partition(".")
        kind, _, id = rest.partition(".")
        if not is_stamp(stamp) or not kind or not id:
            return None
        return cls(path, name, stamp, kind, id, f"documents/{kind}/{id}")

    @property
    def flow(self) -> str:
        """Its correlation id as it is in names, of one below ``flows``."""
        return self.path.split("/")[-2]


def is_stamp(text: str) -> bool:
    return len(text) == 24 and set(text) <= _HEX


def flow_prefix(correlation_id: str | None) -> str:
    return "flows" if correlation_id is None else f"flows/{name_of_id(correlation_id)}"


def same_body(one: Document, other: Document) -> bool:
    """As JSON: 1, 1.0 and true are three values."""
    return _canonical(one) == _canonical(other)


def _canonical(document: Document) -> str:
    return json.dumps(document.body, sort_keys=True)
