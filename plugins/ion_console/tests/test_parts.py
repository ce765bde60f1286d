"""Files in part, by conditions and without their body, and HEAD for all that is had by GET, as RFC 9110 has them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from ion_console.routing import OPERATIONS
from ion_core.contracts.looking import FileContent, FileView
from ion_core.errors import BlobNotFound
from ion_core.events import StoredFile
from ion_core.testing.host import Host
from plugins.ion_console.tests.consoles import Running, running

WHOLE = b"0123456789"
TAG = f'"{hashlib.sha256(WHOLE).hexdigest()}"'
FILE = "/api/flows/f/file?key=whole"
EMPTY = "/api/flows/f/file?key=empty"
GETS = [it.path.format(flow="f", event="e") for it in OPERATIONS if it.method == "GET"]


class Keeping(Host):
    """Has two files in any flow, one of them empty, and gives them so many bytes at a time."""

    contents = {"whole": WHOLE, "empty": b""}  # noqa: RUF012
    by = 3
    begun = 0

    async def files(self, correlation_id: str, event_id: str | None = None) -> Sequence[FileView]:
        return [
            FileView(file=_stored(key, content), module="", event_id="e", came_in=True)
            for key, content in self.contents.items()
        ]

    @asynccontextmanager
    async def file(self, correlation_id: str, key: str, *, start: int = 0) -> AsyncIterator[FileContent]:
        if key not in self.contents:
            raise BlobNotFound(f"{key}: is gone.")
        content = self.contents[key]
        self.begun += 1

        async def chunks() -> AsyncIterator[bytes]:
            for n in range(start, len(content), self.by):
                yield content[n : n + self.by]

        yield FileContent(file=_stored(key, content), chunks=chunks())


def _stored(key: str, content: bytes) -> StoredFile:
    return StoredFile(name=key, key=key, size=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest_asyncio.fixture
async def it(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, Keeping(tmp_path)) as found:
        yield found


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-3", 206, "0123", "bytes 0-3/10"),
        ("bytes=4-", 206, "456789", "bytes 4-9/10"),
        ("bytes=4-400", 206, "456789", "bytes 4-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=-300", 206, "0123456789", "bytes 0-9/10"),
        ("BYTES=9-9", 206, "9", "bytes 9-9/10"),
        ("bytes=0-", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=0-1,3-4", 200, "0123456789", None),
        ("bytes=-", 200, "0123456789", None),
        ("bytes=5-4", 200, "0123456789", None),
        ("bytes=\u0661-", 200, "0123456789", None),
        ("bytes=" + "9" * 5_000 + "-", 200, "0123456789", None),
        ("lines=1-2", 200, "0123456789", None),
    ],
)
async def test_one_range_of_bytes_is_given(it: Running, asked: str, status: int, body: str | None, told: str) -> None:
    found, said, headers = await it.ask(FILE, headers={"Range": asked})
    assert (found, headers.get("Content-Range")) == (status, told)
    if body is not None:
        assert (said, headers["Content-Length"], headers["ETag"]) == (body, str(len(body)), TAG)
        assert headers["Accept-Ranges"] == "bytes"


async def test_of_an_empty_file_there_is_no_part(it: Running) -> None:
    assert (await it.ask(EMPTY, headers={"Range": "bytes=0-"}))[0] == 416
    assert (await it.ask(EMPTY, headers={"Range": "bytes=-0"}))[0] == 416
    assert (await it.ask(EMPTY, headers={"Range": "bytes=-1"}))[:2] == (200, "")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": TAG}, 304),
        ({"If-None-Match": f'"other", W/{TAG}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Match": TAG}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": f"W/{TAG}"}, 412),
        ({"Range": "bytes=0-1", "If-Range": TAG}, 206),
        ({"Range": "bytes=0-1", "If-Range": f"W/{TAG}"}, 200),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=0-1", "If-Range": "Sat, 29 Oct 1994 19:43:31 GMT"}, 200),
        ({"Range": "bytes=0-1", "If-None-Match": TAG}, 304),
        ({"If-Modified-Since": "Sat, 29 Oct 2994 19:43:31 GMT"}, 200),
    ],
)
async def test_conditions_are_those_of_its_hash(it: Running, headers: dict[str, str], status: int) -> None:
    found, said, given = await it.ask(FILE, headers=headers)
    assert found == status
    if status == 304:
        assert (said, given["ETag"], it.host.begun) == ("", TAG, 0)
    found, said, _ = await it.ask(FILE, "HEAD", headers=headers)
    assert (found, said) == (200 if status == 206 else status, "")


@pytest.mark.parametrize("path", [*GETS, FILE])
async def test_by_head_there_is_the_same_without_its_body(it: Running, path: str) -> None:
    async with asyncio.timeout(20):
        status, said, head = await it.ask(path, "HEAD")
    assert said == ""
    async with it.client.get(it.console.url + path) as answer:
        assert (answer.status, answer.content_type) == (status, head["Content-Type"].partition(";")[0])
        assert answer.headers.get("Content-Length") == head.get("Content-Length")
    assert (await it.ask("/healthz"))[0] == 200, "the connection goes on"


async def test_a_file_that_is_gone_meanwhile_is_not_there(it: Running) -> None:
    assert (await it.ask("/api/flows/f/file?key=other", "HEAD"))[0] == 404
    files = await it.host.files("f")

    async def still_told(correlation_id: str, event_id: str | None = None) -> Sequence[FileView]:
        return files

    it.host.files = still_told
    it.host.contents = {}
    assert (await it.ask(FILE))[0] == 404


@pytest.mark.parametrize("path", ["/", "/dead-letters", "/nothing", "/sign-in"])
async def test_pages_have_a_head_too(it: Running, path: str) -> None:
    status, said, head = await it.ask(path, "HEAD")
    async with it.client.get(it.console.url + path) as answer:
        assert (answer.status, answer.content_type) == (status, head["Content-Type"].partition(";")[0])
    assert said == ""


async def test_a_page_that_is_had_by_get_says_that_it_has_a_head(it: Running) -> None:
    assert (await it.ask("/dead-letters", "PUT"))[2]["Allow"] == "GET, HEAD"


async def test_a_picture_has_a_head_without_its_bytes(it: Running) -> None:
    it.host.by = 64
    it.host.contents = {"whole": b"\x89PNG\r\n\x1a\n" + bytes(100)}
    for _ in range(2):  # on one connection: were a body sent, the next answer would not be understood
        status, said, head = await it.ask("/flows/f/picture?key=whole", "HEAD")
        assert (status, said, head["Content-Type"], head["Content-Length"]) == (200, "", "image/png", "108")
