"""``migrate``: what one configuration's providers keep, to those of another."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.app import App
from ion_core.contracts.messaging import QueueStats
from tests.cli.conftest import ion as ion
from tests.cli.running import PIPELINE, Ion, command

MIGRATE = ("migrate", "--from", "ion.yaml", "--to", "other.yaml")
OTHER = ("--config", "other.yaml")
WITHIN = 60.0


@pytest.fixture
def two(ion: Ion) -> Ion:
    """Two flows with a dead letter each, an event that waits, and a second configuration with another state."""
    for n in range(2):
        ion("event", "publish", "start", "--file", "note.txt", "--event-id", f"e{n}", "--correlation-id", f"c{n}")
    ion.process("serve", "--until-idle")
    ion("event", "publish", "start", "--file", "note.txt", "--event-id", "late", "--correlation-id", "late")
    (ion.home / "other.yaml").write_text("state: other\n" + PIPELINE, encoding="utf-8")
    return ion


def queues(ion: Ion, *config: str) -> dict[str, dict[str, int]]:
    found = ion("module", "list", "--json", *config)
    return {it["name"]: it["queue"] for it in found.json}


def letters(ion: Ion, *config: str) -> list[dict[str, Any]]:
    """What each keeps, but its id, which is its broker's."""
    found: list[dict[str, Any]] = [ion("dlq", "show", it["id"], "--json", *config).json for it in
                                   ion("dlq", "list", "--json", *config).json]  # fmt: skip
    return [{key: value for key, value in letter.items() if key != "id"} for letter in found]


def flow(ion: Ion, id: str, *config: str) -> Any:
    return ion("trace", "flow", id, "--json", *config).json


def failures_last(documents: list[Any]) -> list[Any]:
    return sorted(
        documents,
        key=lambda it: (
            ("failure", "round").index(kind) + 1
            if (kind := it["context"]["documentType"]) in ("failure", "round")
            else 0
        ),
    )


def test_all_of_it_is_there_as_it_was_and_goes_on_there(two: Ion) -> None:
    before, dead = [flow(two, id) for id in ("c0", "c1", "late")], letters(two)
    assert len(dead) == 2

    done = two(*MIGRATE, "--yes", "--json")

    assert done.code == 0, done.err
    assert done.json["waiting"] == 1
    assert done.json["deadLetters"] == 2
    assert done.json["files"] == 5, "of three events from outside, and two that a module made"
    assert [flow(two, id, *OTHER) for id in ("c0", "c1", "late")] == [failures_last(it) for it in before]
    assert letters(two, *OTHER) == dead
    assert {it["ready"] + it["dead"] for it in queues(two).values()} == {0}
    assert [flow(two, id) for id in ("c0", "c1", "late")] == before, "what was copied is still there"

    (two.home / "mended").touch()
    said = two("dlq", "redrive", "--all", *OTHER)
    assert said.code == 0, said.err
    served = two.process("serve", "--until-idle", *OTHER)
    assert served.code == 0, served.err
    assert two("dlq", "list", "--json", *OTHER).json == []
    assert two.process("serve", "--until-idle").code == 0
    assert len(flow(two, "late")) == 1, "nothing of it runs a second time where it was"
    assert len(flow(two, "late", *OTHER)) > 1


def test_a_dry_run_says_what_there_is_and_changes_nothing(two: Ion) -> None:
    said = two(*MIGRATE, "--dry-run")
    assert said.code == 0, said.err
    assert "There wait 1 event and 2 dead letters." in said.out
    documents = sum(len(flow(two, id)) for id in ("c0", "c1", "late"))
    assert f"There are {documents} documents to be copied" in said.out
    assert two(*MIGRATE, "--dry-run", "--json").json["documents"] == documents
    assert not (two.home / "other").exists()
    assert queues(two)["up"]["ready"] == 1


async def _held_again(app: App) -> None:
    """The event that waits fails, once, and is to be tried again in a moment."""
    broker = await app.broker()
    async with broker.subscribe("up", prefetch=1) as deliveries:
        await (await anext(deliveries)).retry(delay=timedelta(milliseconds=300))


async def _held_for_long(app: App) -> None:
    broker = await app.broker()
    async with broker.subscribe("up", prefetch=1) as deliveries:
        await (await anext(deliveries)).retry(delay=timedelta(hours=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cut_short_it_says_how_far_it_has_come(two: Ion, number: int) -> None:
    """What waits for a retry is waited for, and so there is time."""
    two.in_app(_held_for_long)
    with subprocess.Popen(
        command(*MIGRATE, "--yes"), cwd=two.home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + WITHIN
        while not (two.home / "other").exists() or len(two("dlq", "list", "--json", *OTHER).json) < 2:
            assert time.monotonic() < until
        while two("dlq", "list", "--json").json:  # it counts what it has taken away from here
            assert time.monotonic() < until
        process.send_signal(number)
        _, said = process.communicate(timeout=WITHIN)
    assert process.returncode == 128 + number
    assert "Moved 0 waiting events and 2 dead letters. The same again does the rest." in said
    assert not said.startswith("Copied 0 documents")


def test_what_waits_for_a_retry_comes_along_with_its_attempts(two: Ion) -> None:
    two.in_app(_held_again)
    assert two(*MIGRATE, "--yes", "--json").json["waiting"] == 1
    [message] = two("event", "peek", "--module", "up", "--json", *OTHER).json
    assert (message["eventId"], message["attempt"]) == ("late", 2)


def test_a_queue_that_only_the_first_has_comes_along(two: Ion) -> None:
    modules = {"other": {"command": ["x"], "source": ".", "subscribes": ["y"]}}
    (two.home / "other.yaml").write_text(json.dumps({"state": "other", "modules": modules}))
    assert two(*MIGRATE, "--yes").code == 0

    async def look(app: App) -> tuple[frozenset[str], QueueStats]:
        broker = await app.broker()
        [topics] = [it.topics for it in await broker.queues() if it.name == "up"]
        return topics, await broker.stats("up")

    assert two("config", "show", *OTHER).code == 0
    (two.home / "ion.yaml").write_text((two.home / "other.yaml").read_text())
    topics, stats = two.in_app(look)
    assert topics == {"start"}
    assert stats.ready == 1


def blob(ion: Ion) -> Path:
    """The file of the event that waits."""
    [found] = flow(ion, "late")[0]["blobs"]
    return ion.home / ".ion/blobs/files" / found["key"]


def test_while_a_file_is_missing_no_event_moves_and_afterwards_the_rest_does(two: Ion) -> None:
    path = blob(two)
    path.rename(two.home / "aside")

    done = two(*MIGRATE, "--yes", "--json")

    assert done.code == 1
    [problem] = done.json["problems"]
    assert str(path.name) in problem
    assert (done.json["waiting"], done.json["deadLetters"]) == (0, 0)
    assert queues(two)["up"]["ready"] == 1

    (two.home / "aside").rename(path)
    done = two(*MIGRATE, "--yes", "--json")
    assert done.code == 0
    assert (done.json["waiting"], done.json["deadLetters"]) == (1, 2)
    assert flow(two, "late", *OTHER) == flow(two, "late")


def test_what_went_on_between_two_migrations_counts_as_it_is_by_the_second(two: Ion) -> None:
    path = blob(two)
    path.rename(two.home / "aside")
    assert two(*MIGRATE, "--yes").code == 1
    (two.home / "aside").rename(path)

    two("dlq", "redrive", "--all")
    two.process("serve", "--until-idle")  # all of them fail again, and the one that waited
    [purged, *_] = two("dlq", "list", "--json").json
    assert two("dlq", "purge", purged["id"], "--yes").code == 0

    done = two(*MIGRATE, "--yes", "--json")
    assert (done.code, done.json["problems"]) == (0, []), done.err
    assert done.json["deadLetters"] == 2
    assert records(two, *OTHER) == records(two)
    assert len(records(two)["round"]) == 2


def records(ion: Ion, *config: str) -> dict[str, dict[str, Any]]:
    """What is stored of failures and rounds, by id."""
    found: dict[str, dict[str, Any]] = {"failure": {}, "round": {}}

    async def look(app: App) -> None:
        for kind, documents in found.items():
            async for document in (await app.documents()).find(kind):
                documents[document.id] = document.body

    two_in(ion, look, *config)
    return found


def test_with_gaps_all_else_moves(two: Ion) -> None:
    blob(two).unlink()
    with closing(sqlite3.connect(two.home / ".ion/documents.sqlite")) as documents, documents:
        documents.execute("update documents set body = 'null' where kind = 'modulelogs'")
    done = two(*MIGRATE, "--yes", "--with-gaps")
    assert done.code == 1
    assert "Moved 1 waiting event and 2 dead letters." in done.out
    assert "is damaged" in done.err
    assert queues(two, *OTHER)["up"]["ready"] == 1


@pytest.mark.parametrize("end", ["min", "max"])
def test_a_damaged_document_at_either_end_is_named_and_all_else_is_copied(two: Ion, end: str) -> None:
    with closing(sqlite3.connect(two.home / ".ion/documents.sqlite")) as documents, documents:
        documents.execute(f"update documents set body = 'null' where seq = (select {end}(seq) from documents)")
    done = two(*MIGRATE, "--yes", "--with-gaps")
    assert done.code == 1, done.err
    assert "Moved 1 waiting event and 2 dead letters." in done.out
    assert "is damaged" in done.err


def test_what_exists_there_with_another_body_is_left_and_named(two: Ion) -> None:
    two("event", "publish", "start", "--event-id", "late", "--correlation-id", "other", *OTHER)
    done = two(*MIGRATE, "--yes", "--json")
    assert done.code == 1
    assert ["exists there with another body" in it for it in done.json["problems"]] == [True]
    assert queues(two)["up"]["ready"] == 1


def test_files_on_their_way_that_a_killed_one_left_are_gone(two: Ion) -> None:
    left = two.home / "other/migration/passing/tmp"
    left.mkdir(mode=0o700, parents=True)
    (left / "0").write_text("half of it")
    assert two(*MIGRATE, "--yes").code == 0
    assert list((two.home / "other/migration").rglob("*")) == [left.parent]


def test_what_is_in_the_place_of_its_directory_is_named(two: Ion) -> None:
    (two.home / "other").mkdir(mode=0o700)
    (two.home / "other/migration").write_text("in the way")
    said = two(*MIGRATE, "--yes")
    assert said.code == 78
    assert f"{two.home / 'other/migration'}: cannot be removed or made anew" in said.err
    assert queues(two)["up"]["ready"] == 1


def test_it_is_refused_while_a_serve_runs_on_either(two: Ion) -> None:
    for config in ((), OTHER):

        async def locked(app: App) -> None:
            with app.state.locked():
                said = two.process(*MIGRATE, "--yes")
                assert said.code == 75, said.err
                assert "in use by another `ion-core`" in said.err

        two_in(two, locked, *config)
    assert queues(two)["up"]["ready"] == 1


def two_in(ion: Ion, work: Any, *config: str) -> None:
    from ion_core.cli.session import load, run
    from ion_core.cli.whole import Options

    options = Options()
    options.config = config[-1] if config else None
    run(load(options), work)


def test_it_is_refused_while_somebody_holds_an_event(two: Ion) -> None:
    async def hold(app: App) -> None:
        async with (await app.broker()).subscribe("up", prefetch=1) as deliveries:
            await anext(deliveries)
            said = two.process(*MIGRATE, "--yes")
            assert said.code == 1, said.err
            assert "somebody holds events: 1 of up" in said.err

    two.in_app(hold)
    assert queues(two)["up"]["ready"] == 1


def test_what_both_share_is_left_alone(two: Ion) -> None:
    storage = {"documents": {"provider": "sqlite", "path": str(two.home / ".ion/documents.sqlite")}}
    with (two.home / "other.yaml").open("a") as file:
        file.write(f"storage: {json.dumps(storage)}\n")
    done = two(*MIGRATE, "--yes", "--json")
    assert done.code == 0, done.err
    assert done.json["shared"] == ["storage.documents"]
    assert (done.json["documents"], done.json["files"], done.json["waiting"]) == (0, 5, 1)
    assert two.process("serve", "--until-idle", *OTHER).code == 1, "two dead letters"


def test_where_all_is_shared_there_is_nothing_to_move(two: Ion) -> None:
    said = two("migrate", "--from", "ion.yaml", "--to", "ion.yaml", "--yes")
    assert said.code == 2
    assert "There is nothing to move." in said.err
    assert queues(two)["up"]["ready"] == 1


def test_one_broker_that_is_said_in_two_ways_is_refused(two: Ion) -> None:
    (two.home / "link.sqlite").symlink_to(two.home / ".ion/broker.sqlite")
    messaging = {"provider": "sqlite", "path": str(two.home / "link.sqlite")}
    with (two.home / "other.yaml").open("a") as file:
        file.write(f"messaging: {json.dumps(messaging)}\n")
    said = two(*MIGRATE, "--yes")
    assert said.code == 2
    assert "are the same broker" in said.err
    assert queues(two)["up"]["ready"] == 1
