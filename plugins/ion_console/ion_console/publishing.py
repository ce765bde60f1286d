"""Events that are published by HTTP: JSON, or a form with that and files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import multipart
from aiohttp import web

from ion_console.answers import BROKEN, JSON
from ion_console.settings import ConsoleSettings
from ion_core import strict_json
from ion_core.contracts.service import ServiceHost
from ion_core.contracts.storage import BlobInfo
from ion_core.errors import IdTaken, InvalidEvent, MessageRefused, StorageFull, TransientError, Unroutable
from ion_core.events import Event, parse_pairs
from ion_core.listening.arriving import Arrivals
from ion_core.listening.bodies import Body, check_framing
from ion_core.listening.forms import read_form
from ion_core.listening.refusals import Refused, later, of_nobody
from ion_core.words import counted

log = logging.getLogger(__name__)

FORM = "multipart/form-data"
EVENT, FILES = "event", "files"
"""Fields of a form: the event as JSON, and what is said of the files, behind them."""
_TEXTS = ("type", "id", "name")


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What a request brings. ``files`` by the names that modules will see, ``told`` what they hold."""

    type: str
    id: str | None
    name: str | None
    data: Sequence[tuple[str, str]]
    files: Mapping[str, Path] = field(default_factory=dict)
    told: Mapping[str, BlobInfo] = field(default_factory=dict)


class Publishing:
    """By the limits of the settings."""

    def __init__(self, host: ServiceHost, settings: ConsoleSettings) -> None:
        self._host = host
        self._settings = settings
        self._most = max(1, settings.max_requests // 2)
        self._under_way = 0

    async def publish(self, request: web.BaseRequest) -> Event:
        """Nothing is left in the work directory. Raises Refused, Gone, and IonError where it fails here."""
        check_framing(request)
        if self._under_way >= self._most:  # large files take long: the other half is for those who look
            raise later(HTTPStatus.SERVICE_UNAVAILABLE, "There are too many events on their way in at this moment.")
        self._under_way += 1
        try:
            return await self._read_and_publish(request)
        finally:
            self._under_way -= 1

    async def _read_and_publish(self, request: web.BaseRequest) -> Event:
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the body as it is, not compressed.")
        kind, options = multipart.parse_options_header(request.headers.get("Content-Type", ""))
        async with Arrivals(self._host.work) as into:
            with _told_as_such():
                if kind == JSON:
                    body = Body(request, limit=self._settings.max_json, what="JSON", broken=BROKEN)
                    brought = self._event(await body.read())
                elif kind == FORM:
                    brought = await self._form(request, options.get("boundary", ""), into)
                else:
                    raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Send {JSON}, or {FORM} with files.")
                return await self._publish(brought, _trace(request))

    async def _form(self, request: web.BaseRequest, boundary: str, into: Arrivals) -> Brought:
        if not boundary or not boundary.isascii():
            raise Refused(HTTPStatus.BAD_REQUEST, "The header Content-Type has no boundary, or none in ASCII.")
        settings = self._settings
        form = await read_form(
            Body(request, limit=settings.max_body, what="one request", broken=BROKEN),
            boundary,
            multipart,
            into=into,
            max_files=settings.max_files,
            max_pairs=2,
            max_field=settings.max_json,
        )
        problems = [*form.problems]
        fields = dict(form.pairs)
        problems += [f"{name[:80]}: is no field here" for name, _ in form.pairs if name not in (EVENT, FILES)]
        if len(fields) != len(form.pairs) or EVENT not in fields:
            problems.append(f"{EVENT}: must be there, and each field once")
        if problems:
            raise InvalidEvent(problems)
        if FILES in fields:
            said = strict_json.loads(fields[FILES].encode(), what=FILES, limit=settings.max_json)
            await asyncio.to_thread(_check_files, said, form.files, form.told)
        return self._event(fields[EVENT].encode(), form.files, form.told)

    def _event(
        self, raw: bytes, files: Mapping[str, Path] | None = None, told: Mapping[str, BlobInfo] | None = None
    ) -> Brought:
        """Raises InvalidEvent with all that is wrong."""
        value = strict_json.loads(raw, what=EVENT, limit=self._settings.max_json)
        if not isinstance(value, dict):
            raise InvalidEvent(f"{EVENT}: must be an object with type, and id, name and data where wanted")
        problems = [f"{EVENT}.{name[:80]}: is not known here" for name in value if name not in (*_TEXTS, "data")]
        problems += [f"{EVENT}.{it}: must be text" for it in _TEXTS if not isinstance(value.get(it, ""), str)]
        if "type" not in value:
            problems.append(f"{EVENT}.type: is missing")
        data = _pairs(value.get("data", []), problems)
        if len(data) > self._settings.max_pairs:
            problems.append(
                f"{EVENT}.data: has {counted(len(data), 'pair')}, {self._settings.max_pairs:,} are allowed. Pass large "
                "data as files."
            )
        if problems:
            raise InvalidEvent(problems)
        return Brought(
            type=value["type"],
            id=value.get("id"),
            name=value.get("name"),
            data=data,
            files=files or {},
            told=told or {},
        )

    async def _publish(self, it: Brought, traceparent: str) -> Event:
        try:
            return await self._host.publish(
                it.type,
                data=it.data,
                files=it.files,
                event_id=it.id,
                name=it.name,
                traceparent=traceparent,
                consume=True,
                told=it.told,
            )
        except Unroutable as error:
            raise of_nobody(it.type, self._host.event_types()) from error


def _pairs(given: Any, problems: list[str]) -> Sequence[tuple[str, str]]:
    """A list of pairs, or an object of texts."""
    if not isinstance(given, dict):
        return parse_pairs(given, what=f"{EVENT}.data", problems=problems)
    problems += [f"{EVENT}.data.{key[:80]}: must be text" for key, it in given.items() if not isinstance(it, str)]
    return [*given.items()]


def _check_files(said: Any, files: Mapping[str, Path], told: Mapping[str, BlobInfo]) -> None:
    """What whoever sent them says that they are; one that is executable is made so. Raises InvalidEvent, Refused."""
    if not isinstance(said, dict) or not all(isinstance(it, dict) for it in said.values()):
        raise InvalidEvent(f"{FILES}: must be an object of objects, by the names of files")
    problems = [f"{FILES}.{name[:80]}: there is no such file" for name in said if name not in files]
    for name in said.keys() & files.keys():
        about = said[name]
        problems += [f"{FILES}.{name[:80]}.{key[:80]}: is not known here" for key in about.keys() - {*_ABOUT}]
        if "sha256" in about and about["sha256"] != told[name].sha256:
            problems.append(f"{FILES}.{name[:80]}.sha256: is {told[name].sha256} of what came. Send it again.")
        if not isinstance(about.get("executable", False), bool):
            problems.append(f"{FILES}.{name[:80]}.executable: must be true or false")
        elif about.get("executable"):
            files[name].chmod(0o700)
    if problems:
        raise InvalidEvent(problems)


_ABOUT = ("sha256", "executable")


@contextmanager
def _told_as_such() -> Iterator[None]:
    """What the core finds wrong with an event, as an answer."""
    try:
        yield
    except IdTaken as error:
        raise Refused(
            HTTPStatus.CONFLICT,
            "The id is that of another event. Use a new one, or send what was sent before.",
            problems=error.differs,
            error="IdTaken",
        ) from error
    except InvalidEvent as error:
        raise Refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "The event is not as it must be.",
            problems=error.problems,
            error="InvalidEvent",
        ) from error
    except MessageRefused as error:
        log.warning("the broker takes no such message: %s", error)
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "The broker takes no event like this. Send large data as files.",
            error="MessageRefused",
        ) from error
    except TransientError as error:
        log.warning("an event is to come again: %s", error)
        raise later(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "What is needed for it is away. Whether the event was taken is unknown: with the same id it may be sent "
            "again.",
            error="StorageFull" if isinstance(error, StorageFull) else "",
        ) from error


def _trace(request: web.BaseRequest) -> str:
    """The trace that the request is part of, '' for none. Of several none, as W3C Trace Context says."""
    said = request.headers.getall("traceparent", [])
    return said[0] if len(said) == 1 else ""
