"""Dead letters as work: ``dlq list --by``, ``redrive`` at a rate and cut short, ``export`` and ``import``."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ion_core.app import App
from tests.cli.running import Ion, command

WITHIN = 60.0


@pytest.fixture
def many(ion: Ion) -> Ion:
    """Six dead letters of ``up``: four died of one cause, each with ids of its own in its reason, one is no event."""

    async def work(app: App) -> None:
        await app.intake()
        broker = await app.broker()
        await broker.publish("start", b"no event", headers={})
        async with broker.subscribe("up", prefetch=10) as deliveries:
            for n in range(6):
                delivery = await anext(aiter(deliveries))
                reason = f"event e{n}: blob c{n}/e{n}/_/a lacks 123456{n} bytes (attempt 4, the last)"
                await delivery.dead_letter(reason if n < 4 else "exit code 3" if n < 5 else "unreadable event: x")

    for n in range(5):
        ion("event", "publish", "start", "--event-id", f"e{n}", "--correlation-id", f"c{n}", "--file", "note.txt")
    ion.in_app(work)
    return ion


def _listed(ion: Ion, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ion("dlq", "list", "--json", *arguments).json
    return found


def test_what_died_of_one_cause_is_one_group(many: Ion) -> None:
    groups = _listed(many, "--by", "reason")
    assert [(it["count"], it["reason"]) for it in groups] == [
        (4, "event …: blob …/…/_/a lacks … bytes"), (1, "exit code 3"), (1, "unreadable event: x"),
    ]  # fmt: skip
    [newest] = [it for it in _listed(many) if it["id"] == groups[0]["exampleId"]]
    assert (newest["eventId"], newest["diedAt"]) == ("e3", groups[0]["lastDiedAt"])
    assert groups[0]["firstDiedAt"] <= groups[0]["lastDiedAt"]
    assert groups[0]["modules"] == ["up"]
    text = many("dlq", "list", "--by", "reason").out
    assert text.splitlines()[0].split() == [
        "COUNT", "FIRST", "DIED", "AT", "LAST", "DIED", "AT", "EXAMPLE", "MODULES", "REASON",
    ]  # fmt: skip


def test_groups_by_module_and_type(many: Ion) -> None:
    assert [(it["module"], it["count"]) for it in _listed(many, "--by", "module")] == [("up", 6)]
    assert [(it["type"], it["count"]) for it in _listed(many, "--by", "type")] == [("start", 5), (None, 1)]
    assert "(unreadable)" in many("dlq", "list", "--by", "type").out


def test_a_cause_as_it_is_shown_chooses_its_group(many: Ion) -> None:
    cause = _listed(many, "--by", "reason")[0]["reason"]
    assert [it["eventId"] for it in _listed(many, "--reason", cause)] == ["e0", "e1", "e2", "e3"]
    assert many("dlq", "redrive", "--reason", cause).err == "4 put back.\n"
    assert len(_listed(many)) == 2


@pytest.mark.parametrize(
    ("arguments", "moved"),
    [(["--type", "start"], 5), (["--module", "up"], 6), (["--all", "--type", "start", "--reason", "exit"], 1)],
)
def test_what_is_redriven_can_be_narrowed(many: Ion, arguments: list[str], moved: int) -> None:
    assert many("dlq", "redrive", *arguments, "--json").json == {"redriven": moved}


def test_all_come_back_with_their_ids_whatever_the_rate(many: Ion) -> None:
    assert many("dlq", "redrive", "--all", "--rate", "200/s").err == "6 put back.\n"
    waiting = many("event", "peek", "--module", "up", "--limit", "10", "--json").json
    assert [it["eventId"] for it in waiting] == ["e0", "e1", "e2", "e3", "e4", None]


@pytest.mark.parametrize("rate", ["5", "0/s", "-1/s", "5/d", "1e3/s", "five/s"])
def test_what_is_no_rate_is_refused(many: Ion, rate: str) -> None:
    result = many("dlq", "redrive", "--all", "--rate", rate)
    assert (result.code, "such as 5/s or 30/min" in result.err) == (2, True)
    assert len(_listed(many)) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cut_short_nothing_is_lost_or_twice_and_it_says_what_is_left(many: Ion, number: int) -> None:
    slow = ("dlq", "redrive", "--all", "--rate", "1/min")
    with subprocess.Popen(command(*slow), cwd=many.home, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + WITHIN
        while len(_listed(many)) == 6:
            assert time.monotonic() < until
        process.send_signal(number)
        _, said = process.communicate(timeout=WITHIN)
    assert process.returncode == 128 + number
    assert "1 of 6 put back, 5 left: the same again does the rest." in said
    assert [it["eventId"] for it in _listed(many)] == ["e1", "e2", "e3", "e4", None]
    many("dlq", "redrive", "--all")
    waiting = many("event", "peek", "--module", "up", "--limit", "10", "--json").json
    assert sorted(str(it["eventId"]) for it in waiting) == ["None", "e0", "e1", "e2", "e3", "e4"]


def test_killed_at_any_moment_each_is_in_one_place(many: Ion) -> None:
    with subprocess.Popen(command("dlq", "redrive", "--all", "--rate", "20/s"), cwd=many.home) as process:
        until = time.monotonic() + WITHIN
        while len(_listed(many)) == 6:
            assert time.monotonic() < until
        process.kill()
        process.wait(WITHIN)
    dead = [it["eventId"] for it in _listed(many)]
    waiting = [it["eventId"] for it in many("event", "peek", "--module", "up", "--limit", "10", "--json").json]
    assert sorted(map(str, dead + waiting)) == ["None", "e0", "e1", "e2", "e3", "e4"]


def test_what_somebody_else_took_meanwhile_stops_nothing(many: Ion) -> None:
    from ion_core.letters import Redrive

    async def work(app: App) -> Redrive:
        broker = await app.broker()
        letters = await broker.dead_letters("up")
        await broker.purge("up", [letters[1].id, letters[4].id])
        found = Redrive(broker, await app.documents(), letters)
        await found.run()
        return found

    found = many.in_app(work)
    assert (found.moved, found.gone, found.left) == (4, 2, 0)


def test_on_a_terminal_progress_is_shown(many: Ion) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(command("dlq", "redrive", "--all"), cwd=many.home, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while b"put back." not in said:
            said += os.read(ours, 1024)
        process.wait(WITHIN)
    os.close(ours)
    assert b"putting back" in said
    assert b"6/6" in said


# Export and import


def _marks(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(it[key] for key in ("module", "eventId", "reason", "attempts", "diedAt")) for it in entries]


def test_what_was_exported_comes_back_as_it_was(many: Ion) -> None:
    before = _listed(many)
    said = many("dlq", "export", "dead.jsonl")
    assert (said.code, said.err) == (0, "6 dead letters in dead.jsonl; they are still where they were.\n")
    many("dlq", "purge", "--all", "--yes")
    assert many("dlq", "import", "dead.jsonl").err == "6 dead letters imported.\n"
    assert _marks(_listed(many)) == _marks(before)
    assert many("dlq", "import", "dead.jsonl").err == "0 dead letters imported; 6 were there already.\n"
    assert _marks(_listed(many)) == _marks(before)
    first, *letters = [json.loads(line) for line in (many.home / "dead.jsonl").read_text().splitlines()]
    assert (first["format"], first["version"], first["letters"]) == ("ion-dead-letters", 1, 6)
    assert letters[5]["letter"]["body"] == "no event"


def test_an_import_that_was_cut_short_is_ended_by_the_same_again(many: Ion) -> None:
    many("dlq", "export", "dead.jsonl")
    many("dlq", "purge", *[it["id"] for it in _listed(many)[1:4]], "--yes")
    assert many("dlq", "import", "dead.jsonl", "--json").json == {
        "imported": 3, "there": 3, "documents": 0, "files": 0,
    }  # fmt: skip
    assert len(_listed(many)) == 6


def test_files_and_documents_go_along_where_they_are_asked_for(many: Ion, tmp_path: Path) -> None:
    many("dlq", "export", "dead.jsonl", "--files", "--type", "start")
    assert len(list((many.home / "dead.jsonl.files").iterdir())) == 1, "one content, however many events bring it"
    other = ("--state-dir", str(tmp_path / "other"))
    told = many("dlq", "import", "dead.jsonl", "--json", *other).json
    assert told == {"imported": 5, "there": 0, "documents": 5, "files": 5}
    assert many("dlq", "redrive", "--all", *other).err == "5 put back.\n"
    many("serve", "--until-idle", *other)
    states = [job["state"] for job in many("why", "e0", "--json", *other).json["modules"]]
    assert states == ["committed"]
    told = many("dlq", "import", "dead.jsonl", "--json", *other).json
    assert (told["imported"], told["documents"], told["files"]) == (5, 0, 0)


def test_an_event_of_the_same_id_is_not_written_over(many: Ion, tmp_path: Path) -> None:
    many("dlq", "export", "dead.jsonl", "--files", "--type", "start")
    other = ("--state-dir", str(tmp_path / "other"))
    many("event", "publish", "start", "--event-id", "e3", "--data", "other=1", *other)
    result = many("dlq", "import", "dead.jsonl", *other)
    assert (result.code, "another event of that id is stored here" in result.err) == (1, True)
    assert many("dlq", "list", "--json", *other).json == []


def test_a_file_that_is_gone_is_named_and_the_rest_exported(many: Ion) -> None:
    for blob in (many.home / ".ion/blobs").rglob("note.txt"):
        blob.unlink()
    result = many("dlq", "export", "dead.jsonl", "--files")
    assert (result.code, "lacks 5 files" in result.err) == (1, True)
    assert len((many.home / "dead.jsonl").read_text().splitlines()) == 1 + 5 + 6


def test_what_is_there_is_not_written_over(many: Ion) -> None:
    (many.home / "dead.jsonl").write_text("mine")
    result = many("dlq", "export", "dead.jsonl")
    assert (result.code, "is there already" in result.err) == (2, True)
    assert (many.home / "dead.jsonl").read_text() == "mine"
    assert sorted(path.name for path in many.home.iterdir() if "jsonl" in path.name) == ["dead.jsonl"]


GOOD = {
    "id": "1", "module": "up", "reason": "r", "attempts": 1, "logTail": [], "headers": {}, "body": "x",
    "diedAt": "2026-01-02T03:04:05+00:00",
}  # fmt: skip
HEADER = '{"format":"ion-dead-letters","version":1}'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "dead.jsonl:1: "),
        (["[]"], "dead.jsonl:1: is no export of dead letters"),
        (['{"format":"ion-dead-letters","version":2}'], "reads version 1. Update it"),
        ([HEADER, "{"], "dead.jsonl:2:1:2: is not JSON"),
        ([HEADER, '{"letter":{"body":"x"}}'], "dead.jsonl:2: lacks 'diedAt'"),
        ([HEADER, json.dumps({"letter": {**GOOD, "attempts": 0}})], "attempts: must be a number from 1"),
        ([HEADER, json.dumps({"letter": {**GOOD, "diedAt": "2026-01-02"}})], "must have an offset"),
        ([HEADER, json.dumps({"letter": {**GOOD, "headers": {"a": 1}}})], "must be texts"),
        ([HEADER, json.dumps({"letter": {**GOOD, "module": 1}})], "must be texts"),
        ([HEADER, json.dumps({"letter": {**GOOD, "bodyBase64": "eA=="}})], "either body or bodyBase64"),
        ([HEADER, json.dumps({"letter": {**GOOD, "module": "nope"}})], "no module called 'nope'"),
        ([HEADER, '{"else":1}'], "does not know"),
        ([HEADER, '{"letter":5}'], "dead.jsonl:2: "),
        ([HEADER, '{"file":{"name":"a","key":"../a","size":1,"sha256":"' + "0" * 64 + '"}}'], "'..'"),
        ([HEADER, '{"file":{"name":"a","key":"a","size":1,"sha256":"../../x"}}'], "64 hexadecimal digits"),
        ([HEADER, '{"file":{"name":"a","key":"a","size":1,"sha256":"' + "0" * 64 + '"}}'], "Copy the directory along"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_by_line_and_nothing_is_imported(
    many: Ion, lines: list[str], said: str
) -> None:
    (many.home / "dead.jsonl").write_text("\n".join([*lines, json.dumps({"letter": GOOD})] if lines[1:] else lines))
    result = many("dlq", "import", "dead.jsonl")
    assert result.code == 2
    assert said in result.err
    assert len(_listed(many)) == 6


def test_a_body_that_is_no_text_travels_too(ion: Ion) -> None:
    async def die(app: App) -> None:
        await app.intake()
        broker = await app.broker()
        await broker.publish("start", b"\xff\x00", headers={})
        async with broker.subscribe("up", prefetch=1) as deliveries:
            await (await anext(aiter(deliveries))).dead_letter("why", log_tail=["last"])

    async def body(app: App) -> list[bytes]:
        return [it.body for it in await (await app.broker()).dead_letters("up")]

    ion.in_app(die)
    ion("dlq", "export", "dead.jsonl")
    ion("dlq", "purge", "--all", "--yes")
    ion("dlq", "import", "dead.jsonl")
    assert ion.in_app(body) == [b"\xff\x00"]


async def test_a_redrive_that_is_cancelled_ends_with_what_is_under_way() -> None:
    from ion_core.contracts.messaging import RetryPolicy
    from ion_core.embedded.memory.broker import MemoryBroker
    from ion_core.embedded.memory.documents import MemoryDocumentStore
    from ion_core.letters import Redrive

    class Slow(MemoryBroker):
        async def redrive(self, queue: str, ids: Any) -> int:
            begun.set()
            await go.wait()
            return await super().redrive(queue, ids)

    begun, go = asyncio.Event(), asyncio.Event()
    broker = Slow()
    await broker.declare("q", topics=["t"], retry=RetryPolicy())
    for n in range(3):
        await broker.publish("t", b"%d" % n, headers={})
    async with broker.subscribe("q", prefetch=3) as deliveries:
        for _ in range(3):
            await (await anext(aiter(deliveries))).dead_letter("r")
    found = Redrive(broker, MemoryDocumentStore(), await broker.dead_letters("q"))
    task = asyncio.create_task(found.run())
    await begun.wait()
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (found.moved, found.left, found.unsure, broker.counts("q").ready) == (3, 0, 0, 3)
