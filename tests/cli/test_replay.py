"""``replay``: a past event again, and the difference to what was committed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ion_core.app import App
from tests.cli.running import UP, Ion


@pytest.fixture
def past(ion: Ion) -> str:
    """The id of an event that was handled: `up` and `takes` committed, `fails` did not."""
    context = ion("event", "publish", "start", "--file", "note.txt", "--json").json["context"]
    assert ion.process("serve", "--until-idle").code == 1
    event_id: str = context["eventId"]
    return event_id


def made(ion: Ion) -> str:
    async def find(app: App) -> str:
        [found] = [it.id async for it in (await app.documents()).find("eventMeta") if it.body["type"] == "made"]
        return found

    return ion.in_app(find)


def everything(ion: Ion) -> list[Any]:
    async def read(app: App) -> list[Any]:
        documents = [document async for document in (await app.documents()).find()]
        return [*documents, *[key async for key in (await app.blobs()).list("")]]

    return ion.in_app(read)


def test_the_same_ends_with_0_and_changes_nothing(ion: Ion, past: str) -> None:
    before = everything(ion)
    done = ion.process("replay", past[:8])
    assert done.code == 0, done.err
    assert done.out.startswith("up: the same as what attempt 1 committed at 20")
    assert done.err == "replaying up ...\nworked hard\n"
    assert everything(ion) == before
    assert list((ion.home / ".ion" / "rehearsals").iterdir()) == []


def test_every_difference_is_shown_and_ends_with_1(ion: Ion, past: str) -> None:
    (ion.home / "up.sh").write_text(
        """
        echo other > "$HANDLER_BASE_DIR"/out/data/note.txt
        echo more > "$HANDLER_BASE_DIR"/out/data/more.txt
        echo '[{"key":"eventType","value":"made"},{"key":"files","value":"more.txt"},{"key":"n","value":"2"}]' \\
          > "$HANDLER_BASE_DIR"/out/events/made.json
        echo '[{"key":"eventType","value":"made"}]' > "$HANDLER_BASE_DIR"/out/events/second.json
        echo '[{"key":"lines","value":"4"}]' > "$HANDLER_BASE_DIR"/out/insights.json
        """
    )
    shown = ion("replay", past)
    assert shown.code == 1
    lines = shown.out.splitlines()
    assert lines[0].startswith("up: differs from what attempt 1 committed at")
    assert [line.split("  sha256")[0] for line in lines[1:4]] == [
        "  + file more.txt  5 bytes",
        "  - file note.txt  9 bytes",
        "  + file note.txt  6 bytes",
    ]
    assert lines[4:6] == ["  - insight lines=3", "  + insight lines=4"]
    assert lines[6].startswith("  ~ event made  ")
    assert lines[7:11] == [
        "      - pair n=1",
        "      + pair n=2",
        "      - file note.txt",
        "      + file more.txt",
    ]
    assert lines[11].startswith("  + event made  ")

    [found] = ion("replay", past, "--json").json
    assert found["same"] is False
    files = {file["name"]: file for file in found["difference"]["files"]}
    assert files["more.txt"]["before"] is None
    assert (files["note.txt"]["before"]["size"], files["note.txt"]["after"]["size"]) == (9, 6)
    assert found["difference"]["insights"]["added"] == [{"key": "lines", "value": "4"}]
    assert [event["type"] for event in found["difference"]["events"]] == [
        {"before": "made", "after": "made"},
        {"before": None, "after": "made"},
    ]


def test_what_is_not_there_any_more_is_shown(ion: Ion, past: str) -> None:
    (ion.home / "up.sh").write_text("true")
    lines = ion("replay", past).out.splitlines()
    assert lines[1].startswith("  - file note.txt  9 bytes")
    assert lines[2] == "  - insight lines=3"
    assert lines[3].startswith("  - event made  ")


def test_a_module_that_fails_now_ends_with_1(ion: Ion, past: str) -> None:
    (ion.home / "up.sh").write_text("exit 5")
    shown = ion("replay", past)
    assert shown.code == 1
    assert shown.out.startswith("up: failed, unlike what attempt 1 committed at")
    assert shown.out.endswith(": exit code 5\n")
    [found] = ion("replay", past, "--json").json
    assert (found["same"], found["difference"], found["replayed"]["reason"]) == (False, None, "exit code 5")


def test_all_modules_that_committed_are_replayed_or_the_one_named(ion: Ion, past: str) -> None:
    event = made(ion)
    assert [it["replayed"]["module"] for it in ion("replay", event, "--json").json] == ["takes"]
    ion.home.joinpath("mended").touch()
    [letter] = ion("dlq", "list", "--json").json
    assert ion("dlq", "redrive", letter["id"]).code == 0
    assert ion.process("serve", "--until-idle").code == 0
    assert [it["replayed"]["module"] for it in ion("replay", event, "--json").json] == ["fails", "takes"]
    assert [it["replayed"]["module"] for it in ion("replay", event, "--module", "fails", "--json").json] == ["fails"]
    several = ion("replay", event, "--image", "x")
    assert (several.code, several.out) == (2, "")
    assert "--image: of which module?" in several.err


def test_a_replay_of_a_dev_run(ion: Ion) -> None:
    run = ion.process("dev", "run", "start", "--file", "note.txt", "--json").json
    assert ion("replay", run["eventId"], "--dev").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["absent"], 1, "no event 'absent'"),
        (["PAST", "--module", "upp"], 2, "no module called 'upp'. Did you mean 'up'?"),
        (["PAST", "--module", "takes"], 1, "module takes has committed anything"),
        (["PAST", "--image", "localhost/x"], 2, "--image: module up runs where no images run"),
    ],
)
def test_misuse_says_what_is_wrong(ion: Ion, past: str, arguments: list[str], code: int, said: str) -> None:
    result = ion("replay", *(past if it == "PAST" else it for it in arguments))
    assert result.code == code, result.err
    assert said in result.err


def test_inputs_that_are_gone_are_said(ion: Ion, past: str) -> None:
    async def lose(app: App) -> None:
        blobs = await app.blobs()
        for key in [key async for key in blobs.list("") if "/_/" in key]:
            await blobs.delete(key)

    ion.in_app(lose)
    result = ion("replay", past)
    assert (result.code, result.out) == (1, "")
    assert "note.txt" in result.err


def test_pairs_are_compared_as_often_as_they_are_there_and_in_order(ion: Ion, past: str) -> None:
    twice = json.dumps([{"key": "lines", "value": "3"}, {"key": "lines", "value": "3"}])
    (ion.home / "up.sh").write_text(UP.replace("""'[{"key":"lines","value":"3"}]'""", f"'{twice}'"))
    lines = ion("replay", past).out.splitlines()
    assert lines[1:] == ["  + insight lines=3"]
