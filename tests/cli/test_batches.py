"""``event publish --batch``: every line is checked before the first is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ion_core.errors import TransientError
from ion_core.intake import Intake
from tests.cli.conftest import ion as ion
from tests.cli.running import Ion


def write(ion: Ion, *lines: Any, name: str = "events.jsonl") -> str:
    texts = [it if isinstance(it, str) else json.dumps(it) for it in lines]
    (ion.home / name).write_text("".join(f"{it}\n" for it in texts))
    return name


def waiting(ion: Ion) -> list[dict[str, Any]]:
    return [it["event"] for it in ion("event", "peek", "--module", "up", "--json", "--limit", "1000").json]


def test_each_line_is_an_event(ion: Ion) -> None:
    (ion.home / "sub").mkdir()
    (ion.home / "sub/a.txt").write_text("a")
    name = write(
        ion,
        {"files": ["a.txt"], "eventId": "1"},
        "",
        {"type": "start", "files": {"b.txt": "../note.txt"}, "data": {"n": 1, "x": "y"}, "correlationId": "flow"},
        {"data": [{"key": "k", "value": "1"}, {"key": "k", "value": "2"}], "parentEventId": "p"},
        name="sub/events.jsonl",
    )
    done = ion("event", "publish", "start", "--batch", name, "--json")
    assert done.code == 0, done.err
    assert done.json == waiting(ion)
    first, second, third = done.json
    assert first["context"]["eventId"] == "1"
    assert (second["context"]["correlationId"], second["data"]) == (
        "flow",
        [{"key": "n", "value": "1"}, {"key": "x", "value": "y"}],
    )
    assert third["data"] == [{"key": "k", "value": "1"}, {"key": "k", "value": "2"}]
    assert third["context"]["parentEventId"] == "p"
    [meta] = ion("trace", "flow", "flow", "--json").json
    assert meta["files"] == ["b.txt"]
    assert ion("event", "publish", "start", "--batch", name, "--from-line", "3").out == "2 events published.\n"
    assert len(waiting(ion)) == 5


def test_nothing_is_published_where_any_line_is_wrong_and_every_one_is_named(ion: Ion) -> None:
    name = write(
        ion,
        {"type": "start", "eventId": "same"},
        "{no json",
        ["no", "object"],
        {"data": {}},
        {"type": "start", "kind": "x", "eventId": 7},
        {"type": "start", "data": {"k": [1]}},
        {"type": "start", "data": "text"},
        {"type": "start", "files": ["gone.txt"]},
        {"type": "start", "files": ["note.txt", "./note.txt"]},
        {"type": "start", "files": "note.txt"},
    )
    refused = ion("event", "publish", "--batch", name)
    assert refused.code == 2
    lines = [line.removeprefix("ion-core: ").removeprefix("Error: ") for line in refused.err.splitlines()]
    assert [line.split(":")[1] for line in lines[:-1]] == ["2", "3", "4", "5", "5", "6", "7", "8", "9", "10"]
    assert all(line.startswith("events.jsonl:") for line in lines[:-1])
    assert lines[-1].startswith("Nothing was published.")
    assert "'gone.txt': no such file" in lines[7]
    assert waiting(ion) == []

    name = write(
        ion,
        {"type": "start", "eventId": "same"},
        {"type": "stat"},
        {"type": "start", "eventId": "same", "data": {"k": "v"}},
    )
    refused = ion("event", "publish", "--batch", name)
    assert refused.code == 2
    assert "events.jsonl:2: no module takes events of type 'stat'. Did you mean 'start'?" in refused.err
    assert "events.jsonl:3: eventId: 'same' is that of another event, events.jsonl:1" in refused.err
    assert waiting(ion) == []


def test_an_error_on_the_way_says_how_far_it_came_and_how_to_go_on(ion: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write(ion, *({"type": "start", "eventId": str(n)} for n in range(5)))
    publish = Intake.publish

    async def away(self: Intake, event_type: str, **given: Any) -> Any:
        if given["event_id"] == "3":
            raise TransientError("messaging: away.")
        return await publish(self, event_type, **given)

    monkeypatch.setattr(Intake, "publish", away)
    stopped = ion("event", "publish", "--batch", name)
    assert stopped.code == 69
    assert "events.jsonl:4: messaging: away. Published: 3 of 5 events, those before this line." in stopped.err
    assert "Go on with --from-line 4." in stopped.err
    monkeypatch.undo()
    monkeypatch.chdir(ion.home)
    assert ion("event", "publish", "--batch", name, "--from-line", "4").out == "2 events published.\n"
    assert [it["context"]["eventId"] for it in waiting(ion)] == ["0", "1", "2", "3", "4"]


def test_standard_input_is_a_batch_too(ion: Ion, tmp_path: Path) -> None:
    import subprocess

    from tests.cli.running import command

    done = subprocess.run(
        command("event", "publish", "--batch", "-"),
        cwd=ion.home,
        input='{"type": "start"}\n{"type": "start", "files": ["note.txt"]}',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "2 events published.\n"), done.stderr


def test_what_belongs_into_the_lines_is_refused_on_the_command_line(ion: Ion) -> None:
    assert "are in its lines" in ion("event", "publish", "start", "--batch", "x", "--data", "a=b").err
    assert "cannot be read: No such file" in ion("event", "publish", "--batch", "x.jsonl").err
    assert "there is no event in it" in ion("event", "publish", "--batch", write(ion, "")).err
    assert "which type?" in ion("event", "publish").err


def test_one_that_is_interrupted_says_where_to_go_on(ion: Ion) -> None:
    import signal
    import subprocess
    import time

    from tests.cli.running import command

    name = write(ion, '{"type": "start"}\n' * 20_000)
    process = subprocess.Popen(
        command("event", "publish", "--batch", name), cwd=ion.home, stderr=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if ion("event", "peek", "--module", "up").out:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    [ready] = [it["queue"]["ready"] for it in ion("module", "list", "--json").json if it["name"] == "up"]
    assert f"Published: {ready:,} of 20,000 events. Go on with --from-line {ready + 1}." in said
