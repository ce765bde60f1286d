"""``ion-core files``: listed and fetched, on a pipeline that really ran."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import pytest

from ion_core.app import App
from ion_core.contracts.storage import Document
from tests.cli.running import Ion, Result


@pytest.fixture
def ran(ion: Ion) -> Ion:
    """One flow: note.txt came in, ``up`` made a copy of it."""
    published = ion(
        "event", "publish", "start", "--file", "note.txt", "--event-id", "e-one", "--correlation-id", "c-one"
    )
    assert published.code == 0
    ion.process("serve", "--until-idle")
    return ion


def _files(result: Result) -> list[tuple[str, str, str]]:
    return [(it["name"], it["module"], it["eventId"]) for it in result.json]


CAME, MADE = ("note.txt", "cli", "e-one"), ("note.txt", "up", "e-one")


def test_files_of_the_newest_flow_are_listed_with_size_and_module(ran: Ion) -> None:
    ran("event", "publish", "made", "--correlation-id", "c-two")
    assert ran("files").err.splitlines() == ["Of the newest flow, c-two:", "There are no files."]
    listed = ran("files", "c-one")
    assert [line.split() for line in listed.out.splitlines()] == [
        ["FILE", "BYTES", "MODULE", "OF", "EVENT"],
        ["note.txt", "9", "from", "cli", "e-one"],
        ["note.txt", "9", "up", "e-one"],
    ]


def test_files_are_data_for_programs(ran: Ion) -> None:
    came, made = ran("files", "--json").json
    assert [(it["name"], it["module"]) for it in (came, made)] == [CAME[:2], MADE[:2]]
    content = hashlib.sha256((ran.home / "note.txt").read_bytes()).hexdigest()
    assert [(it["size"], it["sha256"], it["executable"]) for it in (came, made)] == 2 * [(9, content, False)]
    assert made["key"].startswith("c-one/e-one/up/1-")


def test_files_of_an_event_are_those_it_brings_and_those_made_of_it(ran: Ion) -> None:
    assert _files(ran("files", "e-one", "--json")) == [CAME, MADE]
    [child] = [it for it in ran("trace", "flow", "c-one", "--json").json if it["context"]["parentEventId"] == "e-one"
               and it["context"]["documentType"] == "eventMeta"]  # fmt: skip
    assert _files(ran("files", child["id"], "--json")) == [MADE]
    assert _files(ran("files", child["id"][:8], "--json")) == [MADE]


def test_files_can_be_narrowed_to_a_module(ran: Ion) -> None:
    assert _files(ran("files", "--module", "up", "--json")) == [MADE]
    assert ran("files", "--module", "takes").err.endswith("There are no such files.\n")


@pytest.mark.parametrize(("id", "code", "said"), [
    ("nix", 1, "nothing is stored under the correlation id 'nix'"),
    ("c-o", 1, "nothing is stored under the correlation id 'c-o'"),
])  # fmt: skip
def test_an_unknown_id_is_an_error(ran: Ion, id: str, code: int, said: str) -> None:
    result = ran("files", id)
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_a_beginning_that_several_have_is_misuse_that_names_them(ran: Ion) -> None:
    ran("event", "publish", "made", "--correlation-id", "c-only", "--event-id", "c-on-event")
    result = ran("files", "c-on")
    assert result.code == 2
    assert "3 flows and events have an id that begins so: c-on-event, c-one, c-only." in result.err
    assert _files(ran("files", "c-one", "--json")) == [CAME, MADE]


def test_files_are_fetched_each_to_its_place(ran: Ion) -> None:
    result = ran("files", "--get", "results")
    places = ["results/_in/e-one/note.txt", "results/up/e-one/note.txt"]
    assert (result.code, result.out.splitlines()) == (0, places)
    assert [(ran.home / place).read_text() for place in places] == 2 * ["remember\n"]
    assert [it["path"] for it in ran("files", "--get", "results", "--json").json] == places
    assert sorted(path.name for path in (ran.home / "results").iterdir()) == ["_in", "up"]


@pytest.mark.parametrize("name", ["cli", "up"])
def test_a_module_called_like_who_an_event_came_from_does_not_get_in_its_way(ion: Ion, name: str) -> None:
    config = ion.home / "ion.yaml"
    config.write_text(config.read_text().replace("  up:", f"  {name}:"))
    (ion.home / "up.sh").write_text('echo made > "$HANDLER_BASE_DIR"/out/data/note.txt\n')
    ids = ("--event-id", "e", "--correlation-id", "c")
    ion("event", "create", "--event-name", name, "--event-type", "start", "--file", "note.txt", *ids)
    ion.process("serve", "--until-idle")
    result = ion("files", "--get", "results")
    places = ["results/_in/e/note.txt", f"results/{name}/e/note.txt"]
    assert (result.code, result.out.splitlines()) == (0, places), result.err
    assert [(ion.home / place).read_text() for place in places] == ["remember\n", "made\n"]
    assert [it["cameIn"] for it in ion("files", "--json").json] == [True, False]
    assert [it["path"] for it in ion("files", "--module", name, "--get", "results", "--json").json] == places[1:]


def test_what_could_be_executed_can_be_executed(ion: Ion) -> None:
    (ion.home / "note.txt").chmod(0o755)
    ion("event", "publish", "start", "--file", "note.txt")
    [path] = ion("files", "--get", "results").out.splitlines()
    assert Path(path).stat().st_mode & 0o111


def test_another_file_of_that_name_is_left_and_nothing_is_fetched(ran: Ion) -> None:
    there = ran.home / "results/up/e-one/note.txt"
    there.parent.mkdir(parents=True)
    there.write_text("mine\n")
    result = ran("files", "--get", "results")
    assert (result.code, result.out) == (2, "")
    assert "'results/up/e-one/note.txt': is there already, with other content." in result.err
    assert there.read_text() == "mine\n"
    assert not (ran.home / "results/_in").exists()


def test_what_is_there_already_is_left_as_it_is(ran: Ion) -> None:
    [path] = ran("files", "--module", "up", "--get", "results").out.splitlines()
    before = Path(path).stat()
    assert ran("files", "--get", "results").code == 0
    assert (Path(path).stat().st_mtime_ns, Path(path).stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_damaged_file_is_not_fetched_and_the_others_are(ran: Ion) -> None:
    key = ran("files", "--module", "up", "--json").json[0]["key"]
    blob = ran.home / ".ion/blobs/files" / key
    blob.chmod(0o644)
    blob.write_text("rubbish!\n")
    result = ran("files", "--get", "results")
    assert (result.code, result.out) == (1, "")
    assert "'note.txt' of up: blob " in result.err
    assert [path for path in (ran.home / "results").rglob("*") if path.is_file()] == [
        ran.home / "results/_in/e-one/note.txt"
    ]


def test_a_name_that_leads_elsewhere_is_refused(ran: Ion) -> None:
    async def put(app: App) -> None:
        documents = await app.documents()
        meta = await documents.get("eventMeta", "e-one")
        body = {**meta.body, "blobs": [{**meta.body["blobs"][0], "name": "../../../out"}]}
        await documents.put(Document(kind=meta.kind, id=meta.id, correlation_id="c-one", body=body))

    ran.in_app(put)
    result = ran("files", "--get", "results")
    assert (result.code, result.out) == (1, "")
    assert "'../../../out'" in result.err
    assert not (ran.home.parent / "out").exists()


def test_there_is_a_bar_on_a_terminal_and_nowhere_else(ran: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Fetching" not in ran("files", "--get", "one").err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    ran("files", "--get", "two")
    assert "100%" in terminal.getvalue()


def test_no_flow_is_told(ion: Ion) -> None:
    result = ion("files")
    assert (result.code, result.out) == (0, "")
    assert "There are no flows." in result.err
    assert ion("files", "--json").json == []
