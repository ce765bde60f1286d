"""HTTP of the client, against servers that do what they are told: lost connections, hostile answers, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ion_core.client import AsyncIon, by_console, http
from ion_core.errors import (
    BlobCorrupt,
    ConfigError,
    DocumentNotFound,
    IonError,
    MessageRefused,
    PermanentError,
    StorageFull,
    TransientError,
    Unroutable,
)

Step = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Scripted:
    """Each request is answered by the next of ``steps``, on whichever connection it comes; the last is for all more."""

    def __init__(self, *steps: bytes | Step) -> None:
        self.steps = [*steps]
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(head.partition(b"\r\n")[0].decode())
                step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
                if not isinstance(step, bytes):
                    await step(reader, writer)
                    return
                length = next((it for it in head.lower().split(b"\r\n") if it.startswith(b"content-length:")), b":0")
                self.bodies.append(await reader.readexactly(int(length.partition(b":")[2])))
                writer.write(step)
                if b"Connection: close" in step or not step:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def served(*steps: bytes | Step) -> AsyncIterator[Scripted]:
    scripted = Scripted(*steps)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    async with server:
        scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield scripted


def said(body: Any, status: int = 200, more: str = "") -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n{more}\r\n".encode() + text


PUBLISHED = said({"eventId": "e", "correlationId": "c", "type": "t"})
SUMMARY = {
    "correlationId": "c",
    "outcome": "running",
    "over": False,
    "events": 1,
    "jobs": {"pending": 1},
    "failing": [],
    "eventId": "e",
    "type": "t",
    "data": [],
    "files": [],
    "startedAt": None,
    "finishedAt": None,
}
OVER = SUMMARY | {"outcome": "done", "over": True}
FILES = [
    {
        "name": "f",
        "key": "k/f",
        "size": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "executable": False,
        "module": "m",
        "eventId": "e",
        "cameIn": False,
    }
]


async def test_a_connection_is_used_again_and_one_that_is_gone_is_made_anew() -> None:
    async with served(PUBLISHED, PUBLISHED, b"", PUBLISHED) as it, AsyncIon.connect(it.url) as ion:
        for _ in range(3):
            assert (await ion.publish("t")).id == "c"
        assert it.connections == 2
        assert len(it.asked) == 4
        assert it.bodies[2] == it.bodies[3], "the same event, by its id"
        assert json.loads(it.bodies[0])["id"] != json.loads(it.bodies[1])["id"]


async def test_what_is_lost_twice_is_told() -> None:
    async with served(b"") as it, AsyncIon.connect(it.url) as ion:
        with pytest.raises(TransientError, match="the connection was lost, twice"):
            await ion.publish("t")
        assert it.connections == 2


async def test_a_file_that_ends_early_is_had_once_more_from_its_beginning(tmp_path: Path) -> None:
    short = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\na"
    async with served(said(FILES), short, said(b"abc")) as it, AsyncIon.connect(it.url) as ion:
        (file,) = await ion.flow("c").files()
        assert (await file.fetch(tmp_path / "f")).read_bytes() == b"abc"
        assert it.asked[1] == it.asked[2] == "GET /api/flows/c/file?key=k%2Ff HTTP/1.1"


async def test_a_file_that_is_another_is_none(tmp_path: Path) -> None:
    for content in (b"abd", b"ab", b"abcd"):
        async with served(said(FILES), said(content)) as it, AsyncIon.connect(it.url) as ion:
            (file,) = await ion.flow("c").files()
            with pytest.raises(BlobCorrupt):
                await file.fetch(tmp_path / "f")
    assert [*tmp_path.iterdir()] == []  # noqa: ASYNC240


async def test_what_is_refused_before_all_was_sent_is_told(tmp_path: Path) -> None:
    """Of a body that nobody reads."""
    with (tmp_path / "f").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    refused = said({"title": "X", "status": 403, "detail": "This token may look."}, 403, "Connection: close\r\n")

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(refused)
        await writer.drain()

    async with served(early) as it, AsyncIon.connect(it.url) as ion:
        with pytest.raises(ConfigError, match="This token may look"):
            await ion.publish("t", files=[tmp_path / "f"])
        assert it.connections == 1


async def test_a_file_that_shrinks_while_it_is_sent_is_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    open_regular = http.asyncio.to_thread

    async def shrinking(work: Any, *given: Any, **how: Any) -> Any:
        found = await open_regular(work, *given, **how)
        if getattr(work, "__name__", "") == "_statuses":
            (tmp_path / "f").write_bytes(b"a")
        return found

    monkeypatch.setattr("ion_core.client.uploading.asyncio.to_thread", shrinking)
    async with served(PUBLISHED) as it, AsyncIon.connect(it.url) as ion:
        with pytest.raises(PermanentError, match="has changed while it was sent"):
            await ion.publish("t", files=[tmp_path / "f"])


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (said({"detail": "no"}, 401), ConfigError, "no"),
        (said({"detail": "nobody takes it", "error": "Unroutable"}, 404), Unroutable, "nobody takes it"),
        (said({"detail": "too large", "error": "MessageRefused"}, 413), MessageRefused, "too large"),
        (said({"detail": "full", "error": "StorageFull"}, 503), StorageFull, "full"),
        (said({"detail": "away"}, 503), TransientError, "away"),
        (said({"detail": "too many"}, 429), TransientError, "too many"),
        (said({"detail": "failed", "error": "SystemExit"}, 500), PermanentError, "failed"),
        (said({"detail": "larger"}, 413), PermanentError, "larger"),
        (said({"detail": "nothing here"}, 404), PermanentError, "nothing here. Is that the URL of an ion-console"),
        (said(b"<html>", 502), TransientError, "it answers 502"),
        (said(b"", 302, "Location: http://elsewhere/\r\n"), PermanentError, "it answers 302"),
        (said(b"[" * 100_000, 400), PermanentError, "it answers 400"),
        (said(b"<html>"), PermanentError, "what it says is no JSON"),
        (said([]), PermanentError, "what it says is not understood"),
        (said({"eventId": "e"}), PermanentError, "what it says is not understood"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", PermanentError, "does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000, PermanentError, "does not speak HTTP/1.1"),
    ],
)
async def test_whatever_is_answered_is_an_error_that_says_so(answer: bytes, error: type[IonError], says: str) -> None:
    async with served(answer) as it, AsyncIon.connect(it.url, token="canary-0123456789") as ion:
        with pytest.raises(error) as raised:
            await ion.publish("t")
        assert says in str(raised.value)
        assert it.url in str(raised.value)
        assert "canary" not in str(raised.value)


async def test_who_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.setattr(by_console, "ANSWERS_WITHIN", 0.05)
    async with served(never) as it, AsyncIon.connect(it.url) as ion:
        with pytest.raises(TransientError, match="does not answer"):
            await ion.flow("c").outcome()


async def test_nobody_there_is_told() -> None:
    async with served(b"") as it:
        pass
    async with AsyncIon.connect(it.url) as ion:
        with pytest.raises(TransientError, match="cannot be reached"):
            await ion.flow("c").outcome()


async def test_a_wait_asks_to_wait_and_looks_itself_where_there_is_no_room() -> None:
    busy = said({"detail": "too many"}, 429)
    async with served(said(SUMMARY), busy, said(SUMMARY), busy, said(OVER)) as it, AsyncIon.connect(it.url) as ion:
        assert (await ion.flow("c").wait(100)).over
        path = "GET /api/flows/c/outcome"
        assert [one.partition(" HTTP")[0] for one in it.asked] == [
            f"{path}?within=30",
            f"{path}?within=30",
            path,
            f"{path}?within=30",
            path,
        ]


async def test_a_wait_outlasts_a_console_that_is_away_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(said({"detail": "away"}, 503), b"", said(OVER)) as it, AsyncIon.connect(it.url) as ion:
        assert (await ion.flow("c").wait()).over
    monkeypatch.setattr(by_console, "AWAY_FOR", 0.2)
    async with served(said({"detail": "away"}, 503)) as it, AsyncIon.connect(it.url) as ion:
        with pytest.raises(TransientError, match="away"):
            await ion.flow("c").wait()


async def test_what_is_in_no_queue_at_the_moment_is_running_all_the_same() -> None:
    async with served(said(SUMMARY | {"outcome": "done"})) as it, AsyncIon.connect(it.url) as ion:
        assert (await ion.flow("c").outcome()).outcome == "running"


async def test_a_console_below_a_path_is_asked_there() -> None:
    async with served(PUBLISHED) as it, AsyncIon.connect(f"{it.url}/ion/") as ion:
        await ion.publish("t")
        assert it.asked == ["POST /ion/api/events HTTP/1.1"]


async def test_what_is_asked_for_at_a_time_is_bounded() -> None:
    under_way, most, go = 0, 0, asyncio.Event()

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await go.wait()
        under_way -= 1
        writer.write(said({"detail": "none", "error": "DocumentNotFound"}, 404, "Connection: close\r\n"))

    async with served(count) as it, AsyncIon.connect(it.url) as ion:
        asking = asyncio.gather(*(ion.flow("c").outcome() for _ in range(40)), return_exceptions=True)
        for _ in range(2000):  # turns of the loop, in which all come that may
            await asyncio.sleep(0)
        go.set()
        assert {type(one) for one in await asking} == {DocumentNotFound}
    assert most == http.AT_A_TIME


@pytest.mark.parametrize(
    ("url", "given", "says"),
    [
        ("ion.example", {}, "url: must begin with https:// or http://"),
        ("ftp://ion.example", {}, "url: must begin with"),
        ("https://", {}, "url: must name a host"),
        ("https://ion.example:x", {}, "url: is none"),
        ("https://[::1", {}, "url: is none"),
        ("https://me:canary@ion.example", {}, "url: must have no user or password"),
        ("https://ion.example/?token=canary", {}, "url: must have no query"),
        ("https://ion.example/a b", {}, "url: must have no query, fragment or blanks"),
        ("http://127.0.0.1:1", {"token": "canary\r\nX: y"}, "token: must be ASCII without blanks"),
        ("http://127.0.0.1:1", {"token": ""}, "token: must be ASCII"),
        ("http://ion.example", {"token": "canary"}, "token: would be sent to http://ion.example:80 for everybody"),
        ("http://[2001:db8::1]", {"token": "canary"}, "token: would be sent to http://[2001:db8::1]:80"),
        ("https://ion.example", {"ca_file": "/nothing/there"}, "ca_file: /nothing/there cannot be read"),
        ("https://ion.example", {"ca_file": __file__}, "has no certificates of authorities in PEM"),
        ("http://127.0.0.1:1", {"ca_file": "ca.pem"}, "ca_file: is for https"),
    ],
)
async def test_what_cannot_be_used_is_said_before_anything_is_asked(url: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        async with AsyncIon.connect(url, **given):
            raise AssertionError("it was connected")
    assert says in str(error.value)
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("http://localhost:1", {}),
        ("http://[::1]:1", {}),
        ("http://ion.example", {"plain_http": True}),
        ("https://ion.example", {}),
    ],
)
async def test_a_token_goes_to_this_machine_by_tls_or_where_plain_http_is_meant(
    url: str, given: dict[str, Any]
) -> None:
    async with AsyncIon.connect(url, token="canary", **given) as ion:
        assert "canary" not in repr(vars(ion._access))
