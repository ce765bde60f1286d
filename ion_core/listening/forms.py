"""Forms with files (RFC 7578), read as they come in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from ion_core.contracts.storage import BlobInfo, check_key
from ion_core.errors import InvalidKey
from ion_core.listening.arriving import Arrivals, Arriving
from ion_core.listening.bodies import Body
from ion_core.listening.refusals import Refused, no_room
from ion_core.words import counted

MAX_FIELD = 256 * 1024
"""Bytes of a form field that is no file, unless said otherwise."""


class Segment(Protocol):
    """The head of a part."""

    headerlist: list[tuple[str, str]]
    name: str | None
    filename: str | None

    def header(self, name: str, default: str) -> str: ...


class Parser(Protocol):
    """Gives a segment for each part that begins, bytes of it, and None where it ends."""

    def parse(self, chunk: bytes) -> Iterable[Segment | bytes | bytearray | None]: ...
    def close(self) -> None: ...


class Library(Protocol):
    """What is used of the library ``multipart``, which is handed in: the core does not depend on it."""

    @property
    def PushMultipartParser(self) -> Callable[..., Parser]: ...
    @property
    def MultipartError(self) -> type[Exception]: ...
    @property
    def ParserLimitReached(self) -> type[Exception]: ...


@dataclass(kw_only=True)
class Form:
    """What a form brought. ``files`` by the name they were sent under, in their order, and what each of them holds."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    told: dict[str, BlobInfo] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Most:
    into: Arrivals
    files: int
    pairs: int
    field: int


class _More(Exception):
    """Something follows the end of a form."""


async def read_form(
    body: Body,
    boundary: str,
    library: Library,
    *,
    into: Arrivals,
    max_files: int,
    max_pairs: int,
    max_field: int = MAX_FIELD,
) -> Form:
    """Files go ``into`` those of the request. Mistakes are listed, not raised. ``library`` is ``multipart``.

    Raises Refused for what is no form, or too large, and Gone.
    """
    form = Form()
    part: _Part | None = None
    most = _Most(into=into, files=max_files, pairs=max_pairs, field=max_field)
    try:
        parser = library.PushMultipartParser(
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
                if event is None:
                    assert part is not None
                    await part.end(form)
                    part, ended = None, True
                elif isinstance(event, bytes | bytearray):
                    assert part is not None
                    await part.add(event)
                else:
                    number += 1
                    part = _begin(event, number, form, most)
            end.look(chunk, ended=ended)
        parser.close()
    except library.ParserLimitReached as error:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The form is too large: {error}.") from error
    except (library.MultipartError, _More) as error:
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
        """Whether it is in this chunk, in which a part ``ended``. Raises _More for what follows it."""
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
        """What comes behind it. Raises _More for anything but a line break."""
        self._after += chunk
        if not b"\r\n".startswith(self._after):
            raise _More("Something follows the last boundary")


class _Part:
    """One part of a form; what is refused already is read, and kept nowhere."""

    async def add(self, chunk: bytes | bytearray) -> None:
        """Some more of its content."""

    async def end(self, form: Form) -> None:
        """That was all of it."""

    async def close(self) -> None:
        """In the middle, where the rest does not come. Idempotent."""


class _Field(_Part):
    def __init__(self, what: str, name: str, most: int) -> None:
        self._what, self._name, self._most = what, name, most
        self._value = bytearray()

    async def add(self, chunk: bytes | bytearray) -> None:
        self._value += chunk[: self._most + 1 - len(self._value)]

    async def end(self, form: Form) -> None:
        if len(self._value) > self._most:
            form.problems.append(f"{self._what}: has more than {counted(self._most, 'byte')}. Send it as a file.")
            return
        try:
            form.pairs.append((self._name, self._value.decode("utf-8")))
        except UnicodeDecodeError as error:
            form.problems.append(f"{self._what}: is not UTF-8 (byte {error.start}). Send bytes as a file.")


class _File(_Part):
    def __init__(self, name: str, arriving: Arriving) -> None:
        self._name, self._arriving = name, arriving

    async def add(self, chunk: bytes | bytearray) -> None:
        await self._arriving.add(chunk)

    async def end(self, form: Form) -> None:
        form.files[self._name], form.told[self._name] = await self._arriving.end()

    async def close(self) -> None:
        await self._arriving.close()


_STAR = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]*)", re.IGNORECASE)


def _begin(segment: Segment, number: int, form: Form, most: _Most) -> _Part:
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
        if len(form.pairs) >= most.pairs:
            form.problems.append(f"{what}: is one pair more than {most.pairs:,}, which is the limit")
            return _Part()
        return _Field(what, name, most.field)
    if len(form.files) >= most.files:
        form.problems.append(f"{what}: is one file more than {most.files:,}, which is the limit")
        return _Part()
    if filename in form.files:
        form.problems.append(f"{what}: the file name {filename[:80]!r} is there twice. Rename one of them.")
        return _Part()
    try:
        check_key(filename)
    except InvalidKey as error:
        form.problems.append(f"{what}: file name: {error}")
        return _Part()
    return _File(filename, Arriving(str(number), most.into))
