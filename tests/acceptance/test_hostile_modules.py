"""Modules that do what they should not: their job ends in a dead letter that says why, everybody else's goes on."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.acceptance.pipeline import CONFIG, JOIN, SPLIT, Pipeline

# what the module does -> what the reason must say
HOSTILE = {
    "a link to a file outside": ("ln -s /etc/passwd out/data/innocent.txt", ["out/data/innocent.txt", "symbolic link"]),
    "a directory that is a link": ("rm -r out/data && ln -s /etc out/data", ["out/data", "symbolic link"]),
    "a FIFO for a file": ("mkfifo out/data/pipe", ["out/data/pipe", "FIFO"]),
    "a FIFO for an event": ("mkfifo out/events/0.json", ["out/events/0.json", "FIFO"]),
    "a FIFO for insights": ("rm out/insights.json; mkfifo out/insights.json", ["out/insights.json", "FIFO"]),
    "a name with a newline": ('touch "out/data/a\nb"', ["out/data", "control character"]),
    "an undeclared type": (
        'echo \'[{"key":"eventType","value":"secret.leaked"}]\' > out/events/0.json',
        ["out/events/0.json", "secret.leaked", "part.made", "modules.split.publishes"],
    ),
    "a file from elsewhere": (
        'echo \'[{"key":"eventType","value":"part.made"},{"key":"files","value":"../in/data/input0.txt"}]\' '
        "> out/events/0.json",
        ["out/events/0.json", "../in/data/input0.txt"],
    ),
    "a file that is not there": (
        'echo \'[{"key":"eventType","value":"part.made"},{"key":"files","value":"ghost.txt"}]\' > out/events/0.json',
        ["out/events/0.json", "ghost.txt"],
    ),
    "no JSON": ("echo '[{\"key\": NaN}]' > out/events/0.json", ["out/events/0.json", "NaN"]),
    "an event too large": ("head -c 300000 /dev/zero > out/events/0.json", ["out/events/0.json", "262,144"]),
    "a program that is not there": ("exec /no/such/program", ["127"]),
}


def test_hostile_output_is_refused_by_name_and_nothing_else_is_touched(tmp_path: Path) -> None:
    # The input of an event says which of these it does; without one it is handled as ever.
    acts = "".join(f"'{what}') {doing}; exit;;\n" for what, (doing, _) in HOSTILE.items())
    script = f'cd "$HANDLER_BASE_DIR"\ncase "$(cat in/data/*)" in\n{acts}esac\n{SPLIT}'
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": script, "join": JOIN})
    lines = []
    for n, what in enumerate(HOSTILE):
        (pipeline.home / f"{n}.txt").write_text(what)
        lines.append({"type": "whole.received", "files": {"input0.txt": f"{n}.txt"}, "eventId": f"hostile-{n}"})
    (pipeline.home / "batch.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pipeline.ion("event", "publish", "--batch", "batch.jsonl")
    pipeline.publish()

    pipeline.ion("serve", "--until-idle", code=1)

    reasons = {letter["eventId"]: (letter["module"], letter["reason"]) for letter in pipeline.dead_letters()}
    assert sorted(reasons) == sorted(f"hostile-{n}" for n in range(len(HOSTILE)))
    for n, (what, (_, said)) in enumerate(HOSTILE.items()):
        module, reason = reasons[f"hostile-{n}"]
        assert module == "split"
        assert [text for text in said if text not in reason] == [], f"{what}: {reason}"
    assert [commit["context"]["name"] for commit in pipeline.documents("commit")] == ["split", "join", "join", "join"]


def test_a_hang_that_ignores_sigterm_is_killed_and_counted(tmp_path: Path) -> None:
    config = CONFIG.replace("retries: 1", "retries: 0\n    timeout: 300ms")
    hang = "trap '' TERM\nwhile :; do read -r line < /dev/tty || tail -f /dev/null; done"
    pipeline = Pipeline.make(tmp_path / "pipeline", config=config, modules={"split": hang, "join": JOIN})
    pipeline.publish()

    pipeline.ion("serve", "--until-idle", code=1)

    [letter] = pipeline.dead_letters()
    assert "timed out after 0.3 s" in letter["reason"]
    assert list((pipeline.state / "run").iterdir()) == []


def test_endless_output_is_capped_and_said_to_be(tmp_path: Path) -> None:
    flood = "head -c 20000000 /dev/zero | tr '\\0' 'x' | fold -w 100\necho the end"
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": flood, "join": JOIN})
    pipeline.publish()

    pipeline.ion("serve", "--until-idle")

    [log] = pipeline.documents("modulelogs")
    assert len(log["logs"]) < 2_000_000
    assert "the end" in log["logs"]
    assert "bytes of output are not kept" in log["logs"]


def test_a_failing_module_is_retried_then_kept_aside_with_its_last_words(tmp_path: Path) -> None:
    failing = 'echo split >> "$RUNS"\necho "cannot find the whole" >&2\nexit 3'
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": failing, "join": JOIN})
    pipeline.publish()

    pipeline.ion("serve", "--until-idle", code=1)

    [letter] = pipeline.dead_letters()
    assert (letter["attempts"], pipeline.runs()["split"]) == (2, 2)
    assert "exit code 3" in letter["reason"]
    assert "cannot find the whole" in pipeline.ion("dlq", "show", letter["id"]).stdout
    assert [log["attempt"] for log in pipeline.documents("modulelogs")] == [1, 2]

    (pipeline.home / "modules" / "split.sh").write_text(SPLIT)
    pipeline.ion("dlq", "redrive", letter["id"])
    pipeline.ion("serve", "--until-idle")
    assert pipeline.dead_letters() == []
    assert len(pipeline.documents("commit")) == 4


def test_an_unreadable_message_does_not_stop_the_next_one(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    pipeline.publish()
    _spoil_first_message(pipeline)
    pipeline.publish()

    pipeline.ion("serve", "--until-idle", code=1)

    [letter] = pipeline.dead_letters()
    assert "unreadable event" in letter["reason"]
    assert len(pipeline.documents("commit")) == 4


def _spoil_first_message(pipeline: Pipeline) -> None:
    database = sqlite3.connect(pipeline.state / "broker.sqlite")
    database.execute("UPDATE messages SET body = ?", (b'{"context": {"eventId": 7}, "type": "WHOLE"',))
    database.commit()
    database.close()
