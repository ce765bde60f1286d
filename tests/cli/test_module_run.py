"""``module run``: one step, and what it would commit; nothing is."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ion_core.app import App
from tests.cli.running import Ion, command

MODULES = """\
  hangs:
    command: [sh, -c, "echo waiting; exec sleep 600"]
    source: .
    subscribes: [probe]
    timeout: 200ms
  waits:
    command: [sh, -c, "echo waiting; exec sleep 600"]
    source: .
    subscribes: [probe]
  refused:
    command: [sh, refused.sh]
    source: .
    subscribes: [probe]
"""
REFUSED = """\
ln -s /etc/passwd "$HANDLER_BASE_DIR/out/data/link"
echo '[{"key":"eventType","value":"other"},{"key":"files","value":"gone"}]' > "$HANDLER_BASE_DIR/out/events/e.json"
"""


@pytest.fixture
def pipeline(ion: Ion) -> Iterator[Ion]:
    with (ion.home / "ion.yaml").open("a") as config:
        config.write(MODULES)
    (ion.home / "refused.sh").write_text(REFUSED)
    yield ion
    assert list((ion.home / ".ion").glob("rehearsals/*")) == []


def stored(ion: Ion) -> list[Any]:
    async def read(app: App) -> list[Any]:
        found: list[Any] = [document async for document in (await app.documents()).find()]
        for name in app.config.modules:
            await (await app.intake()).declare()
            found.append(await (await app.broker()).stats(name))
        found += [key async for key in (await app.blobs()).list("")]
        return found

    return ion.in_app(read)


def test_a_step_for_a_made_event_shows_what_it_would_commit(pipeline: Ion) -> None:
    done = pipeline.process("module", "run", "up", "--type", "start", "--file", "note.txt", "--data", "who=me")
    assert done.code == 0, done.err
    assert done.err == "worked hard\n"
    first, *rest = done.out.splitlines()
    assert first.startswith("up would commit 1 file, 1 insight, 1 event after 0.")
    assert rest[1].split()[:2] == ["note.txt", "9"]
    assert rest[3].split() == ["lines", "3"]
    assert rest[4].startswith("event made  ")
    assert rest[5:] == ["  file note.txt", "  n=1"]
    assert not (pipeline.home / ".ion" / "documents.sqlite").exists()
    assert not (pipeline.home / ".ion" / "broker.sqlite").exists()


def test_a_step_for_a_stored_event_commits_and_publishes_nothing(pipeline: Ion) -> None:
    published = pipeline("event", "publish", "start", "--file", "note.txt", "--json").json
    event_id = published["context"]["eventId"]
    before = stored(pipeline)
    done = pipeline.process("module", "run", "up", "--event", event_id[:8], "--json")
    assert done.code == 0, done.err
    assert stored(pipeline) == before
    result = done.json
    assert (result["module"], result["eventId"], result["type"]) == ("up", event_id, "start")
    assert (result["succeeded"], result["reason"], result["logs"]) == (True, "", ["worked hard"])
    [file] = result["files"]
    assert (file["name"], file["size"], len(file["sha256"])) == ("note.txt", 9, 64)
    assert result["insights"] == [{"key": "lines", "value": "3"}]
    [event] = result["events"]
    assert (event["type"], event["files"]) == ("made", ["note.txt"])
    assert event["context"]["parentEventId"] == event_id

    assert pipeline.process("serve", "--until-idle").code == 1
    documents = pipeline("trace", "flow", published["context"]["correlationId"], "--json").json
    [committed] = [it for it in documents if it.get("type") == "made"]
    assert committed["id"] == event["context"]["eventId"], "it would have had the id that it has"


def test_a_failing_module_ends_with_1_and_its_output_is_seen(pipeline: Ion) -> None:
    event = pipeline("event", "publish", "made", "--json").json["context"]["eventId"]
    done = pipeline.process("module", "run", "fails", "--event", event)
    assert (done.code, done.err) == (1, "oh no\n")
    assert done.out.startswith("fails would commit nothing after 0.")
    assert done.out.endswith(": exit code 3\n")


def test_a_module_that_hangs_is_stopped_at_its_timeout(pipeline: Ion) -> None:
    result = pipeline("module", "run", "hangs", "--type", "probe", "--json")
    assert result.code == 1
    assert result.json["reason"] == "timed out after 0.2 s (modules.hangs.timeout)"
    assert result.json["logs"] == ["waiting"]


def test_everything_that_is_wrong_with_the_output_is_said(pipeline: Ion) -> None:
    result = pipeline("module", "run", "refused", "--type", "probe", "--json")
    assert result.code == 1
    assert "out/data/link: is a symbolic link" in result.json["reason"]
    assert "'other'" in result.json["reason"]
    assert result.json["files"] == result.json["events"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["upp", "--type", "start"], 2, "no module called 'upp'. Did you mean 'up'?"),
        (["up"], 2, "for which event?"),
        (["up", "--type", "start", "--event", "e"], 2, "for which event?"),
        (["up", "--event", "e", "--data", "a=b"], 2, "--file and --data make a new event"),
        (["up", "--event", "absent"], 1, "no event 'absent'"),
        (["up", "--type", "made"], 2, "module up takes no events of type 'made', only start."),
        (["up", "--type", "start", "--file", "absent"], 2, "'absent': no such file"),
        (["up", "--type", "start", "--runtime", "podmn"], 78, 'no container runtime called "podmn"'),
        (["up", "--event", "e", "--dev"], 2, "there is no dev/.ion"),
    ],
)
def test_misuse_says_what_is_wrong(pipeline: Ion, arguments: list[str], code: int, said: str) -> None:
    result = pipeline("module", "run", *arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert result.out == ""


def test_an_event_of_another_type_is_refused(pipeline: Ion) -> None:
    event = pipeline("event", "publish", "made", "--json").json["context"]["eventId"]
    result = pipeline("module", "run", "up", "--event", event)
    assert (result.code, result.out) == (2, "")
    assert "module up takes no events of type 'made'" in result.err


def test_an_event_of_a_dev_run_is_found_there(pipeline: Ion) -> None:
    run = pipeline.process("dev", "run", "start", "--file", "note.txt", "--json").json
    result = pipeline("module", "run", "up", "--dev", "--event", run["eventId"], "--json")
    assert result.code == 0, result.err
    [up] = [job for job in run["jobs"] if job["module"] == "up"]
    assert result.json["files"] == up["files"]
    assert not list((pipeline.home / "dev" / ".ion").glob("rehearsals/*"))


def test_neither_the_broker_nor_its_settings_are_needed(pipeline: Ion) -> None:
    config = pipeline.home / "ion.yaml"
    config.write_text('messaging: {provider: of-nobody, url: "${env:NOT_SET}"}\n' + config.read_text())
    assert pipeline("module", "run", "up", "--type", "start", "--file", "note.txt").code == 0


def test_what_a_killed_one_left_is_swept_by_the_next_and_not_while_it_lives(pipeline: Ion) -> None:
    with running(pipeline, "module", "run", "waits", "--type", "probe") as process:
        [alive] = (pipeline.home / ".ion" / "rehearsals").iterdir()
        assert pipeline("module", "run", "up", "--type", "start", "--file", "note.txt").code == 0
        assert alive.exists()
        process.kill()
        process.wait(60)
    assert alive.exists()
    assert list((pipeline.home / ".ion" / "run").iterdir()) != []
    assert pipeline("module", "run", "up", "--type", "start", "--file", "note.txt").code == 0
    assert not alive.exists()
    assert list((pipeline.home / ".ion" / "run").iterdir()) == []


def test_interrupted_it_leaves_nothing(pipeline: Ion) -> None:
    with running(pipeline, "module", "run", "waits", "--type", "probe") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert list((pipeline.home / ".ion" / "run").iterdir()) == []


class running:
    """The command, once its module has said that it waits."""

    def __init__(self, ion: Ion, *arguments: str) -> None:
        self._process = subprocess.Popen(
            command(*arguments), cwd=ion.home, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        assert self._process.stderr is not None
        assert self._process.stderr.readline() == b"waiting\n"
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=60)
