"""A flow drawn as a graph, and as a page of its own, whatever its documents hold."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ion_core.contracts.looking import EventView, FlowView, JobView
from ion_core.contracts.storage import Document
from ion_core.drawing import Beside, draw, graph_style, report
from ion_core.drawing.page import LOGS
from ion_core.drawing.said import fitted
from ion_core.drawing.tree import More, Node, placed
from ion_core.embedded.memory.blobs import MemoryBlobStore
from ion_core.embedded.memory.documents import MemoryDocumentStore
from ion_core.events import StoredFile
from ion_core.flows import FlowInShort, view_of
from ion_core.modules import Module
from ion_core.report import collect, small_pictures
from ion_core.words import size
from tests.cli.test_flow import MODULES, WHOLE, attempt, commit, event, flow_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"


class Read(HTMLParser):
    """Elements with their attributes, and the texts that a person sees."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for it, attributes in self.elements if it == tag]


def _view(*documents: Document, modules: list[Module] = MODULES, damaged: Sequence[str] = ()) -> FlowView:
    flow = flow_of(*documents, modules=modules)
    return view_of(flow, FlowInShort.of(flow), damaged)


def _page(
    *documents: Document, modules: list[Module] = MODULES, damaged: Sequence[str] = (), beside: Beside | None = None
) -> Read:
    return Read(report(_view(*documents, modules=modules, damaged=damaged), beside, made_at=NOW))


def _wide(count: int, *, failing: int) -> list[Document]:
    """An event whose job led to ``count`` others; the job of that number failed."""
    events = [event(f"f{n}", "face", name="detect", parent="e1") for n in range(count)]
    return [event("e1", "photo"), commit("detect", "e1"), *events, attempt("blur", f"f{failing}", 1, "dead-lettered")]


def test_each_stands_right_of_its_cause_and_none_on_another() -> None:
    nodes = placed(_view(*WHOLE))
    assert [(type(it.item).__name__, it.column, it.row) for it in nodes] == [
        ("EventView", 0, 0.5),
        ("JobView", 1, 0.5),
        ("EventView", 2, 0),
        ("JobView", 3, 0),
        ("EventView", 2, 1),
        ("JobView", 3, 1),
    ]
    places = [(it.column, it.row) for it in placed(_view(*_wide(12, failing=3)))]
    assert len(places) == len(set(places))


def test_of_many_the_first_are_drawn_and_all_with_trouble_and_the_others_are_counted() -> None:
    flow = _view(*_wide(200, failing=150))
    nodes = placed(flow)
    drawn = [it.item.event_id for it in nodes if isinstance(it.item, EventView)]
    assert drawn == ["e1", *(f"f{n}" for n in range(8)), "f150"]
    assert [it.item for it in nodes if isinstance(it.item, More)] == [More(count=191, type="face")]
    said = [text.text for text in draw(flow).iter("text")]
    assert "191 more face" in said


def test_a_flow_of_any_depth_is_drawn() -> None:
    chain = [event("e0", "photo")]
    for n in range(3000):
        chain += [commit("detect", f"e{n}"), event(f"e{n + 1}", "photo", name="detect", parent=f"e{n}")]
    assert len(placed(_view(*chain))) == 6002
    assert len(Read(report(_view(*chain), made_at=NOW)).attributes("svg")) == 1


def test_a_job_has_its_state_as_class_and_word_its_fact_and_its_time() -> None:
    svg = draw(_view(*WHOLE))
    jobs = [it for it in svg.iter("g") if it.get("class", "").startswith("job")]
    assert [it.get("class") for it in jobs] == ["job ok", "job bad", "job wait"]
    assert [[text.text for text in it.iter("text")] for it in jobs] == [
        ["detect", "1.00 s · attempt 2"],
        ["blur", "dead · exit code 126 · 1 ×"],
        ["blur", "pending"],
    ]
    assert next(jobs[1].iter("title")).text == "job of blur: dead-lettered, dead · exit code 126 · 1 ×"
    bar = {it.get("class"): float(it.get("width", "")) for it in jobs[0].iter("rect") if it.get("class")}
    assert bar["time module"] / bar["time commit"] == pytest.approx(45, rel=0.05)


def test_a_job_that_runs_now_is_marked_and_says_since_when() -> None:
    since = NOW.astimezone(timezone(timedelta(hours=1)))
    flow = _view(*WHOLE)
    running = {(it.event_id, it.module): since for it in flow.jobs}
    jobs = [it for it in draw(flow, running=running).iter("g") if it.get("class", "").startswith("job")]
    assert [it.get("class") for it in jobs] == ["job ok", "job run", "job run"], "what has committed is done"
    assert [text.text for text in jobs[2].iter("text")] == ["blur", "running since 00:00:00 UTC"]
    assert next(jobs[2].iter("title")).text == "job of blur: running since 00:00:00 UTC"
    assert ".job.run rect:first-of-type" in graph_style()


def test_what_is_chosen_is_marked_and_nothing_else() -> None:
    flow = _view(*WHOLE)
    for item, kind in ((flow.jobs[1], "job bad chosen"), (flow.events[1], "event chosen")):
        svg = draw(flow, chosen=item, link=lambda it: "#")
        assert [it.get("class") for it in svg.iter("g") if "chosen" in it.get("class", "")] == [kind]
        [link] = [it for it in svg.iter("a") if it.get("aria-current") == "true"]
        assert next(link.iter("g")).get("class") == kind
    assert not [it for it in draw(flow).iter("g") if "chosen" in it.get("class", "")]


def test_what_the_graph_leads_to_is_on_the_page() -> None:
    page = _page(*WHOLE)
    ids = [it["id"] for it in page.attributes("dl")]
    assert len(ids) == len(set(ids)) == 6
    assert sorted(f"#{it}" for it in ids) == sorted(str(it["href"]) for it in page.attributes("a"))


def test_jobs_in_trouble_are_open_and_say_how_each_attempt_went() -> None:
    page = _page(*WHOLE, beside=Beside(logs={"": "lens broken"}))
    assert [it for it in page.attributes("details") if "open" in it] == [{"open": ""}]
    assert {"retried: exit code 3", "dead-lettered: exit code 126"} <= set(page.texts)


def test_what_came_from_outside_stays_text() -> None:
    hostile = [
        event(HOSTILE, HOSTILE, name=HOSTILE, files=[HOSTILE], data=[{"key": HOSTILE, "value": HOSTILE}]),
        attempt(HOSTILE, HOSTILE, 1, HOSTILE, reason=HOSTILE),
    ]
    modules = [Module(name=HOSTILE, subscribes=(HOSTILE,))]
    page = _page(*hostile, modules=modules, beside=Beside(logs={"": HOSTILE}), damaged=[HOSTILE])
    assert {"script", "img", "iframe", "object", "form"}.isdisjoint(tag for tag, _ in page.elements)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert HOSTILE in page.texts
    assert all(str(it["href"]).startswith("#") for it in page.attributes("a"))


def test_its_policy_allows_its_own_style_and_nothing_else() -> None:
    page = _page(*WHOLE)
    policy = next(it["content"] for it in page.attributes("meta") if it.get("http-equiv"))
    style = page.texts[page.texts.index(next(it for it in page.texts if ":root" in it))]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert not [it for _, attributes in page.elements for it in attributes if it == "style"]


def test_every_text_of_others_goes_through_what_hides() -> None:
    secret = "canary"
    documents = [
        event("e1", secret, name=secret, files=[secret], data=[{"key": secret, "value": secret}]),
        attempt(secret, "e1", 1, "dead-lettered", reason=secret),
    ]
    file = StoredFile(name=secret, key="k", size=1, sha256="0")
    beside = Beside(logs={"": secret}, images={"": secret}, made={("e1", secret): [file]}, lost={"k": secret})
    view = _view(*documents, modules=[Module(name=secret, subscribes=(secret,))], damaged=[secret])
    written = report(view, beside, made_at=NOW, shown=lambda text: text.replace(secret, "***"))
    assert secret not in written.decode()


def test_a_large_flow_is_a_page_that_can_be_mailed() -> None:
    events = [event("e0", "photo", files=["a.jpg"])]
    logs = {}
    for n in range(1, 1000):
        id = f"{n:08}-94f1-4d0e-9a53-1c9e6b0f2a11"
        events += [
            event(id, "face", name="detect", parent="e0", data=[{"key": f"k{k}", "value": "v" * 20} for k in range(6)])
        ]
        failed = attempt("blur", id, 1, "dead-lettered", reason="exit code 126")
        failed = type(failed)(kind=failed.kind, id=failed.id, correlation_id="c", body={**failed.body, "token": id})
        events.append(failed)
        logs[id] = "x" * 8000
    written = report(_view(*events), Beside(logs=logs), made_at=NOW)
    assert len(written) < 5_000_000
    page = Read(written)
    assert sum(len(it) for it in page.texts if it.startswith("xxx")) <= LOGS
    assert "ion-core logs 00000999-94f1-4d0e-9a53-1c9e6b0f2a11" in page.texts


async def test_the_end_of_a_log_is_kept_with_what_is_before_it() -> None:
    documents = MemoryDocumentStore()
    long = attempt("detect", "e1", 1, "committed")
    body = {**long.body, "token": "t", "logs": "\n".join(f"line {n}" for n in range(10_000)) + "\n"}
    await documents.put(event("e1", "photo"))
    await documents.put(type(long)(kind=long.kind, id=long.id, correlation_id="c", body=body))
    kept = (await collect(documents, "c", MODULES)).beside.logs["t"]
    assert kept.endswith("line 9998\nline 9999")
    first, _, rest = kept.partition("\n")
    whole = body["logs"].rstrip("\n")
    assert first == f"… {len(whole) - len(rest):,} characters before this"
    assert whole.endswith(rest)


async def test_small_pictures_are_known_by_their_content(tmp_path: Path) -> None:
    blobs, lost = MemoryBlobStore(), dict[str, str]()
    png = b"\x89PNG\r\n\x1a\n" + bytes(50)
    svg = b"<svg onload='alert(1)'></svg>"
    files = []
    for name, content in (("a.txt", png), ("b.png", svg), ("c.png", png + bytes(200_000)), ("d.png", png)):
        path = tmp_path / name
        path.write_bytes(content)
        if name != "d.png":
            await blobs.put(name, path)
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(StoredFile(name=name, key=name, size=len(content), sha256=sha256))
    found = await small_pictures(blobs, files, most=1000, lost=lost)
    assert found == {"a.txt": ("image/png", png)}
    assert [*lost] == ["d.png"]
    assert await small_pictures(blobs, files, most=10, lost={}) == {}
    page = _page(event("e1", "photo"), beside=Beside(brought={"e1": files}, pictures=found, lost=lost))
    assert [it["src"] for it in page.attributes("img")] == [f"data:image/png;base64,{base64.b64encode(png).decode()}"]
    assert lost["d.png"] in page.texts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("détection", "détection"),
        ("detectdetect", "detectdet…"),
        ("人脸检测", "人脸检测"),
        ("人脸检测人脸", "人脸检测…"),
        ("e\u0301" * 10, "e\u0301" * 10),
    ],
)
def test_a_text_fits_by_the_columns_it_takes(text: str, said: str) -> None:
    assert fitted(text, 10) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (1023, "1023 B"), (4198, "4.1 KiB"), (1024 * 1000, "1.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes_have_units(count: int, said: str) -> None:
    assert size(count) == said


def test_a_job_that_was_never_begun_is_drawn_too() -> None:
    flow = _view(event("e1", "photo"))
    assert [type(it.item) for it in placed(flow)] == [EventView, JobView]


GATHERING = [
    Module(name="split", subscribes=("album",)),
    Module(name="thumb", subscribes=("photo",)),
    Module(name="sheet", subscribes=("ion.gathered.sheet",)),
]


def _gathering(count: int) -> FlowView:
    """An album of so many photographs, each with a thumbnail, and the event that starts the gatherer of these."""
    photos = [f"p{n}" for n in range(count)]
    documents = [event("a", "album"), commit("split", "a", events=[{"id": it, "type": "photo"} for it in photos])]
    for it in photos:
        documents.append(commit("thumb", it, parent="a", events=[{"id": f"t-{it}", "type": "thumb"}]))
    made = {"made": [{"job": "-", "events": [f"t-{it}"]} for it in photos]}
    documents.append(event("s", "ion.gathered.sheet", name="sheet", parent="a", gathered=made))
    return _view(*documents, modules=GATHERING)


def _sheet(nodes: Sequence[Node]) -> Node:
    [sheet] = [it for it in nodes if isinstance(it.item, EventView) and it.item.event_id == "s"]
    return sheet


def test_what_a_gatherer_is_given_leads_to_the_event_that_starts_it() -> None:
    sheet = _sheet(placed(_gathering(3)))
    gathered = [it.item.event_id for it in sheet.gathered if isinstance(it.item, EventView)]
    assert gathered == ["t-p0", "t-p1", "t-p2"]
    assert sheet.column == 1 + max(it.column for it in sheet.gathered)
    edges = draw(_gathering(3)).findall(".//path[@class='gathered']")
    assert len(edges) == 3


def test_of_many_those_that_are_drawn_lead_there_and_what_stands_for_the_rest() -> None:
    kinds = [type(it.item).__name__ for it in _sheet(placed(_gathering(40))).gathered]
    assert (kinds.count("EventView"), kinds.count("More")) == (8, 1)
