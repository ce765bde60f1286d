"""ion_module.py, the file that modules may copy: what it reads and writes, and how it calls the handler."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ion_core.handler.live import clear
from ion_core.handler.output import read_output
from ion_core.handler.workspace import Workspace
from ion_core.module_library import LIBRARY, ion_module, library
from ion_core.modules import Module
from tests.support.handler_api import HandlerApi

TYPES = ("thing.made", "thing.seen")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """As the handler makes one, and the library is pointed at it."""
    made = Workspace.make(tmp_path, "work")
    monkeypatch.setenv("HANDLER_BASE_DIR", str(made.root))
    return made


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_it_is_one_file_for_python_3_8_that_imports_only_the_standard_library() -> None:
    tree = ast.parse(library("python"), feature_version=(3, 8))
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= sys.stdlib_module_names
    assert set(LIBRARY) == {"python", "sh"}


def test_a_copy_of_it_works_where_there_is_no_ion(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "ion_module.py").write_text(library("python"), encoding="utf-8")
    code = "import ion_module; print(ion_module.emit('thing.made').name)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("000000.json\n", "")


def test_inputs_are_all_files_by_name(workspace: Workspace) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt"):
        (workspace.in_data / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.in_data / name).touch()
    names = [ion_module.name_of(path) for path in ion_module.inputs()]
    assert names == ["a/b/c.txt", "a/z.txt", "b.txt"]


def test_pairs_keep_their_order_and_in_the_map_the_last_one_wins(workspace: Workspace) -> None:
    pairs = [("b", "1"), ("a", "2"), ("b", "Zoë")]
    workspace.eventmeta.write_text(json.dumps([{"key": key, "value": value} for key, value in pairs]))
    assert ion_module.pairs() == pairs
    assert ion_module.metadata() == {"b": "Zoë", "a": "2"}


def test_no_pairs_are_no_file(workspace: Workspace) -> None:
    assert ion_module.pairs() == []
    assert ion_module.metadata() == {}


def test_the_span_above_is_that_of_the_file_and_none_without_it(workspace: Workspace) -> None:
    assert ion_module.traceparent() == ""
    (workspace.root / "in/traceparent").write_text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert ion_module.traceparent() == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_what_it_writes_is_what_the_committer_reads(workspace: Workspace) -> None:
    ion_module.output("a/b.txt").write_text("b")
    deep = ion_module.output(Path("c.txt"))
    deep.write_text("c")
    ion_module.emit("thing.made", ["a/b.txt", deep], {"n": 1, "x": 0.5, "good": True, "name": "Zoë \n \"'"})
    ion_module.emit("thing.seen", pairs=[("k", "1"), ("k", "2")])
    ion_module.insight("files", 2)
    ion_module.insights({"pixels": "many", "share": 0.25})

    output = read_output(workspace, Module(name="m", publishes=TYPES))

    assert output.files == {"a/b.txt": 1, "c.txt": 1}
    made, seen = output.events
    assert (made.type, made.files) == ("thing.made", ("a/b.txt", "c.txt"))
    assert made.data == (("n", "1"), ("x", "0.5"), ("good", "true"), ("name", "Zoë \n \"'"))
    assert (seen.type, seen.files, seen.data) == ("thing.seen", (), (("k", "1"), ("k", "2")))
    assert output.insights == (("files", "2"), ("pixels", "many"), ("share", "0.25"))


def test_event_files_are_in_order_of_the_calls_and_never_written_over(workspace: Workspace) -> None:
    (workspace.out / "events" / "000001.json").write_text('[{"key":"eventType","value":"thing.seen"}]')
    names = [ion_module.emit("thing.made", pairs={"n": n}).name for n in range(12)]
    assert names == sorted(names)
    assert len({*names, "000001.json"}) == 13
    found = read_output(workspace, Module(name="m", publishes=TYPES)).events
    assert [event.data for event in found if event.type == "thing.made"] == [(("n", str(n)),) for n in range(12)]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/etc/passwd"])
def test_an_output_stays_in_its_directory(workspace: Workspace, name: str) -> None:
    with pytest.raises(ValueError, match="out/data"):
        ion_module.output(name)
    with pytest.raises(ValueError, match="out/data"):
        ion_module.emit("thing.made", [name])


def test_what_no_event_can_carry_is_refused_before_anything_is_written(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="comma"):
        ion_module.emit("thing.made", ["a,b.txt"])
    with pytest.raises(ValueError, match="'files' is taken"):
        ion_module.emit("thing.made", pairs={"files": "x"})
    for value in (None, [1], b"x"):
        with pytest.raises(TypeError, match="neither text nor a number"):
            ion_module.emit("thing.made", pairs={"x": value})  # type: ignore[dict-item]
    assert list((workspace.out / "events").iterdir()) == []


def use(api: HandlerApi, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in api.environment(workspace.root).items():
        monkeypatch.setenv(name, value)


def test_ready_and_done_call_the_handler_even_where_a_proxy_is_set(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with HandlerApi() as api:
        use(api, workspace, monkeypatch)
        ion_module.ready()
        ion_module.done()
    assert api.calls == ["/ready", "/done"]


def test_ready_waits_for_a_handler_that_is_not_up_yet(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    api, port, pauses = HandlerApi(), free_port(), []
    api.port = port
    use(api, workspace, monkeypatch)

    def come_up(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            api.bind(port)

    monkeypatch.setattr(ion_module.time, "sleep", come_up)
    try:
        ion_module.ready()
    finally:
        api.close()
    assert len(pauses) == 3
    assert api.calls == ["/ready"]


def test_a_handler_that_never_comes_up_is_an_error(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    api = HandlerApi()
    api.port = free_port()
    use(api, workspace, monkeypatch)
    with pytest.raises(ion_module.HandlerGone, match=f"nobody listens on port {api.port} after 0.1 s"):
        ion_module.ready(timeout=0.1)
    with pytest.raises(ion_module.HandlerGone, match="nobody listens"):
        next(ion_module.events(timeout=0.1))


def test_what_the_handler_refuses_is_an_error_in_its_words(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> None:
        raise ValueError("out/data/x: is a symbolic link")

    with HandlerApi(commit=refuse) as api:
        use(api, workspace, monkeypatch)
        with pytest.raises(ion_module.HandlerError, match='before /ready: nothing "was" prepared') as early:
            ion_module.done()
        ion_module.ready()
        with pytest.raises(ion_module.HandlerError, match="is a symbolic link") as failed:
            ion_module.done()
        monkeypatch.setenv("SHARED_SECRET", "wrong")
        with pytest.raises(ion_module.HandlerError, match="401: the secret is missing or wrong") as refused:
            ion_module.ready()
    assert [error.value.status for error in (early, failed, refused)] == [400, 500, 401]


def test_without_a_port_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANDLER_PORT", raising=False)
    with pytest.raises(ion_module.HandlerError, match="HANDLER_PORT is not a port number"):
        ion_module.ready()


@pytest.mark.parametrize("end", ["410", "400", "hangs up", "gone"])
def test_events_come_one_after_another_until_the_handler_is_gone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, end: Any
) -> None:
    left: list[list[str]] = []

    def prepare(number: int) -> None:
        (workspace.in_data / f"{number}.txt").write_text("x")
        workspace.eventmeta.write_text(json.dumps([{"key": "n", "value": str(number)}]))

    def commit(number: int) -> None:
        output = read_output(workspace, Module(name="m", publishes=TYPES))
        left.append([dict(event.data)["n"] for event in output.events])
        assert clear(workspace)

    with HandlerApi(events=3, end=end, prepare=prepare, commit=commit) as api:
        use(api, workspace, monkeypatch)
        seen = []
        for event in ion_module.events():
            seen.append([path.name for path in event.inputs])
            ion_module.emit("thing.made", pairs=event.metadata)
            assert event.pairs == [("n", str(len(seen) - 1))]

    assert seen == [["0.txt"], ["1.txt"], ["2.txt"]]
    assert left == [["0"], ["1"], ["2"]]


def test_an_error_in_the_loop_commits_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with HandlerApi(events=2) as api:
        use(api, workspace, monkeypatch)

        def work() -> None:
            for _ in ion_module.events():
                raise RuntimeError("kaputt")

        with pytest.raises(RuntimeError, match="kaputt"):
            work()
    assert api.calls == ["/ready"]


def test_no_event_at_all_is_the_end_too(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with HandlerApi(events=0) as api:
        use(api, workspace, monkeypatch)
        assert list(ion_module.events()) == []


@pytest.mark.parametrize(("end", "said"), [("400", "400: this job is over"), ("hangs up", "no answer")])
def test_a_first_call_without_success_is_an_error_and_never_the_end(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, end: Any, said: str
) -> None:
    with HandlerApi(events=0, end=end) as api:
        use(api, workspace, monkeypatch)
        with pytest.raises(ion_module.HandlerError, match=said):
            next(ion_module.events())


def test_a_handler_that_hangs_up_and_still_listens_is_an_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HandlerApi(end="broken") as api:
        use(api, workspace, monkeypatch)
        monkeypatch.setattr(ion_module.time, "sleep", lambda seconds: None)
        events = ion_module.events()
        next(events)
        with pytest.raises(ion_module.HandlerGone, match="no answer"):
            next(events)
    assert api.calls == ["/ready", "/done", *["/ready"] * 6]


GATHERED = {
    "scope": {"eventId": "s", "type": "album"},
    "by": {"key": "page", "value": "missing"},
    "events": [
        {
            "directory": "0001",
            "eventId": "e1",
            "type": "thing.made",
            "name": "m",
            "data": [{"key": "directory", "value": "0002"}, {"key": "x", "value": "1"}, {"key": "x", "value": '"2"\t'}],
            "files": ["0001/a.txt", "0001/b/a.txt"],
        },
        {"directory": "0002", "eventId": "e2", "type": "thing.seen", "name": "m", "data": [], "files": []},
    ],
    "missing": [{"eventId": "e3", "type": "thing", "module": "m", "reason": 'it said "no"\tto it'}],
}


def test_what_a_gatherer_is_given_is_read_in_one_call(workspace: Workspace) -> None:
    (workspace.root / "in" / "gathered.json").write_text(json.dumps(GATHERED), encoding="utf-8")
    given = ion_module.gathered()
    assert [(it.id, it.type, it.name) for it in given.events] == [
        ("e1", "thing.made", "m"),
        ("e2", "thing.seen", "m"),
    ]
    assert [ion_module.name_of(it) for it in given.events[0].inputs] == ["0001/a.txt", "0001/b/a.txt"]
    assert given.events[0].metadata["x"] == '"2"\t'
    assert len(given.events[0].pairs) == 3
    assert given.missing == [("e3", "thing", "m", 'it said "no"\tto it')]
    assert given.key == "missing"
