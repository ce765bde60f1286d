"""Bodies of requests, as they come in: counted, within time, hashed; JSON in memory, files into a directory of ours."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from urllib.parse import unquote

import multipart
from aiohttp import web

from ion_core.contracts.storage import BlobInfo, check_key
from ion_core.errors import InvalidKey
from ion_core.words import counted
from ion_gateway.answers import Refused, no_room
from ion_gateway.system import begin_flush

SILENT_FOR = 30.0
"""Seconds a client may send nothing in the middle of a body."""
GRACE, LEAST_RATE = 60.0, 1024
"""After ``GRACE`` seconds a body must have come with so many bytes a second: who sends one at a time holds a place."""
WRITTEN_AT_ONCE, PIECES_AT_ONCE = 1024 * 1024, 256
"""Bytes of a file that are held before they are written, or pieces of it, if it comes in small ones."""
MOST_HELD, MOST_PIECES_HELD = 4 * WRITTEN_AT_ONCE, 4 * PIECES_AT_ONCE
"""What is held at most, while some of it is written."""
FLUSHED_AT_ONCE = 8 * WRITTEN_AT_ONCE
"""Bytes of a file that are written before the disk is to begin with them, so that the store's flush is short."""
MAX_FIELD = 256 * 1024
"""Bytes of a form field that is no file."""


class Gone(Exception):
    """The client went away in the middle of its request: there is nobody to answer."""


def check_framing(request: web.BaseRequest) -> None:
    """How the body comes, and what is expected of us, by the head. Raises Refused (417, 501)."""
    codings = [it.strip().lower() for it in request.headers.getall("Transfer-Encoding", [])]
    if codings not in ([], ["chunked"]):  # the parser takes any before chunked, and hands out what is packed
        raise Refused(
            HTTPStatus.NOT_IMPLEMENTED,
            "A Transfer-Encoding other than chunked is not understood. Send the body as it is.",
            headers={"Connection": "close"},
        )
    if any(it.strip().lower() != "100-continue" for it in request.headers.getall("Expect", [])):
        raise Refused(
            HTTPStatus.EXPECTATION_FAILED, "Of an Expect header 100-continue is understood, and nothing else."
        )


class Body:
    """The body of a request, at most ``limit`` bytes. ``also`` is given each chunk, for signatures."""

    def __init__(
        self, request: web.BaseRequest, *, limit: int, what: str, also: Callable[[bytes], None] | None = None
    ) -> None:
        self._request = request
        self._limit = limit
        self._what = what
        self._also = also
        self._begun, self._count = 0.0, 0
        if (request.content_length or 0) > limit:
            raise self._too_large()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises Refused where it is too large or too slow, Gone where the client is."""
        while chunk := await self._next():
            yield chunk

    async def _next(self) -> bytes:
        """What has come, once anything has; empty at the end. Raises as ``chunks``."""
        content, loop = self._request.content, asyncio.get_running_loop()
        try:
            if not self._begun:
                self._begun = loop.time()
                await self._say_continue()
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                async with asyncio.timeout(SILENT_FOR):
                    chunk = await content.readany()
            self._count += len(chunk)
            if self._count > self._limit:
                raise self._too_large()
            seconds = loop.time() - self._begun
            if chunk and seconds > GRACE and self._count < (seconds - GRACE) * LEAST_RATE:
                raise TimeoutError
            if chunk and self._also is not None:
                self._also(chunk)
        except TimeoutError:
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT, "The body came too slowly.", headers={"Connection": "close"}
            ) from None
        except (ConnectionError, web.RequestPayloadError) as error:
            raise Gone from error
        return chunk

    async def _say_continue(self) -> None:
        if "Expect" in self._request.headers:  # what else it may be is refused before
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._request.writer.output_size = 0  # what is counted there is the answer, which has not begun

    def _too_large(self) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The body has more than {counted(self._limit, 'byte')}, the limit of {self._what}.",
        )

    async def read(self) -> bytes:
        """All of it."""
        first = await self._next()
        if self._request.content.at_eof():
            return first
        found = bytearray(first)
        while chunk := await self._next():
            found += chunk
        return bytes(found)


@dataclass(kw_only=True)
class Form:
    """What a form brought. ``files`` by the name they were sent under, in their order, and what each of them holds."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    told: dict[str, BlobInfo] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Arrivals:
    """Files of one request, in a directory below ``work`` that is made for the first of them.

    It is gone with all that is in it when the context is left.
    """

    def __init__(self, work: Path) -> None:
        self._work = work
        self._directory: Path | None = None

    async def __aenter__(self) -> Arrivals:
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._directory is not None:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Where a file of that name, a plain one, is to be. Blocks; raises OSError."""
        if self._directory is None:
            self._directory = self._work / secrets.token_hex(8)
            self._directory.mkdir(mode=0o700)
        return self._directory / name


async def keep(content: bytes, arrivals: Arrivals, name: str = "body") -> Path:
    """``content`` as a file. Raises Refused (503) where there is no room."""

    def write() -> Path:
        path = arrivals.path(name)
        path.write_bytes(content)
        return path

    try:
        return await asyncio.to_thread(write)
    except OSError as error:
        raise no_room(error) from error


async def read_form(body: Body, boundary: str, *, into: Arrivals, max_files: int, max_pairs: int) -> Form:
    """Files go ``into`` those of the request. Mistakes are listed, not raised.

    Raises Refused for what is no form, or too large, and Gone.
    """
    form = Form()
    part: _Part | None = None
    try:
        parser = multipart.PushMultipartParser(
            boundary,
            max_header_size=4096,
            max_header_count=8,
            max_segment_count=max_files + max_pairs,
            header_charset="utf8",
            strict=True,
        )
        end = _End(boundary)
        number = 0
        async for chunk in body.chunks():
            if end.is_there:
                end.check(chunk)
                continue
            ended = not number
            for event in parser.parse(chunk):
                if isinstance(event, multipart.MultipartSegment):
                    number += 1
                    part = _begin(event, number, form, into, max_files=max_files, max_pairs=max_pairs)
                elif event:
                    assert part is not None
                    await part.add(event)
                else:
                    assert part is not None
                    await part.end(form)
                    part, ended = None, True
            end.look(chunk, ended=ended)
        parser.close()
    except multipart.ParserLimitReached as error:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The form is too large: {error}.") from error
    except multipart.MultipartError as error:
        raise Refused(
            HTTPStatus.BAD_REQUEST, f"The body is no multipart/form-data as RFC 7578 has it: {error}."
        ) from error
    except OSError as error:
        raise no_room(error) from error
    finally:
        if part is not None:
            await part.close()
    return form


class _End:
    """Finds the end of a form. The parser passes over what follows it, or refuses that, by how the body is cut."""

    def __init__(self, boundary: str) -> None:
        self._last = b"\r\n--" + boundary.encode("utf-8", "surrogateescape") + b"--"
        self._seen = b"\r\n"  # before the first boundary there need be none
        self._after = b""
        self.is_there = False

    def look(self, chunk: bytes, *, ended: bool) -> None:
        """Whether it is in this chunk, in which a part ``ended``. Raises ParserError for what follows it."""
        if ended:
            window = self._seen + chunk
            at = window.find(self._last)
            if at >= 0:
                self.is_there = True
                self.check(window[at + len(self._last) :])
                return
        most = len(self._last) - 1
        self._seen = (self._seen + chunk if len(chunk) < most else chunk)[-most:]

    def check(self, chunk: bytes) -> None:
        """What comes behind it. Raises ParserError for anything but a line break."""
        self._after += chunk
        if not b"\r\n".startswith(self._after):
            raise multipart.ParserError("Something follows the last boundary")


class _Part:
    """One part of a form; what is refused already is read, and kept nowhere."""

    async def add(self, chunk: bytes) -> None:
        """Some more of its content."""

    async def end(self, form: Form) -> None:
        """That was all of it."""

    async def close(self) -> None:
        """In the middle, where the rest does not come. Idempotent."""


class _Field(_Part):
    def __init__(self, what: str, name: str) -> None:
        self._what, self._name = what, name
        self._value = bytearray()

    async def add(self, chunk: bytes) -> None:
        self._value += chunk[: MAX_FIELD + 1 - len(self._value)]

    async def end(self, form: Form) -> None:
        if len(self._value) > MAX_FIELD:
            form.problems.append(f"{self._what}: has more than {counted(MAX_FIELD, 'byte')}. Send it as a file.")
            return
        try:
            form.pairs.append((self._name, self._value.decode("utf-8")))
        except UnicodeDecodeError as error:
            form.problems.append(f"{self._what}: is not UTF-8 (byte {error.start}). Send bytes as a file.")


class _File(_Part):
    """Written and hashed in a thread, while more of it comes: that is taken in the same go."""

    def __init__(self, name: str, number: int, into: Arrivals) -> None:
        self._name, self._number, self._into = name, number, into
        self._path = Path()
        self._kept: deque[bytes] = deque()
        self._came, self._there, self._flushing = 0, 0, 0
        self._sha256 = hashlib.sha256()
        self._file: FileIO | None = None
        self._writing: asyncio.Task[None] | None = None

    async def add(self, chunk: bytes) -> None:
        self._kept.append(chunk)
        self._came += len(chunk)
        if self._writing is not None and (self._writing.done() or self._holds(MOST_HELD, MOST_PIECES_HELD)):
            await self._written()
        if self._writing is None and self._holds(WRITTEN_AT_ONCE, PIECES_AT_ONCE):
            self._writing = asyncio.create_task(self._write())

    async def end(self, form: Form) -> None:
        await self._written()
        self._writing = asyncio.create_task(self._write())
        await self._written()
        await self.close()
        form.files[self._name] = self._path
        form.told[self._name] = BlobInfo(size=self._there, sha256=self._sha256.hexdigest())

    async def close(self) -> None:
        if self._writing is not None:  # else it would make the file again that is removed meanwhile
            self._kept.clear()
            await asyncio.wait({self._writing})
            self._writing.exception()  # what was wrong with the request says more
        if self._file is not None:
            self._file.close()

    def _holds(self, size: int, pieces: int) -> bool:
        return len(self._kept) >= pieces or (bool(self._kept) and self._came - self._there >= size)

    async def _write(self) -> None:
        await asyncio.to_thread(self._write_now)
        while self._holds(WRITTEN_AT_ONCE, PIECES_AT_ONCE):  # came after the thread had seen that there was no more
            await asyncio.to_thread(self._write_now)

    async def _written(self) -> None:
        """Raises OSError where that failed."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    def _write_now(self) -> None:
        """All that is kept, until there is nothing."""
        if self._file is None:
            self._path = self._into.path(str(self._number))
            self._file = self._path.open("xb", buffering=0)
        while True:
            try:
                piece = self._kept.popleft()
            except IndexError:
                return
            _write_whole(self._file, piece)
            self._sha256.update(piece)  # at once, while it is in the caches
            self._there += len(piece)
            if self._there - self._flushing >= FLUSHED_AT_ONCE:
                begin_flush(self._file.fileno(), self._flushing, self._there - self._flushing)
                self._flushing = self._there


def _write_whole(file: FileIO, piece: bytes) -> None:
    """Raises OSError. Before a disk is full a part of it may be written."""
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]


_STAR = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]*)", re.IGNORECASE)


def _begin(
    segment: multipart.MultipartSegment, number: int, form: Form, into: Arrivals, *, max_files: int, max_pairs: int
) -> _Part:
    """What becomes of a part, by its headers."""
    name, filename = segment.name or "", segment.filename
    headers = [header for header, _ in segment.headerlist]
    what = f"part {number} ({name[:80]!r})"
    star = _STAR.search(segment.header("Content-Disposition", ""))
    if star is not None:  # not for forms, by RFC 7578, and some send it all the same
        filename = unquote(star[1], errors="surrogateescape")
    if twice := next((it for it in headers if headers.count(it) > 1), None):
        form.problems.append(f"{what}: has the header {twice} twice")
        return _Part()
    encoding = segment.header("Content-Transfer-Encoding", "binary").strip().lower()
    if encoding not in ("binary", "8bit", "7bit"):
        form.problems.append(f"{what}: is encoded as {encoding[:40]!r}. Send it as it is.")
        return _Part()
    if filename is None:
        if len(form.pairs) >= max_pairs:
            form.problems.append(f"{what}: is one pair more than {max_pairs:,}, which is the limit")
            return _Part()
        return _Field(what, name)
    if len(form.files) >= max_files:
        form.problems.append(f"{what}: is one file more than {max_files:,}, which is the limit")
        return _Part()
    if filename in form.files:
        form.problems.append(f"{what}: the file name {filename[:80]!r} is there twice. Rename one of them.")
        return _Part()
    try:
        check_key(filename)
    except InvalidKey as error:
        form.problems.append(f"{what}: file name: {error}")
        return _Part()
    return _File(filename, number, into)
