"""The console's pages before the kit's host: each answers for what is empty, hostile, damaged or away."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import aiohttp
import pytest
import pytest_asyncio
from pydantic import SecretStr

from ion_console import rates
from ion_console.pages import flows
from ion_console.pages.files import MOST, SHOWN
from ion_console.rates import Rates
from ion_console.sessions import LIFE, SKEW, Sessions
from ion_core.contracts.looking import (
    AttemptView,
    Change,
    DeadLetterView,
    EventView,
    FileContent,
    FileView,
    FlowSummary,
    FlowView,
    HealthView,
    JobView,
    LetterFilter,
    LetterGroup,
    LetterId,
    Link,
    LogView,
    ModuleView,
    Page,
    Pipeline,
    PlannedView,
    Problem,
    QueueView,
)
from ion_core.contracts.messaging import DeadLetter, QueueStats
from ion_core.errors import BlobNotFound, DeadLetterNotFound, InvalidCursor, PermanentError, TransientError
from ion_core.events import Context, Event, StoredFile
from ion_core.testing.host import Host
from plugins.ion_console.tests.consoles import LOOK, MEND, TOKENS, Running, bearer, running

HOSTILE = "</script><script>ran()</script>\"'&\0\u202e\ud800 {{ 7 * 7 }} ../\\\r\n"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OWN = {"Sec-Fetch-Site": "same-origin"}


def flow_of(text: str, *, jobs: int = 1, damaged: Sequence[str] = ()) -> FlowView:
    attempt = AttemptView(
        number=1,
        token="t",
        outcome="dead-lettered",
        reason=text,
        started_at=NOW,
        finished_at=None,
        seconds={"all": 1.0},
    )
    summary = FlowSummary(
        correlation_id=text,
        outcome="dead",
        over=True,
        events=1,
        jobs={"dead-lettered": jobs},
        failing=[text],
        event_id=text,
        type=text,
        data=[(text, text)],
        files=[text, text],
        started_at=NOW,
    )
    event = EventView(event_id=text, type=text, name=text, parent_event_id="", data=[(text, text)], files=[text])
    some = [
        JobView(event_id=text, module=f"{text}{n}", state="dead-lettered", attempts=[attempt], insights=[(text, text)])
        for n in range(jobs)
    ]
    return FlowView(summary=summary, events=[event], jobs=some, damaged=damaged)


def letter_of(
    queue: str, id: str, *, event: Event | None = None, taken: bool = True, died_at: datetime = NOW
) -> DeadLetterView:
    letter = DeadLetter(id=id, queue=queue, body=b"", reason=HOSTILE, attempts=2, log_tail=[HOSTILE], died_at=died_at)
    return DeadLetterView(letter=letter, event=event, unreadable="" if event else HOSTILE, taken=taken)


class Showing(Host):
    """Shows what it is told to have."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.has: FlowView | None = None
        self.is_ = HealthView(live=True, ready=True, draining=False)
        self.content = b""
        self.file_name = "a"
        self.letters: list[DeadLetterView] = []
        self.did: list[tuple[str, Any]] = []
        self.damaged: list[str] = []
        self.broker_is_away = False
        self.empty_pages = 0

    def health(self) -> HealthView:
        return self.is_

    def pipeline(self) -> Pipeline:
        if self.has is None:
            return super().pipeline()
        about: dict[str, Any] = {"runtime": HOSTILE, "image": HOSTILE, "timeout": timedelta(seconds=1)}
        module = ModuleView(name=HOSTILE, subscribes=[HOSTILE], publishes=[HOSTILE], concurrency=1, retries=1, **about)
        return Pipeline(modules=[module], links=[Link(source="", type=HOSTILE, target=HOSTILE)])

    def planned(self, count: int = 3) -> list[PlannedView]:
        times = [datetime(2030, 1, 2, 3, 4, tzinfo=UTC)] * count
        return [PlannedView(service=HOSTILE, name=HOSTILE, type=HOSTILE, times=times)] if self.has else []

    async def flows(self, **asked: Any) -> Page[FlowSummary]:
        await super().flows()
        self.asked = asked
        if asked["after"] == "none":
            raise InvalidCursor("the cursor 'none'")
        at = int(asked["after"] or 0)
        if at < self.empty_pages:
            return Page(items=[], damaged=self.damaged, cursor=str(at + 1))
        return Page(items=[self.has.summary] if self.has else [], damaged=self.damaged, cursor=None)

    async def flow(self, correlation_id: str) -> FlowView | None:
        await super().flow(correlation_id)
        return self.has if correlation_id == "f" else None

    async def files(self, correlation_id: str, event_id: str | None = None) -> Sequence[FileView]:
        await super().files(correlation_id, event_id)
        if self.has is None:
            return []
        digest = hashlib.sha256(self.content).hexdigest()
        file = StoredFile(name=self.file_name, key="k", size=len(self.content), sha256=digest)
        return [FileView(file=file, module=HOSTILE, event_id=HOSTILE, came_in=True)]

    @asynccontextmanager
    async def file(self, correlation_id: str, key: str) -> AsyncIterator[FileContent]:
        if key != "k":
            raise BlobNotFound("no such file")

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(self.content), 1 << 20):
                yield self.content[at : at + (1 << 20)]

        [view] = await self.files(correlation_id)
        yield FileContent(file=view.file, chunks=chunks())

    async def logs(self, event_id: str, *, correlation_id: str | None = None) -> Sequence[LogView]:
        assert self.has is not None
        job = self.has.jobs[0]
        return [LogView(event_id=event_id, module=job.module, attempt=job.attempts[0], text=HOSTILE)]

    async def queues(self) -> Sequence[QueueView]:
        if self.broker_is_away:
            raise TransientError("away")
        stats = QueueStats(ready=1, delayed=2, unsettled=None, dead=len(self.letters))
        return [QueueView(name=HOSTILE, topics=[HOSTILE], taken=False, stats=stats, oldest=NOW)]

    async def dead_letters(self, which: LetterFilter = LetterFilter(), **asked: Any) -> Page[DeadLetterView]:  # noqa: B008
        await super().dead_letters(which)
        if self.broker_is_away:
            raise TransientError("away")
        found = [it for it in self.letters if which.module in (None, it.letter.queue)]
        at, limit = int(asked.get("after") or 0), asked["limit"]
        more = str(at + limit) if at + limit < len(found) else None
        return Page(items=found[at : at + limit], cursor=more, damaged=self.damaged)

    async def dead_letter_groups(self, by: str) -> Sequence[LetterGroup]:
        await super().dead_letter_groups(by)
        keys = dict.fromkeys(it.letter.queue for it in self.letters)
        return [LetterGroup(key=it, count=len(self.letters), oldest=NOW, newest=NOW) for it in ["", *keys]]

    async def redrive(self, ids: Sequence[LetterId]) -> int:
        there = {LetterId(it.letter.queue, it.letter.id) for it in self.letters}
        if not set(ids) <= there:
            raise DeadLetterNotFound("gone")
        self.did.append(("these", ids))
        self.letters = [it for it in self.letters if LetterId(it.letter.queue, it.letter.id) not in ids]
        return len(ids)

    async def redrive_all(self, which: LetterFilter) -> int:
        self.did.append(("all", which))
        gone, self.letters = self.letters, []
        return len(gone)


class Html(HTMLParser):
    """The elements of a page, with the text of those that a browser would run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @property
    def hidden(self) -> list[tuple[str, str]]:
        return [
            (str(it["name"]), str(it["value"]))
            for tag, it in self.tags
            if tag == "input" and it.get("type") == "hidden"
        ]


@pytest_asyncio.fixture
async def it(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, Showing(tmp_path)) as found:
        yield found


async def ask(it: Running, path: str, **how: Any) -> tuple[int, str, Any]:
    async with it.client.request(how.pop("method", "GET"), it.console.url + path, **how) as answer:
        return answer.status, (await answer.read()).decode(), answer.headers


async def send(it: Running, path: str, *fields: tuple[str, str], headers: Any = OWN) -> tuple[int, str, Any]:
    """A form, as a page of ours sends it."""
    how: dict[str, Any] = {"data": io.BytesIO(urlencode(fields).encode()), "allow_redirects": False, "method": "POST"}
    return await ask(it, path, headers={"Content-Type": "application/x-www-form-urlencoded", **headers}, **how)


VIEWS = ["/flows", "/modules", "/dead-letters", "/pipeline", "/sign-in", "/flows/none", "/nothing"]
OF_A_FLOW = ["", "/jobs", "/file?key=k", "?tab=log", "?tab=files", "?tab=insights", "?tab=about"]


@pytest.mark.parametrize("path", VIEWS)
async def test_every_page_answers_where_there_is_nothing(it: Running, path: str) -> None:
    status, text, headers = await ask(it, path)
    assert status == (404 if "no" in path else 200)
    assert text.count("<main") == 1
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", [*VIEWS, *(f"/flows/f{it}" for it in OF_A_FLOW)])
async def test_what_is_hostile_or_damaged_is_text_on_every_page(it: Running, path: str) -> None:
    host = it.host
    host.has, host.damaged = flow_of(HOSTILE, jobs=3, damaged=[HOSTILE]), [HOSTILE]
    host.content, host.file_name = HOSTILE.replace("\0", "").encode("utf-8", "replace"), HOSTILE
    context = Context(name=HOSTILE, event_id=HOSTILE, correlation_id=HOSTILE, parent_event_id="")
    event = Event(context=context, type=HOSTILE, data=((HOSTILE, HOSTILE),), files=())
    host.letters = [letter_of(HOSTILE, HOSTILE), letter_of(f"{HOSTILE}0", "2", event=event, taken=False)]
    host.is_ = HealthView(
        live=True,
        ready=False,
        draining=False,
        problems=[Problem(where=HOSTILE, what=HOSTILE, would_do=HOSTILE, since=NOW)],
    )
    status, text, _ = await ask(it, path)
    assert status == (404 if path in ("/flows/none", "/nothing") else 200), text
    assert "7 * 7" in text
    page = Html(text)
    assert [about for tag, about in page.tags if tag == "script"] == [{"src": "/static/console.js", "defer": None}]
    assert not [tag for tag, _ in page.tags if tag in ("style", "iframe", "object", "embed", "base")]
    for tag, about in page.tags:
        assert not [name for name in about if name.startswith("on") or name == "style"], (tag, about)
        for name in ("href", "src", "action"):
            if (place := about.get(name)) is not None and not (tag == "a" and place.startswith(("#", "?"))):
                assert place.startswith("/"), (tag, about)
                assert not place.startswith("//"), (tag, about)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/flows?q=", 200),
        ("/flows?q=%20", 200),
        (f"/flows?q={'a' * 1025}", 422),
        ("/flows?colour=red", 422),
        ("/flows?state=lost", 422),
        ("/flows?after=none", 404),
        ("/flows?q=%ED%A0%80%FF%00", 200),
        (f"/flows/{'a' * 1025}", 404),
        ("/flows/a%2fb", 404),
        ("/flows/%ED%A0%80", 404),
        ("/flows/f?event=none", 404),
        ("/flows/f?event=f&of=none", 404),
        ("/flows/f?tab=none", 422),
        ("/flows/f/jobs?page=0", 422),
        ("/flows/f/jobs?page=1000", 200),
        ("/flows/f/file?key=none", 404),
        ("/flows/f/file", 422),
        ("/flows/f/picture?key=none", 404),
        ("/flows/f/report", 404),
        ("/dead-letters?did=redrive&count=%D9%A1", 422),
        ("/dead-letters?did=redrive", 200),
        ("/static/none", 404),
        ("/static/..%2fshell.py", 404),
        ("/sign-out", 405),
    ],
)
async def test_what_is_asked_for_wrongly_is_told_on_a_page(it: Running, path: str, status: int) -> None:
    it.host.has = flow_of("f")
    found, text, headers = await ask(it, path)
    assert found == status, text
    assert "<main" in text
    assert ("Allow" in headers) == (status == 405)


async def test_a_list_looks_on_where_a_page_is_empty_as_far_as_there_is_time(
    it: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    it.host.has, it.host.empty_pages = flow_of("f"), 3
    _, text, _ = await ask(it, "/flows")
    assert 'id="flow-f"' in text
    assert "look on" not in text
    monkeypatch.setattr(flows, "LOOKED_FOR", 0.0)
    _, text, _ = await ask(it, "/flows")
    assert ('href="/flows?after=1"' in text, "look on" in text, 'id="flow-f"' in text) == (True, True, False)


async def test_a_search_that_is_empty_asks_for_all(it: Running) -> None:
    await ask(it, "/flows?q=&state=failed")
    assert (it.host.asked["containing"], it.host.asked["outcomes"]) == (None, ("dead", "failed"))


@pytest.mark.parametrize(
    ("path", "says"),
    [("/flows", "The document store"), ("/flows/f", "The document store"), ("/dead-letters", "The broker")],
)
async def test_what_is_away_is_named_and_asked_for_again(it: Running, path: str, says: str) -> None:
    it.host.unanswering = TransientError("/secret/path: away")
    it.host.broker_is_away = True
    status, text, headers = await ask(it, path)
    assert (status, headers["Refresh"], headers["Retry-After"]) == (503, "5", "5")
    assert f"{says} does not answer" in text
    assert "secret" not in text
    it.host.unanswering = PermanentError("/secret/path")
    status, text, headers = await ask(it, "/flows")
    assert (status, "Refresh" in headers, "secret" in text) == (500, False, False)


async def test_pages_are_there_where_the_broker_is_away(it: Running) -> None:
    it.host.broker_is_away = True
    it.host.has = flow_of("f")
    for path in ("/flows", "/flows/f"):
        status, text, _ = await ask(it, path)
        assert status == 200
        assert 'id="nav-letters"' in text
        assert 'class="count' not in text


async def test_dead_letters_are_counted_anew_once_something_has_happened(it: Running) -> None:
    async def counted() -> str | None:
        found = re.search(r'<b class="count bad">(.*?)</b>', (await ask(it, "/flows"))[1])
        return found[1] if found else None

    assert await counted() is None
    it.host.letters = [letter_of("q", "1")]
    assert await counted() is None, "within two seconds"
    it.host.letters *= 1_234
    it.console._pages.shell.rates.seen += 1
    assert await counted() == "1,234"


async def test_what_takes_long_to_draw_holds_up_nothing_else(it: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    it.host.has = flow_of("f")
    loop, drawing, told = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    draw = flows.draw

    def slow(*given: Any, **how: Any) -> Any:
        loop.call_soon_threadsafe(drawing.set)
        assert told.wait(20)
        return draw(*given, **how)

    monkeypatch.setattr(flows, "draw", slow)
    asked = asyncio.create_task(ask(it, "/flows/f"))
    async with asyncio.timeout(20):
        await drawing.wait()
        assert (await ask(it, "/healthz"))[0] == 200
        told.set()
        assert (await asked)[0] == 200


# Dead letters


async def test_what_is_mended_is_asked_again_and_told(it: Running) -> None:
    names = [(f"{HOSTILE[:5]}/q", "a/b"), ("q", "1"), ("q", "2")]
    it.host.letters = [letter_of(*name) for name in names]
    for chosen in ([("id", f"{quote('</scr/q', safe='')}/a%2Fb")], [("module", "q")], [("all", "yes")]):
        status, text, _ = await send(it, "/dead-letters/redrive", *chosen)
        assert (status, it.host.did) == (200, [])
        page = Html(text)
        assert ("sure", "yes") in page.hidden
        assert "data-live" not in text, "it is no answer to GET, and cannot be asked for anew"
        status, text, headers = await send(it, "/dead-letters/redrive", *page.hidden)
        assert status == 303, text
        place = headers["Location"]
        [count] = [value for name, value in parse_qsl(place.partition("?")[2]) if name == "count"]
        status, text, _ = await ask(it, place)
        assert (status, f"{count} dead letter" in text) == (200, True)
        it.host.letters = [letter_of(*name) for name in names]
        did, it.host.did = it.host.did, []
        [(how, which)] = did
        assert how == ("these" if chosen[0][0] == "id" else "all")
        if how == "these":
            assert which == [LetterId(*names[0])]


async def test_purging_asks_for_the_number_to_be_typed(it: Running) -> None:
    it.host.letters = [letter_of("q", str(n)) for n in range(3)]
    for typed in ("", "2", "three", "03", "٣"):
        status, text, _ = await send(it, "/dead-letters/purge", ("all", "y"), ("sure", "y"), ("typed", typed))
        assert (status, it.host.did) == (200, [])
        assert "Type 3, or go back." in text
    it.host.letters.append(letter_of("q", "3"))
    assert (
        "Type 4, or go back." in (await send(it, "/dead-letters/purge", ("all", "y"), ("sure", "y"), ("typed", "3")))[1]
    )
    assert (await send(it, "/dead-letters/purge", ("all", "y"), ("sure", "y"), ("typed", " 4 ")))[0] == 303
    assert it.host.letters == []


async def test_of_many_groups_the_largest_are_listed(it: Running) -> None:
    it.host.letters = [letter_of(f"q{n}", str(n)) for n in range(150)]
    _, text, _ = await ask(it, "/dead-letters")
    assert ('by=reason&amp;reason=q98"' in text, 'by=reason&amp;reason=q99"' in text) == (True, False)
    assert "and 51 smaller groups." in text
    it.host.letters = [letter_of("q" * 1_025, "1")]
    status, text, _ = await ask(it, "/dead-letters")
    assert (status, "by=reason&amp;reason=qq" in text) == (200, False), "no address may be so long"


async def test_those_that_died_after_the_question_are_not_purged(it: Running) -> None:
    it.host.letters = [letter_of("q", str(n)) for n in range(3)]
    _, text, _ = await send(it, "/dead-letters/purge", ("all", "y"))
    fields = Html(text).hidden
    came = letter_of("q", "3", died_at=NOW + timedelta(microseconds=1))
    it.host.letters = [*it.host.letters[1:], came]
    status, text, _ = await send(it, "/dead-letters/purge", *fields, ("typed", "3"))
    assert (status, it.host.did) == (200, []), "one was put back meanwhile: as many, but not the same"
    assert "Type 3, or go back." in text
    fields = Html(text).hidden
    it.host.letters.append(letter_of("q", "4", died_at=NOW + timedelta(seconds=1)))
    assert (await send(it, "/dead-letters/purge", *fields, ("typed", "3")))[0] == 303
    assert [view.letter.id for view in it.host.letters] == ["4"]


@pytest.mark.parametrize("until", ["", "now", "2026-01-01", "\ud800"])
async def test_a_time_that_the_question_did_not_have_is_none(it: Running, until: str) -> None:
    it.host.letters = [letter_of("q", "1")]
    sure = (("all", "y"), ("sure", "y"), ("typed", "1"))
    given = ("until", until.encode("utf-8", "surrogatepass").decode("latin1"))
    assert (await send(it, "/dead-letters/purge", *sure, given))[0] == 422
    assert it.host.did == []


async def test_what_has_gone_meanwhile_is_told(it: Running) -> None:
    for verb in ("redrive", "purge"):
        sure = (("sure", "y"), ("typed", "1"))
        status, text, _ = await send(it, f"/dead-letters/{verb}", ("id", "q/1"), *sure)
        assert (status, "List them anew" in text) == (404, True)
        status, text, _ = await send(it, f"/dead-letters/{verb}", ("module", "q"), *sure)
        assert (status, f"There is none to {verb}" in text) == (200, True)
    assert it.host.did == []


@pytest.mark.parametrize(
    "then", ["//evil.example/", "/\\evil.example", "https://evil.example", "javascript:x", "/\r\nX: y", ""]
)
async def test_one_is_sent_to_pages_of_ours_only(it: Running, then: str) -> None:
    it.host.letters = [letter_of("q", "1")]
    status, _, headers = await send(it, "/dead-letters/redrive", ("all", "y"), ("sure", "y"), ("then", then))
    assert status == 303
    assert headers["Location"] == "/dead-letters?did=redrive&count=1"


async def test_what_a_form_may_be_is_bounded(it: Running) -> None:
    it.host.letters = [letter_of("q", "1")]
    assert (await send(it, "/dead-letters/redrive"))[0] == 422
    assert (await send(it, "/dead-letters/redrive", *[("id", f"q/{n}") for n in range(1_001)]))[0] == 422
    assert (await send(it, "/dead-letters/redrive", ("all", "a" * (1 << 20))))[0] == 413
    assert (await send(it, "/dead-letters/redrive", *[(str(n), "") for n in range(10_001)]))[0] == 400
    assert (await ask(it, "/dead-letters/redrive", method="POST", json={}, headers=OWN))[0] == 415
    for other in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert (await send(it, "/dead-letters/redrive", ("all", "y"), ("sure", "y"), headers=other))[0] == 403
    assert it.host.did == []


async def test_a_flow_with_more_dead_letters_than_a_form_takes_says_so(it: Running) -> None:
    flow = flow_of("f")
    it.host.has = flow
    context = Context(name="f", event_id="f", correlation_id="f", parent_event_id="")
    event = Event(context=context, type="f", data=(), files=())
    it.host.letters = [letter_of("f0", str(n), event=event) for n in range(1_001)]
    _, text, _ = await ask(it, "/flows/f")
    assert "Redrive 1,000 of 1,001" in text
    fields = Html(text).hidden
    assert (await send(it, "/dead-letters/redrive", *fields, ("sure", "y")))[0] == 303
    assert (await ask(it, "/flows/f?did=redrive&count=1000"))[1].count("1,000 dead letters put back") == 1


# Files


@pytest.mark.parametrize(
    ("name", "content", "shows"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n", '<img class="picture"'),
        ("a", b"\xff\xd8\xff\xe0", '<img class="picture"'),
        ("a.txt", b"GIF89a", '<img class="picture"'),
        ("a.webp", b"RIFF....WEBP", '<img class="picture"'),
        ("a.wav", b"RIFF....WAVE", "RIFF....WAVE"),
        ("a.csv", b'a,b\n1,"2\n3"\n', "<td>2\n3</td>"),
        ("a.tsv", b"a\tb\n1\t2\n", "<td>2</td>"),
        ("a.csv", b"", '<table class="data">'),
        ("a.csv", b"a\n" * 300, "Not all is shown."),
        ("a.csv", b'a,"b' + b"x" * 200_000, "Not all is shown."),
        ("a.json", b'{"a":[1]}', "{\n  &#34;a&#34;: [\n    1"),
        ("a.json", b"[" * 50_000, "[[[["),
        ("a.json", b"[" * 900 + b"1," * 30_000 + b"1" + b"]" * 900, "[[[["),
        ("a.json", b"[" * 60 + b"1," * 30_000 + b"1" + b"]" * 60, "1,1,1"),
        ("a.json", b'{"a":1,"a":2}', "{&#34;a&#34;:1,&#34;a&#34;:2}"),
        ("a.json", b'{"a":"\\ud800"}', "ud800"),
        ("a.csv", b"a," * 60 + b"b", "Not all is shown."),
        ("a.json", b"{1", "{1"),
        ("a.txt", "größe".encode(), "größe"),
        ("a.txt", "ö".encode() * SHOWN, "… 65,536 more bytes"),
        ("a.txt", b"a" + "ö".encode() * SHOWN, "more bytes"),
        ("a.txt", b"", "It is empty."),
        ("a.txt", b"a\0b", "It is none of what is shown here"),
        ("a.txt", b"\xff\xfea\0", "It is none of what is shown here"),
        ("a.HTML", b"text", "It is none of what is shown here"),
        ("a.svg", b"text", "It is none of what is shown here"),
        ("a", b" \n<!DOCTYPE html>", "It is none of what is shown here"),
        ("a", b"\xef\xbb\xbf<?xml version='1.0'?>", "It is none of what is shown here"),
        ("a.csv", b"<svg>", "It is none of what is shown here"),
        ("a.txt", b"a" * (MOST + 1), "It is larger than 32.0 MiB."),
    ],
)
async def test_files_are_shown_as_what_they_are(it: Running, name: str, content: bytes, shows: str) -> None:
    it.host.has, it.host.content, it.host.file_name = flow_of("f"), content, name
    status, text, _ = await ask(it, "/flows/f/file?key=k")
    assert status == 200
    assert shows in text
    assert len(text) < 16 * SHOWN
    async with it.client.get(f"{it.console.url}/flows/f/picture?key=k") as answer:
        is_one = "picture" in shows
        assert (answer.status == 200) == is_one
        assert answer.content_type.startswith("image/" if is_one else "text/html")
        if is_one:
            assert await answer.read() == content
            assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_by_head_there_is_no_picture_behind_the_head(it: Running) -> None:
    it.host.has, it.host.content = flow_of("f"), b"GIF89a"
    address = it.console.url.removeprefix("http://")
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"HEAD /flows/f/picture?key=k HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode("ascii")
    )
    async with asyncio.timeout(20):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert (b"Content-Length: 6" in head, body) == (True, b"")


async def test_what_pages_are_made_with_is_kept_by_browsers(it: Running) -> None:
    status, text, headers = await ask(it, "/static/console.css")
    assert (status, headers["Content-Type"], ":root" in text) == (200, "text/css; charset=utf-8", True)
    assert (await ask(it, "/static/console.css", headers={"If-None-Match": headers["ETag"]}))[0] == 304


# Sessions


@pytest.fixture
def sessions() -> Sessions:
    return Sessions([("look", [SecretStr(LOOK)]), ("mend", [SecretStr(MEND)])])


def test_a_session_is_of_the_token_that_it_began_with(sessions: Sessions) -> None:
    for token, role in ((LOOK, "look"), (MEND, "mend")):
        cookie = sessions.begin(token, 1_000.0)
        assert cookie is not None
        assert token not in cookie
        assert sessions.role(cookie, 1_000.0) == role
        assert sessions.role(cookie, 1_000.0 + LIFE - 1) == role
        assert sessions.role(cookie, 1_000.0 - SKEW) == role, "the clock was put back"
        assert sessions.role(cookie, 1_000.0 - SKEW - 1) is None
        assert sessions.role(cookie, 1_000.0 + LIFE) is None, "it has ended"
        others = Sessions([("mend", [SecretStr("another-canary-0123456789")])])
        assert others.role(cookie, 1_000.0) is None, "the token is gone"
    for token in ("", LOOK[:-1], f"{LOOK} ", "ö", "\udcff", "x" * 100_000):
        assert sessions.begin(token, 1_000.0) is None


def test_no_cookie_is_made_without_a_token(sessions: Sessions) -> None:
    cookie = sessions.begin(LOOK, 1_000.0)
    assert cookie is not None
    until, _, signed = cookie.partition(".")
    forged = [
        "",
        ".",
        signed,
        f"{int(until) + 1}.{signed}",
        f"{until}.{signed[:-1]}{'0' if signed[-1] != '0' else '1'}",
        f"{until}.{signed}0",
        f"0{until}.{signed}",
        f"{until}.{signed.upper()}",
        f" {cookie}",
        f"{cookie}\n",
        "9" * 100_000 + "." + signed,
        f"{until}.{'0' * 64}",
        "١٢٣." + signed,
    ]
    assert [it for it in forged if sessions.role(it, 1_000.0) is not None] == []
    far = sessions.begin(LOOK, 1_000_000.0)
    assert far is not None
    assert sessions.role(far, 1_000.0) is None, "nobody makes one that lasts longer"


async def test_a_browser_may_by_its_session_what_its_token_may(tmp_path: Path) -> None:
    async with running(tmp_path, Showing(tmp_path), **TOKENS) as it:
        it.host.letters = [letter_of("q", "1")]
        status, text, _ = await ask(it, "/flows?q=%22%3E")
        assert status == 401
        assert ("then", "/flows?q=%22%3E") in Html(text).hidden
        assert (await send(it, "/sign-in", ("token", "wrong-canary-0123456789")))[0] == 401
        for token, may in ((LOOK, 403), (MEND, 303)):
            status, _, headers = await send(it, "/sign-in", ("token", f" {token}\n"), ("then", "/modules"))
            assert (status, headers["Location"]) == (303, "/modules")
            set_cookie = headers["Set-Cookie"]
            assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in set_cookie.split(";")}
            assert token not in set_cookie
            for origin, secure in (("https", True), ("http", False)):  # of a proxy that ends TLS
                its = {**OWN, "Origin": f"{origin}://ion.example"}
                _, _, headers = await send(it, "/sign-in", ("token", token), headers=its)
                assert ("; Secure" in headers["Set-Cookie"]) == secure
            cookie = {"Cookie": set_cookie.partition(";")[0]}
            jar = aiohttp.DummyCookieJar()
            async with aiohttp.ClientSession(cookie_jar=jar) as client:
                of_browser = Running(it.console, it.host, client)
                status, text, _ = await ask(of_browser, "/dead-letters", headers=cookie)
                assert (status, "Redrive" in text) == (200, may == 303)
                sure = (("all", "y"), ("sure", "y"))
                assert (await send(of_browser, "/dead-letters/redrive", *sure, headers=cookie))[0] == 403
                evil = {**cookie, "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
                assert (await send(of_browser, "/dead-letters/redrive", *sure, headers=evil))[0] == 403
                assert (await send(of_browser, "/dead-letters/redrive", *sure, headers={**cookie, **OWN}))[0] == may
                stale = {"Cookie": cookie["Cookie"] + "0"}
                assert (await ask(of_browser, "/dead-letters", headers=stale))[0] == 401
        assert (await ask(it, "/dead-letters", headers=bearer(LOOK)))[0] == 200


# What else pages are made of


def test_rates_are_of_the_last_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    counted = Rates()
    for number in range(600):
        now = 1_000.0 + number
        outcome = "committed" if number % 3 else "retried"
        counted.add(Change(kind="finished", at=NOW, module="m", outcome=outcome))
    of = counted.of("m")
    assert 290 <= of.ended <= 312
    assert 95 <= of.failed <= 105
    assert counted.of("other") == (0, 0)
    assert len(counted._buckets) <= rates.SPAN / rates.BUCKET + 2
    now += rates.SPAN + 1
    assert counted.of("m") == (0, 0)


def schemes() -> dict[str, dict[str, str]]:
    """The colours of each scheme, by name."""
    css = (files("ion_console.pages") / "static" / "console.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+)", line)) for line in css.splitlines()[:2])
    return {"light": light, "dark": light | dark}


def luminance(colour: str) -> float:
    """As WCAG 2 has it."""
    digits = colour[1:] if len(colour) == 7 else "".join(it * 2 for it in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (it / 12.92 if it <= 0.03928 else ((it + 0.055) / 1.055) ** 2.4 for it in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_marks_too(scheme: str) -> None:
    colours = schemes()[scheme]
    on = [(text, behind, 4.5) for text in ("fg", "dim", "bad") for behind in ("bg", "card", "sel")]
    on += [("on-bad", "bad", 4.5)]
    on += [(mark, behind, 3.0) for mark in ("ok", "run", "wait") for behind in ("bg", "card", "sel")]
    for text, behind, least in on:
        lighter, darker = sorted((luminance(colours[text]), luminance(colours[behind])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= least, (text, behind)


async def test_a_page_waits_for_counts_no_longer_than_a_second(it: Running) -> None:
    async def never() -> Sequence[QueueView]:
        await asyncio.Event().wait()
        return []

    it.host.queues = never
    begun = time.monotonic()
    assert (await ask(it, "/flows"))[0] == 200
    assert 0.9 <= time.monotonic() - begun < 20


async def test_the_pipelines_page_says_what_is_published_by_the_clock(it: Running) -> None:
    it.host.has = flow_of("f")
    _, text, _ = await ask(it, "/pipeline")
    assert text.count("2030-01-02 03:04:00 UTC") == 3
    status, [told], _ = await it.ask("/api/schedules")
    assert (status, told["times"]) == (200, ["2030-01-02T03:04:00Z"] * 3)
