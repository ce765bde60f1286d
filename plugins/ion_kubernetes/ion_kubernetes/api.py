"""The API of Kubernetes as what it is: JSON over HTTP. Bodies are plain dicts, every wait is bounded.

What the server does not know in an object it refuses (``fieldValidation=Strict``): nothing we send is dropped silently.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp

from ion_core.words import counted
from ion_kubernetes.refusals import ApiUnavailable, refusal

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_LARGEST_ANSWER = 256 * 1024**2
_LARGEST_LINE = 16 * 1024**2
"""Of a watch: etcd holds no object of more than some MiB."""
_PIECE = 64 * 1024
_JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True)
class Resource:
    """A kind of object: ``version`` as in ``apiVersion``, and its plural, as in paths."""

    version: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """Empty for the core's."""
        return self.version.rpartition("/")[0]

    def path(self, namespace: str, name: str = "", below: str = "") -> str:
        root = f"/apis/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, *(["namespaces", quote(namespace, safe="")] if self.namespaced else []), self.plural]
        return "/".join([*parts, *(quote(it, safe="") for it in (name, below) if it)])


PODS = Resource("v1", "pods")
SECRETS = Resource("v1", "secrets")
CONFIG_MAPS = Resource("v1", "configmaps")
EVENTS = Resource("v1", "events")
JOBS = Resource("batch/v1", "jobs")
NAMESPACES = Resource("v1", "namespaces", namespaced=False)


@dataclass(frozen=True)
class LogLine:
    """``at`` is the time as the kubelet wrote it: of equal length always, so that texts compare as the times do.

    ``text`` has its newline, but for a last line that has none.
    """

    at: str
    text: bytes


@dataclass(frozen=True)
class WatchEvent:
    """``kind`` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR; of an ERROR the object is a ``Status``."""

    kind: str
    object: Json


class Credentials(Protocol):
    """Where the API server is, and what one is known by there."""

    @property
    def server(self) -> str:
        """Its URL without a slash at the end."""

    async def authorization(self, *, refused: str | None = None) -> str | None:
        """The header to send, None: none. Another one than ``refused``, which the server does not know any more."""

    def connecting(self) -> Mapping[str, Any]:
        """More arguments for a request of aiohttp: ``ssl``, ``server_hostname``, ``proxy``."""


class Api:
    """Calls of one API server, for objects of one namespace. Made by ``open_api``.

    Every call raises ApiUnavailable, a TransientError, when there is no answer in time, for 401, 408, 429 and 5xx, and
    ApiRefused, a PermanentError, for other refusals. ``timeout`` in seconds is for each call.
    """

    def __init__(
        self, session: aiohttp.ClientSession, credentials: Credentials, namespace: str, *, timeout: float = 30
    ) -> None:
        self.namespace = namespace
        self._session = session
        self._credentials = credentials
        self._timeout = timeout
        self._ahead = time.time() - time.monotonic()
        """What to add to our own count of seconds for the server's time of day; until it has told, ours."""

    def now(self) -> float:
        """Seconds since 1970 by the server's clock, which may be another than ours, to a second or so."""
        return time.monotonic() + self._ahead

    async def get(self, resource: Resource, name: str) -> Json:
        """Raises ApiRefused with ``not_found`` where there is none."""
        return await self._call("GET", resource.path(self.namespace, name))

    async def list(
        self, resource: Resource, *, labels: Mapping[str, str] | None = None, fields: Mapping[str, str] | None = None
    ) -> Json:
        """All objects with these labels, as of now: ``items``, and ``metadata.resourceVersion`` to watch from."""
        return await self._call("GET", resource.path(self.namespace), query=_selecting(labels, fields))

    async def create(self, resource: Resource, object: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """What was made, as the server completed it. With ``dry_run`` it is checked by all that checks, and not kept.

        Raises ApiRefused with ``already_exists`` where one of that name is: a call without an answer may have made it.
        """
        query = {"fieldValidation": "Strict", **_dry(dry_run)}
        return await self._call("POST", resource.path(self.namespace), query=query, body=object)

    async def patch(
        self, resource: Resource, name: str, operations: Sequence[Mapping[str, Any]], *, dry_run: bool = False
    ) -> Json:
        """Applies a JSON patch (RFC 6902) as one. Raises ApiRefused with ``invalid`` where a ``test`` does not hold."""
        query = {"fieldValidation": "Strict", **_dry(dry_run)}
        path = resource.path(self.namespace, name)
        return await self._call("PATCH", path, query=query, body=list(operations), content_type=_JSON_PATCH)

    async def delete(
        self, resource: Resource, name: str, *, uid: str | None = None, grace: int | None = None, dry_run: bool = False
    ) -> None:
        """Asks for the end of an object; what it owns goes too, a moment later. Idempotent: fine where it is gone.

        ``grace`` in seconds is for pods, None: as the pod says; 0 takes the object away while its processes may run on.
        With ``uid`` only that very object is meant: another of the name raises ApiRefused with ``conflict``.
        """
        options: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if dry_run:
            options["dryRun"] = ["All"]
        await self._call("DELETE", resource.path(self.namespace, name), body=options, missing={})

    async def allows(self, verb: str, resource: Resource, *, below: str = "", name: str = "") -> bool:
        """Whether we may do that (``create``, …) here; ``below`` is a subresource, as ``log``. Asking is free."""
        asked = {"verb": verb, "group": resource.group, "resource": resource.plural, "namespace": self.namespace}
        asked |= {key: value for key, value in {"subresource": below, "name": name}.items() if value}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await self._call("POST", path, body=review)
        return answer.get("status", {}).get("allowed") is True

    async def version(self) -> tuple[int, int]:
        """Of Kubernetes: (1, 36)."""
        told = await self._call("GET", "/version")
        digits = ("".join(filter(str.isdigit, str(told.get(key, "")))) for key in ("major", "minor"))
        major, minor = (int(it or 0) for it in digits)
        return major, minor

    async def log(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        since: str | datetime | None = None,
        silence: float | None = None,
    ) -> AsyncGenerator[LogLine]:
        """What a container has printed, line by line; with ``follow`` until it has ended. Both streams are one.

        ``since`` counts in whole seconds on the way to the kubelet: lines of that second come again, and who goes on
        where a log broke off passes over those whose ``at`` is not later. Nothing at all for ``silence`` seconds (by
        default as long as a call may take, with ``follow`` 10 minutes) raises ApiUnavailable, so that no connection
        that is dead is waited at for ever: one asks again with ``since``. A log may end with nothing just after the
        container has started, and never tells that it has ended.

        Raises ApiRefused: ``invalid`` where the container has not started yet, or its log is gone (evicted);
        ``not_found`` without the pod.
        """
        query = {"container": container, "timestamps": "true", **({"follow": "true"} if follow else {})}
        if since is not None:
            query["sinceTime"] = since.isoformat() if isinstance(since, datetime) else since
        silence = silence or (600 if follow else self._timeout)
        path = PODS.path(self.namespace, pod, "log")
        # A kubelet cuts long lines nowhere: they come in pieces here, and are put together.
        async with aclosing(self._lines(path, query, silence, largest=None)) as lines:
            async for line in lines:
                stamp, _, text = line.partition(b" ")
                yield LogLine(stamp.decode("ascii", "replace"), text)

    async def watch(
        self,
        resource: Resource,
        version: str,
        *,
        labels: Mapping[str, str] | None = None,
        seconds: int = 270,
        silence: float = 90,
    ) -> AsyncGenerator[WatchEvent]:
        """What has changed since a version, until the server ends it after ``seconds``, which is no fault.

        Bookmarks come each minute: ``silence`` seconds without anything raise ApiUnavailable, as every other end does.
        A version that is too old is told as an event, ERROR with code 410.
        """
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", **_selecting(labels, None)}
        query["timeoutSeconds"] = str(seconds)
        path = resource.path(self.namespace)
        async with aclosing(self._lines(path, query, silence, largest=_LARGEST_LINE)) as lines:
            async for line in lines:
                try:
                    told = json.loads(line)
                    event = WatchEvent(told["type"], told["object"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ApiUnavailable(f"{_where('GET', path)}: the watch broke off in {line[:80]!r}.") from error
                yield event

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        missing: Json | None = None,
    ) -> Json:
        """The object that is answered; ``missing`` instead of 404."""
        where = _where(method, path)
        async with self._request(method, path, query, body, content_type, self._timeout) as response:
            raw = await _read(response, where)
            answer = _decoded(raw)
            if response.status == 404 and missing is not None:
                return missing
            if response.status >= 400:
                raise refusal(where, response.status, answer, response.headers.get("Retry-After"))
            for warning in response.headers.getall("Warning", []):
                logger.warning("Kubernetes warns", extra={"call": where, "warning": warning})
        if not isinstance(answer, dict):
            raise ApiUnavailable(f"{where}: what answers is no API server: {raw[:80]!r}.", status=response.status)
        return answer

    async def _lines(
        self, path: str, query: Mapping[str, str], silence: float, *, largest: int | None
    ) -> AsyncGenerator[bytes]:
        """Of an answer that goes on: with their newlines, but for a last one that has none."""
        where = _where("GET", path)
        async with self._request("GET", path, query, None, "", None, silence) as response:
            if response.status >= 400:
                async with asyncio.timeout(self._timeout):
                    answer = _decoded(await _read(response, where))
                raise refusal(where, response.status, answer, response.headers.get("Retry-After"))
            begun: list[bytes] = []
            size = 0
            async for piece in response.content.iter_chunked(_PIECE):
                *whole, rest = piece.split(b"\n")
                for line in whole:
                    yield b"".join([*begun, line, b"\n"])
                    begun, size = [], 0
                begun.append(rest)
                size += len(rest)
                if largest is not None and size > largest:
                    raise ApiUnavailable(f"{where}: a line of more than {counted(largest, 'byte')}.")
            if size:
                yield b"".join(begun)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        total: float | None,
        silence: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One answer, asked for again with new credentials where the server does not know those that were sent."""
        where = _where(method, path)
        limits = aiohttp.ClientTimeout(total=total, connect=self._timeout, sock_read=silence)
        data = None if body is None else json.dumps(body).encode()
        try:
            header = await self._credentials.authorization()
            for again in (True, False):
                headers = {"Accept": "application/json, */*"} | ({"Authorization": header} if header else {})
                headers |= {"Content-Type": content_type} if data is not None else {}
                async with self._session.request(
                    method,
                    self._credentials.server + path,
                    params=query,
                    data=data,
                    headers=headers,
                    timeout=limits,
                    allow_redirects=False,
                    **self._credentials.connecting(),
                ) as response:
                    with suppress(KeyError, ValueError, TypeError):  # as what is no API server answers
                        told = parsedate_to_datetime(response.headers["Date"]).timestamp()
                        self._ahead = told - time.monotonic()
                    if response.status == 401 and again and header is not None:
                        header = await self._credentials.authorization(refused=header)
                        continue
                    yield response
                    return
        except TimeoutError as error:
            limit = silence if silence is not None else total
            raise ApiUnavailable(f"{where}: nothing came within {limit:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ApiUnavailable(f"{where}: no whole answer from {self._credentials.server}: {reason}.") from error


@asynccontextmanager
async def open_api(credentials: Credentials, namespace: str, *, timeout: float = 30) -> AsyncIterator[Api]:
    """Connections are made as calls need them and kept for the next; nothing is asked here."""
    # No limit: each log that is followed holds a connection, and calls must not wait behind those.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Api(session, credentials, namespace, timeout=timeout)


def selector(labels: Mapping[str, str]) -> str:
    """As in ``labelSelector``: all of these."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _selecting(labels: Mapping[str, str] | None, fields: Mapping[str, str] | None) -> dict[str, str]:
    given = {"labelSelector": selector(labels or {}), "fieldSelector": selector(fields or {})}
    return {key: value for key, value in given.items() if value}


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _where(method: str, path: str) -> str:
    return f"kubernetes: {method} {path}"


async def _read(response: aiohttp.ClientResponse, where: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_chunked(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST_ANSWER:
            raise ApiUnavailable(f"{where}: an answer of more than {_LARGEST_ANSWER:,} bytes.")
    return b"".join(pieces)


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw.strip() else None
    except ValueError:
        return raw.decode("utf-8", "replace")
