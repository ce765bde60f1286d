"""Files: shown where they are pictures, text, CSV or JSON, to be downloaded where they are not; and what pages need."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files as resources
from pathlib import PurePosixPath
from typing import Any

from aiohttp import web

from ion_console.answers import HEADERS
from ion_console.pages.shell import Shell
from ion_console.routing import Operation, text
from ion_core import strict_json
from ion_core.contracts.looking import FileView
from ion_core.drawing import graph_style
from ion_core.errors import InvalidEvent, IonError
from ion_core.listening.refusals import Refused
from ion_core.words import counted

MOST = 32 * 1024 * 1024
"""Bytes of a file that is looked into: the store gives files as a whole."""
SHOWN = 64 * 1024
"""Bytes of text that are shown."""
MOST_INDENTED = 4 * SHOWN
"""Characters of JSON that is written anew, a line for each value: with deep nesting its blanks are most of it."""
ROWS, COLUMNS = 200, 50
_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
_MARKUP = (".html", ".htm", ".xhtml", ".xht", ".svg", ".svgz", ".xml", ".mht", ".mhtml")
_KINDS = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
SANDBOX = "default-src 'none'; frame-ancestors 'none'; sandbox"
KEY = (text("key", "Where it lies.", required=True),)


class Files:
    source = "A store"
    operations = (
        Operation(name="file", path="/flows/{flow}/file", gives="", what="A file", parameters=KEY),
        Operation(name="picture", path="/flows/{flow}/picture", gives="", what="A picture", parameters=KEY),
        Operation(name="own", path="/static/{name}", role=None, gives="", what="What pages are made with"),
    )

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        here = resources("ion_console.pages") / "static"
        self._own = {name: (here / name).read_bytes() for name in _KINDS}
        self._own["console.css"] += graph_style().encode()

    async def own(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        content = self._own.get(asked["name"])
        if content is None:
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing of that name.")
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {**HEADERS, "Content-Security-Policy": SANDBOX, "Cache-Control": "no-cache", "ETag": tag}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return web.Response(body=content, content_type=_KINDS[asked["name"]], charset="utf-8", headers=headers)

    async def file(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        view = await self._of(asked)
        kind, shown = await self._look(asked, view)
        return await self._shell.page(
            request, "file.html", at="flows", flow=asked["flow"], view=view, kind=kind, shown=shown, most=MOST
        )

    async def picture(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        """What its first bytes say that it is: of no such kind does a browser run anything."""
        async with self._shell.host.file(asked["flow"], asked["key"]) as found:
            chunks = aiter(found.chunks)
            first = await anext(chunks, b"")
            kind = _picture(first)
            if kind is None:
                raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "It is no picture that is shown here. Download it.")
            headers = {**HEADERS, "Content-Security-Policy": SANDBOX, "Cache-Control": "private, max-age=3600"}
            response = web.StreamResponse(headers={**headers, "Content-Type": kind})
            response.content_length = found.file.size
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            await response.write(first)
            try:
                async for chunk in chunks:
                    await response.write(chunk)
                await response.write_eof()
            except IonError as error:
                raise ConnectionError("a file ends early") from error  # the client sees by its length that it does
            return response

    async def _of(self, asked: Mapping[str, Any]) -> FileView:
        """Raises Refused."""
        for view in await self._shell.host.files(asked["flow"]):
            if view.file.key == asked["key"]:
                return view
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such file in this flow.")

    async def _look(self, asked: Mapping[str, Any], view: FileView) -> tuple[str, Any]:
        """What it is – ``picture``, ``table``, ``json``, ``text``, ``other``, ``large`` – and what is shown of it."""
        if view.file.size > MOST:
            return "large", None
        content = await self._begins(asked)
        if _picture(content) is not None:
            return "picture", None
        written = _text(content)
        if written is None or _is_markup(view.file.name, written):
            return "other", None
        suffix = PurePosixPath(view.file.name).suffix.lower()
        cut = max(view.file.size - len(content), 0)
        if suffix in (".csv", ".tsv"):
            return "table", _table(written, "\t" if suffix == ".tsv" else ",", cut=cut > 0)
        if suffix == ".json" and not cut:
            written = _indented(written)
        return "text", written if not cut else f"{written}\n… {counted(cut, 'more byte')}"

    async def _begins(self, asked: Mapping[str, Any]) -> bytes:
        found = b""
        async with self._shell.host.file(asked["flow"], asked["key"]) as file:
            async for chunk in file.chunks:
                found += chunk[:SHOWN]
                if len(found) >= SHOWN:
                    break
        return found[:SHOWN]


def _picture(content: bytes) -> str | None:
    kind = next((kind for begins, kind in _PICTURES if content.startswith(begins)), None)
    return None if kind == "image/webp" and content[8:12] != b"WEBP" else kind


def _text(content: bytes) -> str | None:
    """What they are as UTF-8, but for a character that they end within; None for what is no text."""
    if b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        return content[: error.start].decode() if len(content) == SHOWN and error.start > SHOWN - 4 else None


def _is_markup(name: str, written: str) -> bool:
    """What a browser would show as a page: downloads only."""
    begins = written.lstrip("\ufeff \t\r\n")[:256].lower()
    return name.lower().endswith(_MARKUP) or begins.startswith(("<!doctype", "<html", "<svg", "<?xml"))


def _indented(written: str) -> str:
    """As it is, if it is no JSON, whatever its name says; also where most of it would be blanks, or a key be lost."""
    try:
        found = strict_json.loads(written.encode(), what="it", limit=SHOWN)
    except InvalidEvent:
        return written
    indented = json.dumps(found, indent=2, ensure_ascii=False)
    return indented if len(indented) <= MOST_INDENTED else written


def _table(written: str, delimiter: str, *, cut: bool) -> Mapping[str, Any]:
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(written, newline=""), delimiter=delimiter):
            if len(rows) > ROWS:
                break
            rows.append(row[:COLUMNS])
            cut = cut or len(row) > COLUMNS
    except csv.Error:
        cut = True  # it is no CSV from there on
    return {"head": rows[0] if rows else [], "rows": rows[1 : ROWS + 1], "cut": cut or len(rows) > ROWS}
