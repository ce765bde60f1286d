"""A module was renamed or removed: its queue goes on collecting events, and what waits in it is stranded."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ion_core.app import App
from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.storage import Document
from ion_core.retention import collect
from tests.cli.conftest import ion as ion
from tests.cli.running import Ion, Result, command
from tests.support.worlds import PATIENCE, World, does, exits, module, no_back_off
from tests.unit.test_retention import later

OLD, NEW = "  up:\n", "  lift:\n"


def publish(ion: Ion, id: str) -> Result:
    """An event, and a flow, of that id."""
    return ion("event", "publish", "start", "--file", "note.txt", "--event-id", id, "--correlation-id", id)


def rename(ion: Ion) -> None:
    """What was called up is called lift from now on."""
    config = ion.home / "ion.yaml"
    config.write_text(config.read_text().replace(OLD, NEW))


@pytest.fixture
def renamed(ion: Ion) -> Ion:
    """One event waits for up, and one is a dead letter of it; then it is renamed."""

    async def die(app: App) -> None:
        async with (await app.broker()).subscribe("up", prefetch=1) as deliveries:
            await (await anext(aiter(deliveries))).dead_letter("no good")

    for event_id in ("dead", "waits"):
        assert publish(ion, event_id).code == 0
        if event_id == "dead":
            ion.in_app(die)
    rename(ion)
    return ion


def queues(ion: Ion) -> dict[str, dict[str, Any]]:
    return {it["name"]: it for it in ion("module", "list", "--json").json}


SAID = (
    "queue up: no module of this configuration takes it. Events in it: 1 waiting, 1 dead. It goes on collecting start."
)


def test_serve_says_with_counts_which_queues_no_module_takes(renamed: Ion) -> None:
    served = renamed.process("serve", "--until-idle")
    assert served.code == 0
    [said] = [line for line in served.err.splitlines() if "no module of this configuration" in line]
    assert "WARNING" in said
    assert SAID in said
    assert "ion-core module move, drain or drop up" in said


def test_check_says_so_too_where_it_may_ask_the_broker(renamed: Ion) -> None:
    assert SAID not in renamed("check").out
    checked = renamed("check", "--connect")
    assert checked.code == 0
    assert f"warning: {SAID}" in checked.out
    [finding] = [it for it in renamed("check", "--connect", "--json").json["findings"] if it["severity"] == "warning"]
    assert SAID in finding["text"]


def test_a_queue_that_collects_nothing_and_holds_nothing_is_no_warning(ion: Ion) -> None:
    ion("event", "publish", "start")
    ion("event", "get", "--module", "up")
    rename(ion)
    assert "It goes on collecting start" in ion("check", "--connect").out
    assert ion("module", "drain", "up", "--yes").code == 0
    assert "warning" not in ion("check", "--connect").out
    assert "up" in queues(ion), "it is there all the same"


def test_modules_are_listed_with_queues_that_none_of_them_takes(renamed: Ion) -> None:
    found = queues(renamed)
    assert {name: it["configured"] for name, it in found.items()} == {
        "lift": True, "fails": True, "takes": True, "up": False,
    }  # fmt: skip
    assert found["up"]["queue"] == {"ready": 1, "delayed": 0, "unsettled": 0, "dead": 1}
    assert found["up"]["subscribes"] == ["start"]
    line = renamed("module", "list").out.splitlines()[-1]
    assert line.split()[:5] == ["up", "1", "0", "0", "1"]
    assert "(no module of this configuration)" in line


def test_their_dead_letters_are_listed_and_shown_and_left_alone_by_all(renamed: Ion) -> None:
    [letter] = renamed("dlq", "list", "--json").json
    assert (letter["module"], letter["eventId"]) == ("up", "dead")
    listed = renamed("dlq", "list")
    assert "up: no module of this configuration takes it" in listed.err
    assert renamed("dlq", "show", letter["id"]).code == 0
    for verb in (("redrive",), ("purge", "--yes")):
        assert renamed("dlq", *verb, "--all").code == 0
        assert renamed("dlq", "list", "--json").json == [letter], "another configuration may have it"
    assert renamed("dlq", "purge", letter["id"], "--yes").code == 0
    assert renamed("dlq", "list", "--json").json == []


def test_a_flow_says_that_no_module_takes_what_waits_any_more(renamed: Ion) -> None:
    renamed("serve", "--until-idle")
    tree = renamed("trace", "flow", "waits").out
    assert "up: no module of this configuration takes this any more" in tree
    assert "lift: pending, but not seen in its queue" in tree
    assert "1 pending, 1 that no module takes" in tree.splitlines()[0]


def test_a_flow_says_so_of_a_retry_that_nobody_will_make(ion: Ion) -> None:
    (ion.home / "ion.yaml").write_text((ion.home / "ion.yaml").read_text().replace("initial: 10ms", "initial: 1h"))
    ion("event", "publish", "start", "--correlation-id", "c")

    async def fail_once(app: App) -> None:
        log = {
            "context": {"name": "up", "eventId": await _only_event(app), "correlationId": "c"},
            "attempt": 1,
            "outcome": "retried",
        }
        await (await app.documents()).put(Document(kind="modulelogs", id="log", correlation_id="c", body=log))

    ion.in_app(fail_once)
    assert "up: waits for attempt 2" in ion("trace", "flow", "c").out
    rename(ion)
    assert "up: no module of this configuration takes this any more" in ion("trace", "flow", "c").out


async def _only_event(app: App) -> str:
    [document] = [it async for it in (await app.documents()).find("eventMeta")]
    return document.id


def test_moved_events_are_handled_by_the_module_of_the_new_name(renamed: Ion) -> None:
    moved = renamed("module", "move", "up", "lift", "--yes", "--json")
    assert moved.json == {"queue": "up", "to": "lift", "moved": 2}
    found = queues(renamed)
    assert found["up"]["queue"] == {"ready": 0, "delayed": 0, "unsettled": 0, "dead": 0}
    assert found["up"]["subscribes"] == [], "it collects no more"
    assert found["lift"]["queue"] == {"ready": 1, "delayed": 0, "unsettled": 0, "dead": 1}
    [letter] = renamed("dlq", "list", "--json").json
    assert letter["module"] == "lift"
    assert renamed("dlq", "redrive", letter["id"]).code == 0
    (renamed.home / "mended").touch()
    publish(renamed, "later")
    assert renamed.process("serve", "--until-idle").code == 0
    for flow in ("waits", "dead", "later"):
        assert "lift: committed" in renamed("trace", "flow", flow).out


def test_moving_is_refused_where_it_would_make_dead_letters(renamed: Ion) -> None:
    refused = renamed("module", "move", "up", "fails", "--yes")
    assert refused.code == 1
    assert "fails does not take what waits in up: start (2). Nothing was moved." in refused.err
    assert queues(renamed)["up"]["queue"]["ready"] == 1


def test_a_dropped_queue_is_gone_and_collects_no_more(renamed: Ion) -> None:
    dropped = renamed("module", "drop", "up", "--yes", "--json")
    assert dropped.json == {"queue": "up", "dropped": {"ready": 1, "delayed": 0, "unsettled": 0, "dead": 1}}
    assert "up" not in queues(renamed)
    renamed("event", "publish", "start")
    assert "up" not in queues(renamed)
    assert renamed("dlq", "list", "--json").json == []
    assert "warning" not in renamed("check", "--connect").out


@pytest.mark.parametrize("verb", [("drain", "up"), ("move", "up", "lift"), ("drop", "up")])
def test_nothing_is_done_unasked(renamed: Ion, verb: tuple[str, ...]) -> None:
    unasked = renamed.process("module", *verb)
    assert unasked.code == 2
    assert "--yes" in unasked.err
    declined, said = _answer(renamed, b"n\n", "module", *verb)
    assert declined == 1
    assert "In up: 1 waiting, 1 dead. It collects: start." in said
    assert "Another configuration on this broker may" in said
    assert queues(renamed)["up"]["queue"] == {"ready": 1, "delayed": 0, "unsettled": 0, "dead": 1}
    assert queues(renamed)["up"]["subscribes"] == ["start"]
    assert _answer(renamed, b"y\n", "module", *verb)[0] == 0
    assert queues(renamed).get("up", {"subscribes": []})["subscribes"] == []


def _answer(ion: Ion, answer: bytes, *arguments: str) -> tuple[int, str]:
    """The exit code of a real process on a terminal on which that is typed, and what it said there."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(command(*arguments), cwd=ion.home, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(terminal, answer)
    said = b""
    while True:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # how a terminal says that nobody is there any more
            break
    os.close(terminal)
    return process.wait(60), said.decode()


@pytest.mark.parametrize("verb", [("drain", "{}"), ("move", "{}", "takes"), ("drop", "{}")])
def test_a_module_that_the_configuration_has_is_no_such_queue(renamed: Ion, verb: tuple[str, ...]) -> None:
    there = renamed("module", *(it.format("lift") for it in verb), "--yes")
    assert (there.code, "is a module of this configuration" in there.err) == (2, True)
    nowhere = renamed("module", *(it.format("upp") for it in verb), "--yes")
    assert (nowhere.code, "Did you mean 'up'?" in nowhere.err) == (2, True)


async def test_gc_keeps_what_waits_for_a_module_that_the_configuration_lacks(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(does(lambda workspace: None))
    gone = module("gone")
    world.modules.append(gone)
    await world.publish(correlation_id="waits")
    world.modules.remove(gone)
    await _run(world)
    kept = await collect(world.dataplane, world.modules, before=later())
    assert (kept.flows, kept.kept) == (0, 1)
    await world.broker.drop("gone")
    assert (await collect(world.dataplane, world.modules, before=later())).flows == 1


async def test_gc_keeps_what_is_held_back_for_a_module_that_the_configuration_lacks(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(exits(0))
    await world.broker.declare("gone", topics=["in"], retry=RetryPolicy())
    await world.publish()
    await _run(world)
    async with world.broker.subscribe("gone", prefetch=1) as deliveries:
        delivery = await anext(aiter(deliveries))
        assert (await collect(world.dataplane, world.modules, before=later())).flows == 0
        await delivery.ack()
    assert (await collect(world.dataplane, world.modules, before=later())).flows == 1


async def test_gc_is_not_stopped_by_what_another_pipeline_on_the_broker_works_at(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(exits(0))
    await world.broker.declare("theirs", topics=["of theirs"], retry=RetryPolicy())
    await world.broker.publish("of theirs", b"x", headers={})
    async with world.broker.subscribe("theirs", prefetch=1) as deliveries:
        await anext(aiter(deliveries))
        await world.publish()
        await _run(world)
        assert (await collect(world.dataplane, world.modules, before=later())).flows == 1


async def test_a_queue_that_is_dropped_while_it_is_served_is_declared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.add(exits(0))
    with no_back_off(monkeypatch):
        async with world.serving():
            await world.publish()
            await world.observed.finishes(1)
            await world.broker.drop("worker")
            async with asyncio.timeout(PATIENCE):
                await world.broker.until(lambda: "worker" in world.broker._queues)
            await world.publish()
            await world.observed.finishes(2)
    assert len(world.commits) == 2


async def _run(world: World) -> None:
    """Until nothing is pending for the modules of the configuration."""
    async with world.serving():
        await world.broker.until(lambda: all(world.broker.counts(it.name).pending == 0 for it in world.modules))
