"""A pipeline by its console: the same over HTTP, from anywhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from ion_core.client import views
from ion_core.client.http import Answer, Connections, Request, Server
from ion_core.client.uploading import request_of
from ion_core.contracts.looking import FlowSummary, FlowView
from ion_core.contracts.storage import BlobInfo, Document
from ion_core.errors import (
    BlobCorrupt,
    BlobNotFound,
    ConfigError,
    DocumentNotFound,
    DocumentsDamaged,
    IdTaken,
    InvalidEvent,
    IonError,
    MessageRefused,
    PermanentError,
    StorageFull,
    TransientError,
    Unroutable,
    shortened,
    storage_error,
)
from ion_core.events import MODULE_LOGS, Context
from ion_core.flows import LOOK_FIRST, LOOK_LAST, FileOfFlow
from ion_core.listening.settings import is_loopback

T = TypeVar("T")

ANSWERS_WITHIN = 60.0
"""Seconds for an answer to begin that nothing has to happen for."""
WAITS = 30
"""Seconds for which a console is asked to wait at a time."""
WAITING = 16
"""So many wait there; others look again and again."""
AWAY_FOR = 60.0
"""Seconds for which a console may be away, as while it is restarted, before who waits for a flow is told."""
LOGS = 50
"""So many at a time: each may be long."""
LONGEST_ID = 1024

_TOLD: Mapping[str, type[IonError]] = {
    it.__name__: it for it in (Unroutable, MessageRefused, StorageFull, DocumentNotFound, BlobNotFound)
}


@asynccontextmanager
async def console_at(
    url: str, *, token: str | None, ca_file: str | Path | None, plain_http: bool
) -> AsyncIterator[ByConsole]:
    """The pipeline of that console. Raises ConfigError."""
    server = _server(url, token, plain_http=plain_http)
    if server.where.startswith("https"):
        server = replace(server, tls=await asyncio.to_thread(_trusting, ca_file))
    elif ca_file is not None:
        raise ConfigError(f"ca_file: is for https, and the console is {server.where}.")
    connections = Connections(server)
    try:
        yield ByConsole(connections, server.where)
    finally:
        connections.close()


def _server(url: str, token: str | None, *, plain_http: bool) -> Server:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"url: is none: {error}. Give that of a console, such as https://ion.example:8090.") from None
    if problem := _problem(parts):
        raise ConfigError(f"url: {problem}. Give that of a console, such as https://ion.example:8090.")
    host = parts.hostname or ""
    port = port or (443 if parts.scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    base = parts.path.rstrip("/")
    where = f"{parts.scheme}://{shown}:{port}{base}"
    if token is not None:
        if not re.fullmatch("[!-~]+", token):
            raise ConfigError("token: must be ASCII without blanks, as the console has it.")
        if parts.scheme == "http" and not plain_http and not is_loopback(f"{shown}:{port}"):
            raise ConfigError(
                f"token: would be sent to {where} for everybody on the way to read. Use https, or say "
                "plain_http=True if that network is yours alone."
            )
    headers = () if token is None else (("Authorization", f"Bearer {token}"),)
    return Server(where=where, host=host, port=port, base=base, tls=None, headers=headers)


def _problem(parts: SplitResult) -> str:
    if parts.scheme not in ("http", "https"):
        return "must begin with https:// or http://"
    if not parts.hostname or not parts.netloc.isascii():
        return "must name a host, in ASCII"
    if parts.username is not None or parts.password is not None:
        return "must have no user or password. A token is given as token"
    if parts.query or parts.fragment or not re.fullmatch("[!-~]*", parts.path):
        return "must have no query, fragment or blanks"
    return ""


def _trusting(ca_file: str | Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError(f"ca_file: {ca_file} has no certificates of authorities in PEM.") from error
    except OSError as error:
        raise ConfigError(f"ca_file: {ca_file} cannot be read: {error.strerror}.") from error


class ByConsole:
    """What it publishes is worked on where the console stands, or by others of that pipeline."""

    def __init__(self, connections: Connections, where: str) -> None:
        self._connections = connections
        self._where = where
        self._waiting = asyncio.Semaphore(WAITING)

    async def publish(
        self,
        event_type: str,
        *,
        name: str,
        data: Sequence[tuple[str, str]],
        files: Mapping[str, Path],
        event_id: str | None,
    ) -> Context:
        """With an id in any case: then it may be sent once more, and is the same event."""
        event = {
            "type": event_type,
            "id": str(uuid.uuid4()) if event_id is None else event_id,
            "name": name,
            "data": [{"key": key, "value": value} for key, value in data],
        }
        request = await request_of("/api/events", event, files)
        found = await self._connections.ask(request, self._json)
        return self._understood(
            found,
            lambda it: Context(
                name=name, event_id=it["eventId"], correlation_id=it["correlationId"], parent_event_id=""
            ),
        )

    async def outcome(self, correlation_id: str) -> FlowSummary | None:
        return await self._of_flow(correlation_id, "/outcome", views.summary)

    async def over(self, correlation_id: str, *, within: float | None) -> FlowSummary | None:
        """It is told by the console as it happens, if that has room for who waits."""
        time = asyncio.get_running_loop().time
        until = float("inf") if within is None else time() + within
        pause, seen, patient = LOOK_FIRST, time(), True
        while True:
            left = until - time()
            seconds = int(min(left, WAITS)) if patient and left >= 1 and not self._waiting.locked() else 0
            try:
                found = await self._outcome_within(correlation_id, seconds)
            except _Busy:
                patient = False
            except TransientError:
                if left <= 0 or time() - seen > AWAY_FOR:
                    raise
            else:
                seen, patient = time(), True
                if found is None or found.over or left <= 0:
                    return found
                if seconds:
                    continue
            await asyncio.sleep(min(pause, max(until - time(), 0)))
            pause = min(pause * 2, LOOK_LAST)

    async def _outcome_within(self, correlation_id: str, seconds: int) -> FlowSummary | None:
        if not seconds:
            return await self.outcome(correlation_id)
        return await self._of_flow(
            correlation_id, f"/outcome?within={seconds}", views.summary, more=seconds, room=self._waiting
        )

    async def flow(self, correlation_id: str) -> FlowView | None:
        """Raises DocumentsDamaged for what could not be read of it."""
        found = await self._of_flow(correlation_id, "", views.flow)
        if found is not None and found.damaged:
            raise DocumentsDamaged(found.damaged)
        return found

    async def files(self, correlation_id: str) -> Sequence[FileOfFlow]:
        found = await self._of_flow(correlation_id, "/files", lambda items: [views.file(it) for it in items])
        return found or []

    async def content(self, correlation_id: str) -> _Content:
        return _Content(self, correlation_id)

    async def logs(self, correlation_id: str) -> AsyncIterator[Document]:
        damaged: list[str] = []
        asked = {"kind": MODULE_LOGS, "limit": str(LOGS)}
        while True:
            page = await self._of_flow(correlation_id, f"/documents?{urlencode(asked)}", _page)
            if page is None:
                return
            items, cursor, more = page
            for it in items:
                yield it
            damaged += more
            if cursor is None:
                break
            asked["after"] = cursor
        if damaged:
            raise DocumentsDamaged(damaged)

    def shown(self, text: str) -> str:
        return text

    async def save(self, correlation_id: str, key: str, target: Path, expect: BlobInfo | None) -> None:
        """As ``BlobStore.get``."""

        async def use(answer: Answer) -> None:
            await self._good(answer)
            await _save(answer, key, target, expect)

        path = f"{_path(correlation_id)}/file?{urlencode({'key': key})}"
        await self._connections.ask(Request(target=path, within=ANSWERS_WITHIN), use)

    async def _of_flow(
        self,
        correlation_id: str,
        path: str,
        made: Callable[[Any], T],
        *,
        more: float = 0,
        room: asyncio.Semaphore | None = None,
    ) -> T | None:
        if not 1 <= len(correlation_id) <= LONGEST_ID:
            return None  # no flow is called so
        request = Request(target=f"{_path(correlation_id)}{path}", within=ANSWERS_WITHIN + more)
        try:
            found = await self._connections.ask(request, self._json, room=room)
        except DocumentNotFound:
            return None
        return self._understood(found, made)

    async def _json(self, answer: Answer) -> Any:
        await self._good(answer)
        try:
            return json.loads(await answer.read())
        except (ValueError, RecursionError):
            raise self._no_console("what it says is no JSON") from None

    def _understood(self, found: Any, made: Callable[[Any], T]) -> T:
        try:
            return made(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._no_console("what it says is not understood") from error

    def _no_console(self, what: str) -> PermanentError:
        return PermanentError(f"{self._where}: {what}. Is that the URL of an ion-console, as new as this ion-core?")

    async def _good(self, answer: Answer) -> None:
        """Raises what a refusal means to who asks from Python."""
        if answer.status == 200:
            return
        try:
            said = json.loads(await answer.read())
            detail, error = str(said["detail"]), said.get("error")
            problems = [str(it) for it in said.get("problems", ())]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            detail, error, problems = f"it answers {answer.status}", None, []
        text = f"{self._where}: {detail}"
        if error == IdTaken.__name__:
            raise IdTaken(f"{text} {shortened(problems)}", problems)
        if error == InvalidEvent.__name__ and problems:
            raise InvalidEvent(problems)
        if isinstance(error, str) and error in _TOLD:
            raise _TOLD[error](text)
        if answer.status in (401, 403):
            raise ConfigError(text)
        if answer.status == 429:
            raise _Busy(text)
        if answer.status in (408, 502, 503, 504):
            raise TransientError(text)
        if answer.status in (413, 422, 500):
            raise PermanentError(" ".join([text, *problems]))
        raise self._no_console(detail)


class _Busy(TransientError):
    """It has no room for one more who waits."""


class _Content:
    def __init__(self, console: ByConsole, correlation_id: str) -> None:
        self._console = console
        self._correlation_id = correlation_id

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None) -> None:
        await self._console.save(self._correlation_id, key, target, expect)


async def _save(answer: Answer, key: str, target: Path, expect: BlobInfo | None) -> None:
    """Into a new file, which is whole or gone. Raises BlobCorrupt, Lost, what ``storage_error`` makes."""
    digest, size = hashlib.sha256(), 0
    try:
        file = await asyncio.to_thread(target.open, "xb", buffering=0)
    except FileExistsError:
        raise
    except OSError as error:
        raise storage_error(str(target), error) from error
    try:
        with file:
            async for chunk in answer.chunks():
                await asyncio.to_thread(_write, file, chunk, digest)
                size += len(chunk)
        if expect not in (None, BlobInfo(size=size, sha256=digest.hexdigest())):
            raise BlobCorrupt(f"{key[:200]!r}: what came is not what was stored: size or sha256 differ.")
    except BaseException as error:
        await asyncio.to_thread(target.unlink, missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            raise storage_error(str(target), error) from error
        raise


def _write(file: Any, chunk: bytes, digest: Any) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
    digest.update(chunk)


def _path(correlation_id: str) -> str:
    return f"/api/flows/{quote(correlation_id, safe='', errors='surrogatepass')}"


def _page(it: Mapping[str, Any]) -> tuple[list[Document], str | None, list[str]]:
    return [views.document(one) for one in it["items"]], it["cursor"], [*it["damaged"]]
