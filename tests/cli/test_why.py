"""``ion-core why``: what happened to an event, by the documents and queues of a real pipeline."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ion_core.app import App
from ion_core.cli import main
from ion_core.contracts.messaging import RetryPolicy
from tests.cli.running import Ion, command

WITHIN = 60.0


@pytest.fixture
def ran(ion: Ion) -> Ion:
    """``up`` has made an event of e1, which ``takes`` has committed and ``fails`` has given up."""
    ion("event", "publish", "start", "--event-id", "e1", "--correlation-id", "c1", "--file", "note.txt")
    ion("serve", "--until-idle")
    return ion


def _made(ion: Ion) -> str:
    found: str = ion("dlq", "list", "--json").json[0]["eventId"]
    return found


def _module(told: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [it for it in told["modules"] if it["module"] == name]
    return found


def test_an_event_that_waits_says_so_and_what_takes_it(ion: Ion) -> None:
    ion("event", "publish", "start", "--event-id", "first")
    ion("event", "publish", "start", "--event-id", "second")
    text = ion("why", "second").out
    assert "up: waits in its queue, behind 1 other\n" in text
    assert "  ion-core serve\n" in text
    assert _module(ion("why", "second", "--json").json, "up")["ahead"] == 1


def test_what_was_given_up_has_its_rule_its_attempts_and_the_next_commands(ran: Ion) -> None:
    made = _made(ran)
    text = ran("why", made[:8]).out
    assert f"event {made}  made\n  from up, made of event e1; flow c1\n" in text
    assert "fails: dead letter 1, " in text
    assert "by the rule module-failed: the module: exit code, signal, timeout → retry, after the last one" in text
    assert "attempt 1 " in text
    assert "retried: exit code 3 [module-failed]" in text
    assert "takes: committed, " in text
    told = ran("why", made, "--json").json
    fails = _module(told, "fails")
    assert (fails["state"], fails["rule"], fails["deadLetter"]["attempts"]) == ("dead letter", "module-failed", 2)
    assert [it["outcome"] for it in fails["attempts"]] == ["retried", "dead-lettered"]
    assert fails["attempts"][0]["nextAttemptAt"] >= fails["attempts"][0]["finishedAt"]
    assert (told["parentEventId"], _module(told, "takes")["state"]) == ("e1", "committed")


def test_every_command_that_is_advised_can_be_typed_as_it_stands(ran: Ion) -> None:
    advised = ran("why", _made(ran), "--json").json["next"] + ran("why", "e1", "--json").json["next"]
    assert len(advised) >= 4
    for line in advised:
        program, *words = shlex.split(line)
        assert (program, main(words)) == ("ion-core", 0)


def test_what_an_event_led_to_is_told(ran: Ion) -> None:
    told = ran("why", "e1", "--json").json
    up = _module(told, "up")
    assert (up["state"], [it["type"] for it in up["emitted"]]) == ("committed", ["made"])
    assert up["emitted"][0]["eventId"] == _made(ran)
    assert told["files"] == ["note.txt"]


def test_a_purged_dead_letter_is_told_from_one_that_is_there(ran: Ion) -> None:
    made = _made(ran)
    ran("dlq", "purge", "--all", "--yes")
    fails = _module(ran("why", made, "--json").json, "fails")
    assert (fails["state"], fails["rule"], fails["deadLetter"]) == ("dead letter removed", "module-failed", None)


def test_a_redriven_one_waits(ran: Ion) -> None:
    made = _made(ran)
    ran("dlq", "redrive", "--all")
    assert _module(ran("why", made, "--json").json, "fails")["state"] == "waiting"


def test_it_makes_no_state_directory_and_says_what_would_do_for_an_unknown_id(ion: Ion) -> None:
    result = ion("why", "nix-of-this-name")
    assert result.code == 1
    assert "no event 'nix-of-this-name'" in result.err
    assert "`ion-core dlq list`" in result.err
    assert not (ion.home / ".ion").exists()
    ion("event", "publish", "start", "--event-id", "twin-1")
    ion("event", "publish", "start", "--event-id", "twin-2")
    several = ion("why", "twin")
    assert (several.code, "twin-1, twin-2" in several.err) == (2, True)


def test_a_message_of_others_that_was_refused_is_found_in_its_queue(ion: Ion) -> None:
    body = json.dumps({"context": {"name": "x", "eventId": "foreign", "correlationId": "c", "parentEventId": ""},
                       "type": "other", "files": [], "data": []}).encode()  # fmt: skip

    async def send(app: App) -> None:
        broker = await app.broker()
        await broker.declare("up", topics=["start"], retry=RetryPolicy())
        await broker.publish("start", body, headers={})

    ion.in_app(send)
    ion("serve", "--until-idle")
    told = ion("why", "foreign", "--json").json
    assert (told["stored"], told["type"], told["correlationId"]) == (False, "other", "c")
    up = _module(told, "up")
    assert (up["state"], up["rule"]) == ("dead letter", "event-refused")
    assert "from x, whose message is all there is of it: it left no document" in ion("why", "foreign").out


def test_an_event_that_no_module_takes_any_more_is_found_in_the_queue_it_lies_in(ion: Ion) -> None:
    ion("event", "publish", "start", "--event-id", "left")
    config = (ion.home / "ion.yaml").read_text()
    (ion.home / "ion.yaml").write_text(config.replace("  up:\n", "  down:\n"))
    told = ion("why", "left", "--json").json
    assert [(it["module"], it["taken"], it["state"]) for it in told["modules"]] == [
        ("down", True, "not in the queue"), ("up", False, "waiting"),
    ]  # fmt: skip
    assert told["next"] == ["ion-core module move up down"]
    (ion.home / "ion.yaml").write_text(config.replace("  up:\n", "  down:\n").replace("[start]", "[begin]"))
    assert "ion-core module move up NEW" in ion("why", "left", "--json").json["next"]


@pytest.fixture
def serving(ion: Ion) -> Iterator[subprocess.Popen[bytes]]:
    """A real ``serve`` whose module runs until a file is there."""
    (ion.home / "up.sh").write_text("until test -e go; do sleep 0.05; done\n")
    with subprocess.Popen(command("serve"), cwd=ion.home, stderr=subprocess.DEVNULL) as process:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        (ion.home / "go").touch()
        process.wait(WITHIN)


def test_a_running_job_is_told_with_its_attempt_and_since_when(ion: Ion, serving: subprocess.Popen[bytes]) -> None:
    ion("event", "publish", "start", "--event-id", "e1")
    until = time.monotonic() + WITHIN
    while (up := _module(told := ion("why", "e1", "--json").json, "up"))["state"] != "running":
        assert time.monotonic() < until
    assert (up["attempt"], told["serving"]) == (1, True)
    assert up["since"] is not None
    assert told["next"] == ["ion-core logs e1 --module up --follow"]
    assert "up: running, " in ion("why", "e1").out
    os.kill(serving.pid, signal.SIGKILL)  # nothing is asked that is not there any more
    serving.wait(WITHIN)
    assert ion("why", "e1", "--json").json["serving"] is False
