"""Podman's REST API over its unix socket: one call, one connection, every wait bounded.

What is sent is libpod's own JSON, which keeps every setting. A connection costs 0.1 ms here, so none is kept.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from ion_core.errors import ProviderError, TransientError
from ion_podman.refusals import refusal

BASE = "/v4.0.0/libpod"
"""What Podman 4 and 5 both understand."""

_LARGEST_ANSWER = 64 * 1024**2
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@dataclass(frozen=True)
class Answer:
    """What the service said. ``message`` is its reason where it refused."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def message(self) -> str:
        if isinstance(self.body, dict):
            return str(self.body.get("message") or self.body.get("cause") or self.body)
        return str(self.body or f"status {self.status}")

    @property
    def no_such_container(self) -> bool:
        """4.3 answers some of these with 500."""
        return self.status >= 400 and "no such container" in self.message.lower()

    def error(self, where: str) -> ProviderError:
        """What a refusal means for a job."""
        return refusal(where, self.message, self.status)


@dataclass(frozen=True)
class Client:
    """Calls of one service. ``timeout`` in seconds is for each call that says nothing else."""

    socket: str
    timeout: float = 30.0

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Raises TransientError when there is no answer in time. A refusal is an answer."""
        return answer_of(*await self.raw(method, path, query=query, body=body, headers=headers, timeout=timeout))

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> tuple[int, bytes]:
        """Status and undecoded body. HTTP/1.0, so that the body ends where the connection does."""
        data = b"" if body is None else json.dumps(body).encode()
        head = _head(method, path, query, "1.0", {"Content-Type": "application/json", **(headers or {})}, len(data))
        async with self._connected(method, path, timeout or self.timeout) as (reader, writer):
            writer.write(head + data)
            status, fields = await _read_head(reader)
            raw = await _read_body(reader, fields)
        return status, raw

    async def upgraded(self, path: str, *, query: Mapping[str, Any]) -> Attached | Answer:
        """A connection on which the service sends frames from now on, until it ends; or its refusal."""
        head = _head("POST", path, query, "1.1", {"Connection": "Upgrade", "Upgrade": "tcp"}, 0)
        async with self._connected("POST", path, self.timeout, keep=True) as (reader, writer):
            writer.write(head)
            status, _ = await _read_head(reader)
            if status in (101, 200):
                return Attached(reader, writer)
            writer.close()
            return Answer(status, (await reader.read(_LARGEST_ANSWER)).decode("utf-8", "replace"))

    @asynccontextmanager
    async def _connected(
        self, method: str, path: str, timeout: float, *, keep: bool = False
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        where = f"podman: {method} {path}"
        writer = None
        try:
            async with asyncio.timeout(timeout) as limit:
                reader, writer = await asyncio.open_unix_connection(self.socket)
                yield reader, writer
        except TimeoutError as error:
            keep = False
            if not limit.expired():
                raise
            raise TransientError(f"{where}: no answer within {timeout:g} s. Does the service hang?") from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            keep = False
            reason = getattr(error, "strerror", None) or str(error)
            raise TransientError(
                f"{where}: nothing answers at {self.socket}: {reason}. Is Podman's service up?"
            ) from error
        except BaseException:
            keep = False
            raise
        finally:
            if writer is not None and not keep:
                writer.close()


@dataclass(frozen=True)
class Attached:
    """Both streams of a container, from before it starts until it has ended or the service has."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Number of the stream (1 output, 2 errors) and what came; ends without an error however the stream ends."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                header = await self.reader.readexactly(8)
                size = int.from_bytes(header[4:], "big")
                yield header[0], await self.reader.readexactly(size)

    def close(self) -> None:
        self.writer.close()


def frames_of(raw: bytes) -> list[tuple[int, bytes]]:
    """The frames of a log read at once."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at + 8 <= len(raw):
        size = int.from_bytes(raw[at + 4 : at + 8], "big")
        found.append((raw[at], raw[at + 8 : at + 8 + size]))
        at += 8 + size
    return found


def in_path(name: str) -> str:
    """A name as part of a path; images have slashes that stay."""
    return quote(name, safe="/:@")


def answer_of(status: int, raw: bytes) -> Answer:
    """With its body decoded, if it is JSON."""
    try:
        return Answer(status, json.loads(raw) if raw.strip() else None)
    except ValueError:
        return Answer(status, raw.decode("utf-8", "replace"))


def _head(
    method: str, path: str, query: Mapping[str, Any] | None, version: str, headers: Mapping[str, str], size: int
) -> bytes:
    target = BASE + path + ("?" + urlencode({key: _text(value) for key, value in query.items()}) if query else "")
    lines = [f"{method} {target} HTTP/{version}", "Host: d", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str]]:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *rest = raw.split(b"\r\n")
    status = _STATUS.match(first)
    if status is None:
        raise ValueError(f"this is no HTTP: {first[:80]!r}")
    fields = (line.decode("latin-1").partition(":") for line in rest if line)
    return int(status[1]), {name.strip().lower(): value.strip() for name, _, value in fields}


async def _read_body(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await reader.read(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _LARGEST_ANSWER:
            raise ValueError(f"the answer is longer than {_LARGEST_ANSWER:,} bytes")
    if size < int(fields.get("content-length", 0)):
        raise EOFError("the answer was cut short")
    return b"".join(parts)
