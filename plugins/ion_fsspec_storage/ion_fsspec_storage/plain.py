"""Stores in object stores from plain values, for steps that are started for each job: no model is imported.

What is read here was taken by the models in ``settings.py`` when it was written, and the stores were open with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

from ion_core.contracts.provider import Location, Reach, Section
from ion_fsspec_storage.protocols import OBJECT_STORES

Opening = tuple[Any, Callable[[Any], AbstractAsyncContextManager[Any]]]


@dataclass(frozen=True, kw_only=True)
class PlainPlace:
    """As ``settings.Place``."""

    section: Section
    url: str
    options: dict[str, Any] = field(default_factory=dict)
    driver: str = "auto"
    parallel: int = 32
    sign_for: timedelta = timedelta(hours=1)

    @property
    def at_once(self) -> int:
        return self.parallel

    @property
    def protocol(self) -> str:
        return self.url.partition("://")[0]

    def location(self) -> Location:
        return Location(where=self.url, reach=Reach.NETWORK)


_TYPES = {"url": str, "options": dict, "driver": str, "parallel": int}


def blobs(section: Section, values: Mapping[str, Any]) -> Opening | None:
    """The blob store, where it is in an object store. See ``ion_core.contracts.provider.PlainOpening``."""
    rest = dict(values)
    seconds = str(rest.pop("sign_for", "3600s"))
    if not seconds.endswith("s") or not seconds[:-1].replace(".", "", 1).isdecimal():
        return None  # as people write it, and not as it is derived
    place = _place(section, rest, sign_for=timedelta(seconds=float(seconds[:-1])))
    return None if place is None else (place, _open_blobs)


def documents(section: Section, values: Mapping[str, Any]) -> Opening | None:
    """The document store, likewise."""
    place = _place(section, values)
    return None if place is None else (place, _open_documents)


def _place(section: Section, values: Mapping[str, Any], **more: Any) -> PlainPlace | None:
    if "url" not in values or not all(isinstance(it, _TYPES.get(key, ())) for key, it in values.items()):
        return None
    place = PlainPlace(section=section, **more, **{**values, "url": values["url"].rstrip("/")})
    return place if place.protocol in OBJECT_STORES else None


def _open_blobs(place: PlainPlace) -> AbstractAsyncContextManager[Any]:
    from ion_fsspec_storage.blobs import open_fsspec_blobs

    return open_fsspec_blobs(cast(Any, place), tried=True)


def _open_documents(place: PlainPlace) -> AbstractAsyncContextManager[Any]:
    from ion_fsspec_storage.documents import open_fsspec_documents

    return open_fsspec_documents(cast(Any, place), tried=True)
