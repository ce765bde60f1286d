"""``handler prepare`` and ``commit`` with a ticket: steps 1 and 3 of a job that an executor has an engine run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from ion_core.app import App
from ion_core.cli import line, ticket_line
from ion_core.cli.alone.handler import commit, prepare
from ion_core.cli.session import load
from ion_core.cli.whole import Options
from ion_core.config import derived
from ion_core.contracts.executor import MAX_RESULT, StepResult, Ticket
from ion_core.dataplane import DataPlane
from ion_core.events import COMMIT, EVENT_META
from ion_core.handler.committer import Committer
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.preparer import Preparer
from ion_core.jobs import Attempt, Job
from tests.cli.running import Ion, Result

EVENT = '[{"key": "eventType", "value": "made"}, {"key": "files", "value": "note.txt"}]'


@dataclass
class Engine:
    """What an engine gives the steps of one job: settings, ticket, a place for the result, a workspace."""

    ion: Ion
    ticket: Ticket
    home: Path

    def arguments(self, step: str) -> list[str]:
        names = ("settings", "ticket", "result", "w")
        settings, ticket, result, base = (str(self.home / name) for name in names)
        return ["handler", step, "--config", settings, "--ticket", ticket, "--result", result, "--basedir", base]

    def __call__(self, step: str, **ticket: Any) -> Result:
        """The step in this process; ``ticket`` is what it says otherwise."""
        fields = {**vars(self.ticket), **ticket}
        (self.home / "ticket").write_bytes(Ticket(**fields).encode())
        (self.home / "result").unlink(missing_ok=True)
        return self.ion(*self.arguments(step))

    @property
    def result(self) -> StepResult:
        return StepResult.decode((self.home / "result").read_bytes())

    def leave(self) -> None:
        (self.home / "w/out/data/note.txt").write_text("noted")
        (self.home / "w/out/events/0.json").write_text(EVENT)

    def documents(self) -> Mapping[str, Any]:
        flow = self.ion("trace", "flow", self.ticket.correlation_id, "--json").json
        return {it["context"]["documentType"]: it for it in flow}

    def published(self) -> list[str]:
        """The types of all events of the flow that have a document."""
        flow = self.ion("trace", "flow", self.ticket.correlation_id, "--json").json
        return [it["type"] for it in flow if it["context"]["documentType"] == EVENT_META]


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("CONTEXT_", "DEVELOPMENT_", "VALIDEVENTTYPES", "BASEDIR", "HANDLER_")):
            monkeypatch.delenv(name)


@pytest.fixture
def engine(ion: Ion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    context = ion("event", "publish", "start", "--json", "--file", "note.txt", "--data", "k=v").json["context"]
    home = tmp_path / "engine"
    home.mkdir()
    config = load(Options())
    (home / "settings").write_bytes(derived(config, config.modules["up"]))
    ticket = Ticket(
        event_id=context["eventId"],
        correlation_id=context["correlationId"],
        module="up",
        attempt=3,
        token="t0ken",
        hops=4,
        started_at="2026-01-02T03:04:05.678+00:00",
        image="up@sha256:12",
    )
    return Engine(ion, ticket, home)


def test_a_job_is_prepared_and_committed_as_its_ticket_says_and_not_published(engine: Engine) -> None:
    prepared = engine("prepare")
    assert (prepared.code, prepared.out) == (0, "")
    assert engine.result == StepResult()
    assert (engine.home / "w/in/data/note.txt").read_text() == "remember\n"
    engine.leave()
    committed = engine("commit")
    assert (committed.code, committed.out, committed.err) == (0, "", "1 file, 5 bytes, 1 event, 0 insights\n")
    assert engine.result == StepResult(committed=True)
    record = engine.documents()[COMMIT]
    assert (record["attempt"], record["token"], record["image"]) == (3, "t0ken", "up@sha256:12")
    assert record["startedAt"] == "2026-01-02T03:04:05.678+00:00"
    assert record["events"][0]["hops"] == 5
    assert record["outputs"][0]["key"].endswith("/up/3-t0ken/note.txt")
    assert (engine.home / "w/out/data/note.txt").read_text() == "noted"  # an engine may run the step again
    assert engine.published() == ["start"]


def test_the_module_is_told_the_trace_of_the_ticket(engine: Engine) -> None:
    told = engine.home / "w/in/traceparent"
    for said, file in ((TRACE, TRACE), (f" {TRACE}\t", TRACE), ("../../etc", None), ("", None)):
        assert engine("prepare", traceparent=said).code == 0
        assert (told.read_text() if told.exists() else None) == file


def test_stderr_has_what_the_dispatcher_keeps(engine: Engine, tmp_path: Path) -> None:
    """Line for line what its preparer and committer say of the same."""
    prepared = engine("prepare")
    engine.leave()
    committed = engine("commit")

    async def by_hand(app: App) -> tuple[list[str], list[str]]:
        plane: DataPlane = await app.dataplane()
        event = await plane.accepted(engine.ticket.event_id)
        assert event is not None
        workspace = GivenWorkspace(tmp_path / "by-hand")
        workspace.clear()
        lines = await Preparer(plane).prepare(event, workspace, link=False)
        (workspace.out / "data/note.txt").write_text("noted")
        (workspace.out / "events/0.json").write_text(EVENT)
        attempt = Attempt(job=Job(event=event, module="else"), number=1)
        module = app.config.modules["up"]
        return lines, (await Committer(plane).commit(attempt, module, workspace, image=None, started_at="")).lines

    lines = engine.ion.in_app(by_hand)
    assert (prepared.err.splitlines(), committed.err.splitlines()) == lines


def test_the_dispatcher_publishes_what_was_committed_so(engine: Engine) -> None:
    engine("prepare")
    engine.leave()
    engine("commit")
    engine.ion("serve", "--until-idle")
    assert engine.published() == ["start", "made"]
    flow = engine.ion("trace", "flow", engine.ticket.correlation_id, "--json").json
    commits = {it["context"]["name"]: it for it in flow if it["context"]["documentType"] == COMMIT}
    assert commits["up"]["token"] == "t0ken"


def test_a_job_that_has_committed_is_done(engine: Engine) -> None:
    engine("prepare")
    engine.leave()
    engine("commit")
    before = engine.documents()[COMMIT]
    (engine.home / "w/out/data/more.txt").write_text("more")
    again = engine("commit", attempt=4, token="other")
    assert (again.code, again.err) == (0, "attempt 3 had committed already: this one changes nothing\n")
    assert engine.result == StepResult(committed=True)
    assert engine.documents()[COMMIT] == before
    assert [*(engine.ion.home / ".ion/blobs").rglob("4-other")] == []


def test_what_is_refused_is_told_with_every_reason(engine: Engine) -> None:
    engine("prepare")
    (engine.home / "w/out/events/0.json").write_text(EVENT.replace("made", "nobody.knows"))
    os.mkfifo(engine.home / "w/out/data/pipe")
    refused = engine("commit")
    assert (refused.code, refused.err.count("\n")) == (65, 1)
    [reason] = engine.result.reasons
    assert refused.err == f"ion-core: {reason}\n"
    assert "out/data/pipe: is a FIFO" in reason
    assert "may not publish 'nobody.knows'" in reason
    assert engine.result.committed is None
    assert COMMIT not in engine.documents()


def test_an_event_that_is_not_stored_is_waited_for_in_vain(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ion_core.stores.DOCUMENT_WAITS", (0.01, 0.02))
    for step in ("prepare", "commit"):
        missing = engine(step, event_id="nope")
        assert (missing.code, missing.err.count("\n")) == (66, 1)
        assert "nor came there within 0.03 s" in engine.result.reasons[0]
    assert not (engine.home / "w").exists()


def test_a_file_that_is_not_stored_is_no_bug(engine: Engine) -> None:
    [stored] = [it for it in (engine.ion.home / ".ion/blobs").rglob("*") if it.is_file()]
    stored.unlink()
    assert engine("prepare").code == 66
    assert "note.txt" in engine.result.reasons[0]


def test_stores_that_cannot_be_used_are_the_settings_fault(engine: Engine) -> None:
    settings = json.loads((engine.home / "settings").read_text())
    for storage, code in (
        ({"documents": {"provider": "sqlite", "path": str(engine.home)}}, 78),
        ({"documents": {"provider": "nobody"}}, 78),
    ):
        changed = {**settings, "storage": {**settings["storage"], **storage}}
        (engine.home / "settings").write_text(json.dumps(changed))
        done = engine("prepare")
        assert done.code == code, done.err
        assert engine.result.reasons[0] in done.err
    for raw in (b"", b"not: [valid", b"{}"):
        (engine.home / "settings").write_bytes(raw)
        assert engine("prepare").code == 78
        assert engine.result.reasons


def test_no_variable_changes_the_settings(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ION_STORAGE__DOCUMENTS__PATH", "/nowhere/else")
    monkeypatch.setenv("ION_STATE", "/nowhere")
    assert engine("prepare").code == 0


def test_a_module_that_the_settings_lack_is_their_fault(engine: Engine) -> None:
    done = engine("commit", module="takes")
    assert done.code == 78
    assert "no module called 'takes'" in engine.result.reasons[0]


def test_a_step_out_of_turn_is_a_bug_of_the_executor(engine: Engine) -> None:
    assert engine("commit").code == 70
    assert "nothing was prepared there" in engine.result.reasons[0]


def test_a_bug_is_told_as_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> list[str]:
        raise KeyError("kaputt")

    monkeypatch.setattr("ion_core.cli.alone.handler_ticket.prepare_ticket", broken)
    done = engine("prepare")
    assert done.code == 70
    assert engine.result.reasons == ("KeyError: 'kaputt'",)


def test_a_full_disk_and_one_that_fails_are_worth_trying_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, code in ((28, 75), (5, 69), (13, 78)):

        async def failing(*_: object, number: int = number, **__: object) -> list[str]:
            raise OSError(number, os.strerror(number), "/w/in/data")

        monkeypatch.setattr("ion_core.handler.preparer.Preparer.prepare", failing)
        done = engine("prepare")
        assert (done.code, done.err.count("\n")) == (code, 1)
        assert "/w/in/data" in engine.result.reasons[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_workspace_that_may_not_be_read_is_not_what_the_module_left(engine: Engine) -> None:
    engine("prepare")
    engine.leave()
    (engine.home / "w").chmod(0o700)
    nobody = 65534
    state = engine.ion.home / ".ion"
    for path in (engine.home, *engine.home.glob("*[!w]"), state, *state.rglob("*")):
        os.chown(path, nobody, nobody)
    for above in engine.home.parents:
        if (mode := above.stat().st_mode) & 0o011 != 0o011:
            above.chmod(mode | 0o011)
    os.seteuid(nobody)
    try:
        done = engine("commit")
    finally:
        os.seteuid(0)
    assert done.code == 78, done.err
    assert "permission denied. Prepare and commit need a workspace that they may read and write" in done.err
    assert engine.result.reasons[0] in done.err


UNUSED = {"click", "pydantic", "pluggy", "ruamel", "ion_core.config", "ion_core.registry", "ion_core.jobs"}
UNUSED |= {"hashlib", "uuid", "random", "secrets", "shutil", "ctypes"}


def test_a_step_with_nothing_to_do_imports_nothing_that_it_does_not_use(engine: Engine) -> None:
    context = engine.ion("event", "publish", "start", "--json").json["context"]
    ids = {"event_id": context["eventId"], "correlation_id": context["correlationId"]}
    (engine.home / "ticket").write_bytes(Ticket(**{**vars(engine.ticket), **ids}).encode())
    code = "import gc, sys; from ion_core.cli import main; print(main(), gc.get_freeze_count() > 0, *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *engine.arguments("prepare")], capture_output=True, text=True, check=True
    )
    ended, frozen, *imported = done.stdout.split()
    assert (ended, frozen) == ("0", "True"), done.stderr
    assert "sqlite3" in imported
    assert UNUSED & set(imported) == set()


@pytest.mark.parametrize("more", [[], ["--loglevel", "error"], ["--ticket", "other"], ["--result", "a b"]])
@pytest.mark.parametrize("step", ["prepare", "commit"])
def test_a_line_read_without_click_says_what_click_makes_of_it(
    step: str, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None, Mapping[str, Any]]] = []

    def note(step: str, options: Options, given: Mapping[str, Any]) -> None:
        seen.append((step, options.config, given))

    monkeypatch.setattr("ion_core.cli.alone.handler_ticket.run_step", note)
    for arguments in (["--ticket", "t"], ["--config", "c", "--ticket", "t", "--basedir", "w", "--result", "r"]):
        words = ["handler", step, *arguments, *more]
        line.run(words, Options())
        read = ticket_line.read(words, {})
        assert read is not None
        read.run(Options())
        by_click, by_us = seen[-2:]
        assert by_us[:2] == by_click[:2]
        assert {name: by_click[2][name] for name in by_us[2]} == by_us[2]


@pytest.mark.parametrize(
    "words",
    [
        ["handler"],
        ["handler", "prepare"],
        ["handler", "serve", "--ticket", "t"],
        ["module", "prepare", "--ticket", "t"],
        ["handler", "prepare", "--config", "c"],
        ["handler", "prepare", "--ticket"],
        ["handler", "prepare", "--ticket", ""],
        ["handler", "prepare", "--ticket", "--help"],
        ["handler", "prepare", "--ticket=t"],
        ["handler", "prepare", "--ticket", "t", "-v"],
        ["handler", "prepare", "--ticket", "t", "--logfile", "f"],
        ["handler", "prepare", "--ticket", "t", "--loglevel", "loud"],
        ["handler", "prepare", "--ticket", "t", "--context.eventid", "1"],
    ],
)
def test_what_is_not_beyond_doubt_is_for_click_to_read(words: list[str]) -> None:
    assert ticket_line.read(words, {}) is None


def test_a_line_is_for_click_to_read_where_any_variable_says_more() -> None:
    words = ["handler", "prepare", "--ticket", "t"]
    assert ticket_line.read(words, {"HOME": "/root", "ION_CONFIG": "c"}) is not None
    names = [name for step in (prepare, commit) for it in step.params for name in _variables(it)]
    assert len(names) > 10
    for name in names:
        assert ticket_line.read(words, {name: "x"}) is None, name


def test_a_line_that_says_where_the_workspace_is_leaves_to_click_no_variable_that_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An executor may know the processes of a job by one of them."""
    words = ["handler", "prepare", "--ticket", "t", "--basedir", "w"]
    names = [name for it in prepare.params if it.name == "base" for name in _variables(it)]
    assert names
    seen: list[Mapping[str, Any]] = []
    monkeypatch.setattr(
        "ion_core.cli.alone.handler_ticket.run_step", lambda step, options, given: seen.append(dict(given))
    )
    for name in names:
        monkeypatch.setenv(name, "elsewhere")
        line.run(words, Options())
        read = ticket_line.read(words, {name: "elsewhere"})
        assert read is not None, name
        assert read.given["base"] == seen[-1]["base"]
        assert ticket_line.read(words, {name: "elsewhere", "HANDLER_PORT": "1"}) is None
        monkeypatch.delenv(name)


def _variables(parameter: click.Parameter) -> list[str]:
    names = parameter.envvar
    return [names] if isinstance(names, str) else list(names or ())


def test_the_flags_are_variables_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (engine.home / "ticket").write_bytes(engine.ticket.encode())
    for name in ("ticket", "result"):
        monkeypatch.setenv(f"HANDLER_{name.upper()}", str(engine.home / name))
    monkeypatch.setenv("HANDLER_BASE_DIR", str(engine.home / "w"))
    monkeypatch.setenv("ION_CONFIG", str(engine.home / "settings"))
    assert engine.ion("handler", "prepare").code == 0
    assert engine.result == StepResult()
    engine.leave()
    assert engine.ion("handler", "start", "--action", "commit").code == 0
    assert engine.result.committed


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--context.eventid", "1"), "--context.eventid: is not for a job with a --ticket"),
        (("--context.name", "up"), "--context.name: is not for a job with a --ticket"),
        (("--valideventtypes", "made"), "--valideventtypes: is not for"),
        (("--development.enabled",), "--development.enabled: is not for"),
    ],
)
def test_what_the_ticket_says_is_said_once(engine: Engine, more: tuple[str, ...], said: str) -> None:
    (engine.home / "ticket").write_bytes(engine.ticket.encode())
    done = engine.ion(*engine.arguments("prepare"), *more)
    assert done.code == 2
    assert said in done.err
    assert not (engine.home / "w").exists()


def test_a_result_is_for_a_ticket(ion: Ion) -> None:
    done = ion("handler", "prepare", "--result", "r", "--context.eventid", "1", "--context.correlationid", "1")
    assert (done.code, Path("r").exists()) == (2, False)
    assert "Give its --ticket too" in done.err


@pytest.mark.parametrize("raw", [None, b"", b"{}", b"x" * 20_000, b'{"eventId": 1}'])
def test_a_ticket_that_cannot_be_read_is_told(engine: Engine, raw: bytes | None) -> None:
    if raw is not None:
        (engine.home / "ticket").write_bytes(raw)
    done = engine.ion(*engine.arguments("prepare"))
    assert done.code == 78
    assert "--ticket: " in engine.result.reasons[0]


def test_a_ticket_may_be_a_link_as_in_the_volumes_of_clusters(engine: Engine) -> None:
    for name, raw in (("ticket", engine.ticket.encode()), ("settings", (engine.home / "settings").read_bytes())):
        (engine.home / f"..{name}").write_bytes(raw)
        (engine.home / name).unlink(missing_ok=True)
        (engine.home / name).symlink_to(f"..{name}")
    assert engine.ion(*engine.arguments("prepare")).code == 0


def test_a_result_that_cannot_be_written_does_not_undo_the_work(engine: Engine) -> None:
    engine("prepare")
    (engine.home / "result").unlink()
    (engine.home / "result").mkdir()
    done = engine.ion(*engine.arguments("commit"))
    assert done.code == 0
    assert "--result: " in done.err


def test_what_came_from_outside_is_masked_in_log_and_result(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path / "hunter22"))
    (engine.ion.home / "ion.yaml").write_text(
        "storage: {blobs: {provider: local, path: '${env:PLACE}'}}\nmodules: {up: {command: x, subscribes: [start]}}"
    )
    config = load(Options())
    raw = derived(config, config.modules["up"])
    (engine.home / "settings").write_bytes(raw)
    (tmp_path / "hunter22").write_text("in the way")
    done = engine("prepare")
    assert done.code == 78
    assert "hunter22" in raw.decode()
    assert "hunter22" not in done.err + str(engine.result.reasons)


@pytest.mark.parametrize(("step", "at"), [("prepare", "S4"), ("commit", "S8"), ("commit", "S9")])
def test_a_step_that_crashed_may_run_again(engine: Engine, step: str, at: str) -> None:
    if step == "commit":
        engine("prepare")
        engine.leave()
    (engine.home / "ticket").write_bytes(engine.ticket.encode())
    armed = {"ION_TESTING": "1", "ION_CRASH_AT": at}
    assert engine.ion.process(*engine.arguments(step), environ=armed).code == 137
    assert engine(step).code == 0
    if step == "commit":
        assert engine.documents()[COMMIT]["token"] == "t0ken"
        assert [it["name"] for it in engine.documents()[COMMIT]["outputs"]] == ["note.txt"]


def test_a_step_that_is_interrupted_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(*_: object, **__: object) -> list[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.get_running_loop().create_future()
        return []

    monkeypatch.setattr("ion_core.cli.alone.handler_ticket.prepare_ticket", endless)
    assert engine("prepare").code == 143
    assert len(engine.result.reasons) == 1


def test_a_result_fits_however_much_there_is_to_say() -> None:
    reasons = ["é" * 3000, "two"]
    raw = StepResult(reasons=reasons, committed=True).encode()
    assert MAX_RESULT - 3 <= len(raw) <= MAX_RESULT
    assert StepResult.decode(raw).reasons[0].startswith("é" * 1500)
    assert StepResult.decode(raw).reasons[0].endswith("…")
    assert len(StepResult(reasons=["x"] * 5000).encode()) <= MAX_RESULT
