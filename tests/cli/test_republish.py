"""``event republish``: stored events for a module that came later, once each."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest

from ion_core.app import App
from ion_core.state import State
from tests.cli.conftest import ion as ion
from tests.cli.running import Ion

LATE = """\
  late:
    command: [sh, -c, "cp $HANDLER_BASE_DIR/in/data/* $HANDLER_BASE_DIR/out/data/"]
    source: .
    subscribes: [start]
"""
REPUBLISH = ("event", "republish", "--type", "start", "--since", "1h")


@pytest.fixture
def late(ion: Ion) -> Ion:
    """Three events that `up` has done, and a module that takes their type, added afterwards."""
    for n in range(3):
        ion("event", "publish", "start", "--file", "note.txt", "--event-id", f"e{n}", "--correlation-id", f"e{n}")
    ion.process("serve", "--until-idle")
    config = ion.home / "ion.yaml"
    config.write_text(config.read_text() + LATE)
    return ion


def counts(ion: Ion) -> dict[str, dict[str, int]]:
    return {it["name"]: it["queue"] for it in ion("module", "list", "--json").json}


def given(ion: Ion, *more: str) -> dict[str, dict[str, int]]:
    done = ion(*REPUBLISH, "--json", *more)
    assert done.code == 0, done.err
    return {it.pop("module"): it for it in done.json["modules"]}


def test_events_of_the_past_are_given_to_the_new_module_alone_and_once(late: Ion) -> None:
    owed = {"events": 3, "committed": 0, "waiting": 0}
    assert given(late, "--module", "late", "--dry-run") == {"late": owed}
    before = counts(late)
    assert before["late"]["ready"] == 0
    assert given(late, "--module", "late", "--yes") == {"late": owed}
    after = counts(late)
    assert after == {**before, "late": {**before["late"], "ready": 3}}, "no other queue has them, nor is one left"
    # They wait there already: the same again does nothing.
    assert given(late, "--module", "late", "--yes") == {"late": {"events": 0, "committed": 0, "waiting": 3}}
    assert counts(late) == after

    late.process("serve", "--until-idle")
    assert given(late, "--module", "late", "--yes") == {"late": {"events": 0, "committed": 3, "waiting": 0}}
    tree = late("trace", "flow", "e1").out
    assert "late: committed" in tree
    assert tree.count("up: committed") == 1


def test_without_a_module_all_that_take_the_type_are_given_what_they_have_not_done(late: Ion) -> None:
    assert given(late, "--yes") == {
        "up": {"events": 0, "committed": 3, "waiting": 0},
        "late": {"events": 3, "committed": 0, "waiting": 0},
    }
    assert counts(late)["up"]["ready"] == 0


def test_what_is_damaged_is_named_and_hides_no_other_event(late: Ion) -> None:
    with closing(sqlite3.connect(late.home / ".ion/documents.sqlite")) as documents, documents:
        damaged = documents.execute("update documents set body = 'null' where kind = 'eventMeta' and id = 'e1'")
        assert damaged.rowcount == 1
    said = late(*REPUBLISH, "--module", "late", "--yes")
    assert said.code == 1
    assert "Published 2 events." in said.err
    assert "eventMeta 'e1'" in said.err
    assert counts(late)["late"]["ready"] == 2


def test_people_are_told_how_many_and_of_when(late: Ion) -> None:
    said = late(*REPUBLISH, "--yes")
    assert said.out.splitlines()[0] == "up: 0 events to be published; 3 done already."
    assert said.out.splitlines()[1].startswith("late: 3 events to be published, of 20")
    assert said.err == "Published 3 events.\n"
    assert late(*REPUBLISH, "--yes").err == "There is nothing to publish.\n"


def test_only_events_of_the_time_that_was_asked_for(late: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    async def age(app: App) -> None:
        """As if e1, its job and what came of it were of the year 2020."""
        documents = await app.documents()
        async for document in documents.find():
            if document.correlation_id != "e1":
                continue
            body: dict[str, Any] = dict(document.body)
            for key in ("startedAt", "finishedAt", "committedAt"):
                if key in body:
                    body[key] = "2020-05-05T12:00:00Z"
            await documents.delete(document.kind, document.id)
            from dataclasses import replace

            await documents.put(replace(document, body=body))

    late.in_app(age)

    def events(*times: str) -> int:
        done = late("event", "republish", "--type", "start", "--module", "late", "--dry-run", "--json", *times)
        assert done.code == 0, done.err
        count: int = done.json["modules"][0]["events"]
        return count

    assert events("--since", "2020-05-05", "--until", "2020-05-06") == 1
    assert events("--since", "2020-05-04T00:00:00+02:00") == 3
    assert events("--since", "2099-01-01") == 0


KILLED = """\
import os, sys
from ion_core.cli import main
from ion_core.embedded.sqlite.broker import SqliteBroker
SqliteBroker.move = lambda *args: os._exit(137)
main(sys.argv[1:])
"""


def killed_before_it_moved(ion: Ion) -> str:
    """The queue that is left by a real process that ends so."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *REPUBLISH, "--module", "late", "--yes"], cwd=ion.home, capture_output=True
    )
    assert done.returncode == 137, done.stderr
    [left] = [name for name in counts(ion) if name.startswith("republish-")]
    return left


@pytest.mark.parametrize("by", ["republish", "gc"])
def test_what_one_that_was_killed_has_left_is_removed_said_and_given_by_the_next(late: Ion, by: str) -> None:
    left = killed_before_it_moved(late)
    assert counts(late)[left]["ready"] == 3
    with State.open(late.home / ".ion").republishing():  # for all that others know, it may be under way
        late("gc", "--older-than", "1h")
        assert left in counts(late)
        assert late(*REPUBLISH, "--module", "late", "--yes").code == 75
    given(late, "--module", "late", "--dry-run")
    assert left in counts(late)
    done = late(*REPUBLISH, "--module", "late", "--yes") if by == "republish" else late("gc", "--older-than", "1h")
    assert done.code == 0, done.err
    assert (
        f"Removed {left}, which a republish or a migrate that was cut short has left. "
        "Not given, so to be given again: 3." in done.err
    )
    assert left not in counts(late)
    assert counts(late)["late"]["ready"] == (3 if by == "republish" else 0)
    given(late, "--module", "late", "--yes")
    assert counts(late)["late"]["ready"] == 3


def test_what_that_of_another_state_directory_has_left_is_not_touched(late: Ion) -> None:
    left = killed_before_it_moved(late)
    (late.home / ".ion/id").write_text("0123456789abcdef\n")
    assert late(*REPUBLISH, "--module", "late", "--yes").code == 0
    assert counts(late)[left]["ready"] == 3


def test_an_event_stays_as_far_from_the_start_of_its_flow_as_it_was(ion: Ion) -> None:
    """So that a loop of modules, given its own events again, ends where it would have ended."""
    ion("event", "publish", "start", "--file", "note.txt", "--event-id", "e", "--correlation-id", "c")
    ion.process("serve", "--until-idle")
    config = ion.home / "ion.yaml"
    config.write_text(config.read_text() + LATE.replace("[start]", "[made, start]"))
    for type in ("made", "start"):
        assert ion("event", "republish", "--type", type, "--since", "1h", "--module", "late", "--yes").code == 0

    async def hops(app: App) -> list[str]:
        return [it.headers["ion-hops"] for it in await (await app.broker()).peek("late", limit=9)]

    assert ion.in_app(hops) == ["1", "0"]


def test_a_dead_letter_is_left_for_redriving(late: Ion) -> None:
    assert given(late, "--module", "late", "--yes")["late"]["events"] == 3

    async def die(app: App) -> None:
        async with (await app.broker()).subscribe("late", prefetch=1) as deliveries:
            await (await anext(aiter(deliveries))).dead_letter("no good")

    late.in_app(die)
    assert given(late, "--module", "late", "--yes") == {"late": {"events": 0, "committed": 0, "waiting": 3}}


def test_what_cannot_be_is_said(late: Ion) -> None:
    assert "there is no terminal to ask on" in late.process(*REPUBLISH).err
    assert "Did you mean 'late'?" in late(*REPUBLISH, "--module", "lat", "--yes").err
    assert "takes no events of type 'start', only made" in late(*REPUBLISH, "--module", "takes", "--yes").err
    refused = late("event", "republish", "--type", "stat", "--since", "1h", "--yes")
    assert (refused.code, "Taken: made, start." in refused.err) == (2, True)
    for time in ("soon", "99999999999d"):
        assert (
            "must be a duration such as 30d, or a time"
            in late("event", "republish", "--type", "a", "--since", time).err
        )
