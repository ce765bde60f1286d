"""Ion from Python, on the embedded providers; what `serve` would do is done by documents, or by nobody."""

from __future__ import annotations

import asyncio
import html
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_core.app import App
from ion_core.client import AsyncIon, File, Flow, Ion
from ion_core.client.values import paths_of, row
from ion_core.config import load_config
from ion_core.contracts.storage import Document
from ion_core.errors import ConfigError, DocumentNotFound, IdTaken, InvalidEvent, Unroutable
from tests.cli.test_flow import attempt, commit, event

CONFIG = """
modules:
  detect: {command: [sh, -c, "true"], source: ., subscribes: [photo.received], publishes: [face.detected]}
  blur: {command: [sh, -c, "true"], source: ., subscribes: [face.detected], env: {KEY: "${env:CANARY}"}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CANARY", "canary-secret-text")
    path = tmp_path / "ion.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture
def ion(config: Path) -> Iterator[Ion]:
    with Ion.open(config) as opened:
        yield opened


def store(config: Path, flow: str, *documents: Document) -> None:
    """As modules would have left them."""

    async def put() -> None:
        async with App.open(load_config(config)) as app:
            for it in documents:
                body = {**it.body, "context": {**it.body["context"], "correlationId": flow}}
                await (await app.documents()).put(Document(kind=it.kind, id=it.id, correlation_id=flow, body=body))

    asyncio.run(put())


def over(config: Path, flow: Flow) -> None:
    """It has found two faces; for one of them a module failed."""
    first = flow.event_id or ""
    insights = [{"key": "faces", "value": "2"}, {"key": "x", "value": "1"}, {"key": "x", "value": "2"}]
    store(
        config,
        flow.id,
        commit("detect", first, insights=insights),
        attempt("detect", first, 1, "committed"),
        event("f1", "face.detected", name="detect", parent=first),
        event("f2", "face.detected", name="detect", parent=first, files=["face.jpg"]),
        attempt("blur", "f1", 1, "committed", second=1),
        attempt("blur", "f2", 1, "dead-lettered", reason="exit code 3", second=2),
    )


def test_what_is_published_is_a_flow_that_waits_for_its_modules(ion: Ion, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    flow = ion.publish("photo.received", data={"album": "summer"}, files=[tmp_path / "a.jpg"])
    (only,) = flow.events()
    assert (only.event_id, only.type, only.name, only.parent_event_id) == (
        flow.event_id,
        "photo.received",
        "python",
        "",
    )
    assert (only.data, only.files) == ((("album", "summer"),), ("a.jpg",))
    assert (flow.outcome, flow.state().over, flow.state().jobs) == ("running", False, {"pending": 1})
    with pytest.raises(TimeoutError, match=rf"flow {flow.id}: is running after 0.01 s \(1 pending\)"):
        flow.wait(0.01)


def test_a_flow_that_is_over_tells_what_became_of_it(ion: Ion, config: Path) -> None:
    flow = ion.publish("photo.received")
    over(config, flow)
    found = flow.wait(1)
    assert (found.outcome, found.over, found.failing) == ("dead", True, ("blur",))
    assert [it.event_id for it in flow.events()] == [flow.event_id, "f1", "f2"]
    assert [(it.module, it.state, len(it.attempts)) for it in flow.jobs()] == [
        ("detect", "committed", 1),
        ("blur", "committed", 1),
        ("blur", "dead-lettered", 1),
    ]
    assert flow.insights() == [{"module": "detect", "event": flow.event_id, "faces": "2", "x": ["1", "2"]}]
    assert [(it.module, it.attempt.outcome, it.attempt.reason) for it in flow.logs()] == [
        ("detect", "committed", ""),
        ("blur", "committed", ""),
        ("blur", "dead-lettered", "exit code 3"),
    ]
    assert [it.module for it in flow.logs("detect")] == ["detect"]
    assert [it.text for it in ion.flow(flow.id).logs("detect")] == ["x" * 100]


def test_who_waits_is_told_when_it_is_over(ion: Ion, config: Path) -> None:
    flow = ion.publish("photo.received")
    doing = threading.Thread(target=over, args=(config, flow))
    doing.start()
    assert flow.wait(30).over
    doing.join()


def test_files_are_listed_and_fetched(ion: Ion, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"content")
    flow = ion.publish("photo.received", files={"frames/1.jpg": tmp_path / "a.jpg"})
    (file,) = flow.files()
    assert isinstance(file, File)
    assert repr(file) == "<File 'frames/1.jpg', 7 bytes, of python>"
    assert (file.came_in, file.event_id) == (True, flow.event_id)
    assert file.fetch(tmp_path / "got.jpg").read_bytes() == b"content"
    with pytest.raises(FileExistsError, match="is there already"):
        file.fetch(tmp_path / "got.jpg")
    (path,) = flow.fetch(tmp_path / "all")
    assert path == tmp_path / "all" / "_in" / str(flow.event_id) / "frames" / "1.jpg"
    assert path.read_bytes() == b"content"
    assert ion.publish("photo.received").files() == []


def test_the_same_id_again_is_the_same_flow_and_another_content_is_refused(ion: Ion) -> None:
    first = ion.publish("photo.received", data={"a": "1"}, event_id="mine")
    assert ion.publish("photo.received", data={"a": "1"}, event_id="mine").id == first.id
    with pytest.raises(IdTaken):
        ion.publish("photo.received", data={"a": "2"}, event_id="mine")


def test_what_is_wrong_is_said_as_on_the_command_line(ion: Ion, tmp_path: Path) -> None:
    with pytest.raises(Unroutable):
        ion.publish("photo.recieved")
    with pytest.raises(InvalidEvent):
        ion.publish("")
    for asked in (ion.flow("nope").state, ion.flow("nope").logs, ion.flow("nope").files, ion.flow("nope").wait):
        with pytest.raises(DocumentNotFound, match="flow 'nope': there is none"):
            asked()
    (tmp_path / "wrong.yaml").write_text("modules: 1\n")
    with pytest.raises(ConfigError), Ion.open(tmp_path / "wrong.yaml"):
        raise AssertionError("it was opened")


def test_a_notebook_shows_it_drawn_alone_in_a_frame_and_without_secrets(ion: Ion, config: Path) -> None:
    flow = ion.publish("photo.received", data={"album": "canary-secret-text"})
    over(config, flow)
    shown = flow._repr_html_()
    assert shown.startswith("<iframe sandbox ")
    assert shown.count("<") == 2
    assert 'class="job bad"' in html.unescape(shown)
    assert "canary-secret-text" not in shown


def test_what_is_closed_says_so(config: Path) -> None:
    with Ion.open(config) as ion:
        flow = ion.publish("photo.received")
    with pytest.raises(RuntimeError, match="this Ion is closed"):
        flow.events()
    assert not [it for it in threading.enumerate() if it.name == "ion"]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As a program has it that was started from a terminal, however the tests were."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_wait_and_nothing_else(ion: Ion, interruptible: None) -> None:
    flow = ion.publish("photo.received")
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        flow.wait()
    timer.join()
    assert flow.outcome == "running"


async def test_the_same_with_an_event_loop(config: Path) -> None:
    async with AsyncIon.open(config) as ion:
        flows = await asyncio.gather(*(ion.publish("photo.received", data=[("n", str(n))]) for n in range(10)))
        assert len({it.id for it in flows}) == 10
        assert {(await it.outcome()).outcome for it in flows} == {"running"}
        with pytest.raises(TimeoutError):
            await flows[0].wait(0.01)
        assert "<iframe" in await flows[0].html()


def test_paths_have_their_names_or_those_that_are_given() -> None:
    assert paths_of(["a/1.jpg", Path("b/2.jpg")]) == {"1.jpg": Path("a/1.jpg"), "2.jpg": Path("b/2.jpg")}
    assert paths_of({"x": "a/1.jpg"}) == {"x": Path("a/1.jpg")}
    with pytest.raises(ValueError, match=r"'a/1.jpg' and 'b/1.jpg' have the same name"):
        paths_of(["a/1.jpg", "b/1.jpg"])
    with pytest.raises(TypeError, match="Give a list"):
        paths_of("a/1.jpg")


def test_columns_of_a_row_are_never_replaced() -> None:
    assert row({"module": "m"}, [("module", "x"), ("a", "1"), ("a", "2"), ("a", "3")]) == {
        "module": "m",
        "a": ["1", "2", "3"],
    }
