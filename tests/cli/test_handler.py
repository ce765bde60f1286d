"""``handler prepare`` and ``commit``: their flags, also as environment variables, in development and with providers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ion_core.cli import main
from tests.cli.running import Ion

NAME = ("--context.name", "first")
IDS = ("--context.eventid", "1", "--context.correlationid", "fish")
TYPES = ("--valideventtypes", " made ,other, ")
HERE = ("--basedir", "ion", "--development.enabled")
EVENT = '[{"key": "eventType", "value": "made"}, {"key": "files", "value": "note.txt"}]'


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sets is all there is."""
    for name in list(os.environ):
        if name.upper().startswith(("CONTEXT_", "DEVELOPMENT_", "VALIDEVENTTYPES", "BASEDIR", "HANDLER_")):
            monkeypatch.delenv(name)


def leave(root: Path = Path("ion")) -> None:
    (root / "out/data/note.txt").write_text("noted")
    (root / "out/events/0.json").write_text(EVENT)


def test_prepare_and_commit_in_development_need_no_configuration(ion: Ion) -> None:
    (ion.home / "ion.yaml").write_text("not: [valid")
    prepared = ion("handler", "prepare", *NAME, *IDS, *TYPES, *HERE)
    assert (prepared.code, prepared.out) == (0, "")
    leave()
    committed = ion("handler", "commit", *NAME, *IDS, *TYPES, *HERE)
    assert (committed.code, committed.out) == (0, "")
    assert "1 file, 5 bytes, 1 event" in committed.err
    assert Path(".dev/1/committed").read_text() == "{}"
    assert not Path(".ion").exists()


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_every_flag_is_also_a_variable(ion: Ion, monkeypatch: pytest.MonkeyPatch, case: object, tmp_path: Path) -> None:
    given = {
        "context_name": "first",
        "context_eventid": "1",
        "context_correlationid": "fish",
        "context_parenteventid": "frontapi",
        "valideventtypes": "made, other",
        "basedir": str(tmp_path / "w"),
        "development_enabled": "true",
        "development_basedir": str(tmp_path / "d"),
    }
    for name, value in given.items():
        monkeypatch.setenv(case(name), value)  # type: ignore[operator]
    assert ion("handler", "prepare").code == 0
    leave(tmp_path / "w")
    assert ion("handler", "commit").code == 0
    assert (tmp_path / "d/1/committed").exists()
    context = json.loads((tmp_path / "d/1/_events/0.json").read_text())["context"]
    assert (context["name"], context["correlationId"], context["parentEventId"]) == ("first", "fish", "1")


def test_the_modules_variable_names_the_base_directory_too(ion: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDLER_BASE_DIR", "here")
    assert ion("handler", "prepare", *NAME, *IDS, "--development.enabled").code == 0
    assert Path("here/in/data").is_dir()


@pytest.mark.parametrize("flag", ["--development.enabled=true", "--development.enabled=1", "--development.enabled"])
def test_the_flag_may_have_a_value(ion: Ion, flag: str) -> None:
    assert ion("handler", "prepare", *NAME, *IDS, flag, "--base-dir=ion", "--context.parenteventid=").code == 0
    assert Path(".dev/1/prepared").exists()


def test_in_development_a_module_needs_no_name_and_commit_no_types(ion: Ion) -> None:
    assert ion("handler", "prepare", *IDS, *TYPES, *HERE).code == 0
    leave()
    assert ion("handler", "commit", *IDS, *HERE).code == 0
    assert ion("dev", "event", "list", "--module-id", "1", "--json").json[0]["context"]["name"] == "module"


@pytest.mark.parametrize("step", ["prepare", "commit"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--context.correlationid", "fish"), "'--context.eventid'"),
        (("--context.eventid", "1"), "'--context.correlationid'"),
        (("--context.eventid", "", "--context.correlationid", "fish"), "must not be empty"),
        (("--context.eventid", "x" * 1025, "--context.correlationid", "fish"), "1,024 are allowed"),
        (("--context.eventid", "\udcff", "--context.correlationid", "fish"), "not valid UTF-8"),
        ((*IDS, "--valideventtypes", "Made"), "must be lower-case"),
        ((*IDS, "--development.enabled=perhaps"), "perhaps"),
    ],
)
def test_what_is_missing_or_wrong_is_misuse(ion: Ion, step: str, arguments: tuple[str, ...], said: str) -> None:
    before = sorted(ion.home.rglob("*"))
    result = ion("handler", step, *HERE, *NAME, *arguments)
    assert result.code == 2
    assert said in result.err
    assert sorted(ion.home.rglob("*")) == before


def test_out_of_turn_is_misuse_and_says_what_would_do(ion: Ion) -> None:
    result = ion("handler", "commit", *NAME, *IDS, *HERE)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "Run prepare first" in result.err
    ion("handler", "prepare", *NAME, *IDS, *HERE)
    result = ion("handler", "prepare", *NAME, *IDS, *HERE)
    assert result.code == 2
    assert "remove .dev/1 to begin again" in result.err


def test_output_that_is_refused_has_an_exit_code_of_its_own(ion: Ion) -> None:
    ion("handler", "prepare", *NAME, *IDS, *TYPES, *HERE)
    leave()
    Path("ion/out/data/note.txt").unlink()
    result = ion("handler", "commit", *NAME, *IDS, *TYPES, *HERE)
    assert result.code == 65
    assert "files names 'note.txt', which is not in out/data" in result.err
    assert not Path(".dev/1/committed").exists()


# With the providers of a configuration


def published(ion: Ion) -> dict[str, str]:
    found = ion("event", "publish", "start", "--json", "--file", "note.txt", "--data", "k=v").json
    context: dict[str, str] = found["context"]
    return context


def ids(context: dict[str, str], name: str = "up") -> tuple[str, ...]:
    flow = ("--context.correlationid", context["correlationId"])
    return ("--context.name", name, "--context.eventid", context["eventId"], *flow, "--basedir", "w")


def test_a_job_of_a_configuration_is_prepared_and_committed_once(ion: Ion) -> None:
    context = published(ion)
    assert ion("handler", "prepare", *ids(context)).code == 0
    assert Path("w/in/data/note.txt").read_text() == "remember\n"
    assert json.loads(Path("w/in/eventmeta.json").read_text())[0] == {"key": "k", "value": "v"}
    leave(Path("w"))
    assert ion("handler", "commit", *ids(context)).code == 0
    documents = ion("trace", "flow", context["correlationId"], "--json").json
    assert sorted(document["context"]["documentType"] for document in documents) == ["commit", "eventMeta", "eventMeta"]
    [waits] = ion("event", "peek", "--module", "takes", "--json").json

    Path("w/out/events/1.json").write_text(EVENT)
    again = ion("handler", "commit", *ids(context))
    assert again.code == 0
    assert "had committed already" in again.err
    assert ion("trace", "flow", context["correlationId"], "--json").json == documents
    assert ion("event", "peek", "--module", "takes", "--json").json == [waits]


def test_a_job_may_be_prepared_again_until_it_commits(ion: Ion) -> None:
    context = published(ion)
    assert ion("handler", "prepare", *ids(context)).code == 0
    leave(Path("w"))
    assert ion("handler", "prepare", *ids(context)).code == 0
    assert list(Path("w/out/events").iterdir()) == []


def test_what_is_refused_leaves_the_workspace_to_be_mended(ion: Ion) -> None:
    context = published(ion)
    ion("handler", "prepare", *ids(context))
    leave(Path("w"))
    result = ion("handler", "commit", *ids(context), "--valideventtypes", "else")
    assert result.code == 65
    assert "may not publish 'made' (declared: else)" in result.err
    assert Path("w/out/data/note.txt").read_text() == "noted"
    assert ion("handler", "commit", *ids(context)).code == 0


def test_ids_that_are_of_no_stored_event_are_misuse(ion: Ion) -> None:
    context = published(ion)
    for wrong, said, code in (
        ({"eventId": "nope"}, "no event 'nope' is stored", 66),
        ({"correlationId": "nope"}, "its correlation id is not 'nope'", 2),
    ):
        result = ion("handler", "prepare", *ids(context | wrong))
        assert result.code == code
        assert said in result.err
    result = ion("handler", "prepare", *ids(context), "--context.parenteventid", "nope")
    assert "its parent event id is not 'nope'. Leave it out." in result.err
    assert not Path("w").exists()


def test_a_module_that_is_not_in_the_configuration_is_misuse(ion: Ion) -> None:
    context = published(ion)
    for name, said in (("upp", "Did you mean 'up'?"), ("no_name", "must be 1 to 63"), ("", "must be 1 to 63")):
        result = ion("handler", "prepare", *ids(context, name))
        assert result.code == 2
        assert said in result.err


def test_commit_without_a_workspace_is_misuse(ion: Ion) -> None:
    context = published(ion)
    result = ion("handler", "commit", *ids(context))
    assert result.code == 2
    assert "w: no such directory, so nothing was prepared there" in result.err


def test_a_configuration_is_needed_without_development(ion: Ion) -> None:
    (ion.home / "ion.yaml").unlink()
    assert main(["handler", "prepare", *NAME, *IDS, "--basedir", "w"]) == 78
