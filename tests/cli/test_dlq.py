"""``dlq list``, ``show``, ``redrive`` and ``purge``, on dead letters that lie in the real embedded broker."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import Any

import pytest

from ion_core.app import App
from ion_core.cli.event.letters import one_by_id, whole_letter
from ion_core.contracts.messaging import RetryPolicy
from ion_core.errors import UsageError
from tests.cli.running import Ion, command


@pytest.fixture
def dead(ion: Ion) -> Ion:
    """Three dead letters: two of ``up``, of which one is no event, and one of ``takes``."""

    async def die(app: App, queue: str, topic: str, reason: str) -> None:
        async with (await app.broker()).subscribe(queue, prefetch=1) as deliveries:
            await (await anext(aiter(deliveries))).dead_letter(reason, log_tail=["oh", "\x1b[2Jno"])

    async def work(app: App) -> None:
        broker = await app.broker()
        await broker.declare("up", topics=["start"], retry=RetryPolicy())
        await broker.publish("start", b"\x1b[2J", headers={"ion-hops": "0"})
        await die(app, "up", "start", "unreadable event: \x1b[2J is not JSON")

    ion.in_app(work)
    ion("event", "publish", "start", "--event-id", "e1", "--correlation-id", "c1")
    ion.in_app(lambda app: die(app, "up", "start", "exit code 3"))
    (ion.home / "ion.yaml").write_text((ion.home / "ion.yaml").read_text().replace("[made]", "[made, start]"))
    ion("event", "publish", "start", "--event-id", "e2", "--correlation-id", "c2")
    ion.in_app(lambda app: die(app, "takes", "start", "timed out"))
    return ion


@pytest.mark.parametrize(
    ("id", "whole"),
    [("ab12", "ab12-x"), ("ab1", "ab1"), ("1234", "1234"), ("12345", "12345"), ("nix!", "nix!"), ("8888", "8888-a")],
)
def test_the_beginning_of_an_id_will_do_but_for_a_number(id: str, whole: str) -> None:
    assert whole_letter(id, ["ab12-x", "cd34", "12345", "8888-a", "88889"]) == whole


def test_a_beginning_that_several_dead_letters_have_is_misuse() -> None:
    with pytest.raises(UsageError, match="2 dead letters have an id that begins so: ab12-x, ab12-y"):
        whole_letter("ab12", ["ab12-x", "ab12-y"])


def _listed(ion: Ion, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ion("dlq", "list", "--json", *arguments).json
    return found


def test_a_list_has_the_fields_of_documents(dead: Ion) -> None:
    entries = _listed(dead)
    assert [entry["module"] for entry in entries] == ["up", "up", "takes"]
    assert set(entries[1]) == {
        "id", "module", "eventId", "correlationId", "type", "reason", "attempts", "diedAt",
    }  # fmt: skip
    assert (entries[1]["eventId"], entries[1]["correlationId"], entries[1]["type"]) == ("e1", "c1", "start")
    assert (entries[1]["reason"], entries[1]["attempts"]) == ("exit code 3", 1)
    assert entries[0]["eventId"] is None


def test_a_list_can_be_narrowed(dead: Ion) -> None:
    assert [entry["eventId"] for entry in _listed(dead, "--module", "up")] == [None, "e1"]
    assert [entry["eventId"] for entry in _listed(dead, "--reason", "Exit Code")] == ["e1"]
    assert dead("dlq", "list", "--module", "nope").code == 2
    nothing = dead("dlq", "list", "--reason", "nothing like it")
    assert (nothing.out, nothing.err) == ("", "There are no such dead letters.\n")


def test_what_died_cannot_steer_the_terminal(dead: Ion) -> None:
    ids = [entry["id"] for entry in _listed(dead)]
    for result in (dead("dlq", "list"), *(dead("dlq", "show", id) for id in ids)):
        assert result.code == 0
        assert result.out.replace("\n", "").isprintable()
    assert "(unreadable)" in dead("dlq", "list").out


def test_show_has_the_event_the_reason_and_the_last_log_lines(dead: Ion) -> None:
    id = _listed(dead, "--reason", "exit code")[0]["id"]
    text = dead("dlq", "show", id).out
    for part in ("exit code 3", '"eventId": "e1"', "last lines of its log:\n  oh\n"):
        assert part in text
    whole = dead("dlq", "show", id, "--json").json
    assert whole["event"]["context"]["eventId"] == "e1"
    assert whole["logTail"] == ["oh", "\x1b[2Jno"]


def test_an_unreadable_one_is_shown_with_its_body(dead: Ion) -> None:
    id = _listed(dead, "--reason", "unreadable")[0]["id"]
    assert dead("dlq", "show", id, "--json").json["body"] == "\x1b[2J"
    assert "is not JSON" in dead("dlq", "show", id).out


def test_redriving_puts_back_what_was_chosen(dead: Ion) -> None:
    id = _listed(dead, "--reason", "exit code")[0]["id"]
    assert dead("dlq", "redrive", id).err == "1 put back.\n"
    assert len(_listed(dead)) == 2
    assert dead("event", "peek", "--module", "up", "--json").json[0]["eventId"] in ("e1", "e2")
    assert dead("dlq", "redrive", "--all", "--module", "takes", "--json").json == {"redriven": 1}
    assert dead("dlq", "redrive", "--reason", "unreadable", "--json").json == {"redriven": 1}
    assert _listed(dead) == []


def test_an_id_that_is_not_there_moves_nothing(dead: Ion) -> None:
    id = _listed(dead)[0]["id"]
    result = dead("dlq", "redrive", id, "nix\x1b")
    assert result.code == 1
    assert result.err.startswith("ion-core: no dead letter 'nix\\x1b'.")
    assert len(_listed(dead)) == 3


@pytest.mark.parametrize("arguments", [[], ["1", "--all"], ["1", "--reason", "x"]])
@pytest.mark.parametrize("verb", ["redrive", "purge"])
def test_which_ones_has_to_be_said(dead: Ion, verb: str, arguments: list[str]) -> None:
    result = dead("dlq", verb, *arguments)
    assert result.code == 2
    assert "say which" in result.err


def test_purging_asks_and_without_a_terminal_wants_yes(dead: Ion) -> None:
    refused = dead("dlq", "purge", "--all")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert len(_listed(dead)) == 3
    assert dead("dlq", "purge", "--reason", "timed out", "--yes", "--json").json == {"purged": 1}
    assert dead("dlq", "purge", "--all", "--yes").err == "2 deleted.\n"
    assert _listed(dead) == []


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 3), (b"y\n", 0, 0)])
def test_on_a_terminal_purging_asks_first(dead: Ion, answer: bytes, code: int, left: int) -> None:
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        command("dlq", "purge", "--all"), cwd=dead.home, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    said = b""
    while b"Delete 3 dead letters for good?" not in said:
        said += os.read(ours, 1024)
    os.write(ours, answer)
    assert asking.communicate(timeout=60)[0] == b""
    os.close(ours)
    assert asking.returncode == code
    assert len(_listed(dead)) == left


def test_no_dead_letters_are_told(ion: Ion) -> None:
    assert ion("dlq", "list").err == "There are no dead letters.\n"
    assert ion("dlq", "list", "--json").json == []
    assert ion("dlq", "show", "1").code == 1
    assert ion("dlq", "redrive", "--all", "--json").json == {"redriven": 0}


def test_one_is_shown_without_a_look_at_any_other(dead: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    [id] = [entry["id"] for entry in _listed(dead, "--reason", "exit code")]

    async def show(app: App) -> None:
        broker = await app.broker()

        def every(queue: str) -> Any:
            raise AssertionError(f"all of {queue} are looked at")

        monkeypatch.setattr(broker, "each_dead_letter", every)
        assert (await one_by_id(app, id, None)).log_tail == ("oh", "\x1b[2Jno")

    dead.in_app(show)
