"""``dev run``: a whole pipeline for one event, with nothing but this machine."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

from ion_core.state import State
from tests.cli.running import Ion, command

ROOT = Path(__file__).resolve().parents[2]

ELSEWHERE = """\
messaging: {provider: rabbitmq-of-nobody, url: "${env:NOT_SET_ANYWHERE}"}
runtimes:
  default: {provider: kubernetes-of-nobody, token: "${file:/no/such/file}"}
storage:
  blobs: {provider: object-store-of-nobody}
  documents: {provider: sqlite, path: 7}
services: {gateway-of-nobody: {listen: x}}
plugins: [ion-plugin-of-nobody]
state: /proc/nothing/here
"""


def test_a_pipeline_runs_here_whatever_its_configuration_names(ion: Ion) -> None:
    ion.home.joinpath("mended").touch()
    config = ion.home / "ion.yaml"
    config.write_text(ELSEWHERE + config.read_text())
    environ = {"ION_MESSAGING__URL": "amqp://nobody", "ION_STATE": "/proc/nothing/either"}
    assert ion.process("check", environ=environ).code == 78

    done = ion.process("dev", "run", "start", "--file", "note.txt", "--data", "who=me", environ=environ)
    assert done.code == 0, done.err
    drawn = [line.strip(" │├└─").split(" in ")[0] for line in done.out.splitlines()]
    assert "2 events · 3 jobs: 3 committed" in drawn[0]
    assert [drawn[n] for n in (2, 5, 6)] == ["up: committed", "fails: committed", "takes: committed"]
    assert "\x1b" not in done.out + done.err
    assert not (ion.home / ".ion").exists()

    [target] = (it for it in (ion.home / "dev").iterdir() if not it.name.startswith("."))
    [up] = (target / "up").iterdir()
    assert (up / "data" / "note.txt").read_text() == "remember\n"
    assert json.loads((up / "insights.json").read_text()) == [{"key": "lines", "value": "3"}]
    [made] = json.loads((up / "events.json").read_text())
    assert (made["type"], made["files"], made["data"]) == ("made", ["note.txt"], [{"key": "n", "value": "1"}])
    assert "worked hard" in (up / "log.txt").read_text()
    assert sorted(it.name for it in target.iterdir()) == ["fails", "takes", "up"]
    assert f"Results: {target.relative_to(ion.home)}" in done.err


def test_a_module_that_fails_is_shown_with_what_it_printed(ion: Ion) -> None:
    done = ion.process("dev", "run", "start", "--file", "note.txt", "--json", "--into", "elsewhere/tries")
    assert done.code == 1
    jobs = {job["module"]: job for job in done.json["jobs"]}
    assert (jobs["fails"]["state"], jobs["fails"]["attempts"]) == ("dead-lettered", 2)
    assert jobs["fails"]["reason"].startswith("exit code 3")
    assert [(file["name"], file["size"]) for file in jobs["up"]["files"]] == [("note.txt", 9)]
    assert jobs["up"]["insights"] == [{"key": "lines", "value": "3"}]
    assert "oh no" in Path(ion.home, jobs["fails"]["directory"], "log.txt").read_text()

    shown = ion.process("dev", "run", "start", "--file", "note.txt", "--into", "elsewhere/tries")
    assert shown.code == 1
    assert "fails: dead-lettered" in shown.out
    assert "fails dead-lettered: exit code 3 (attempt 2, the last)\n  oh no\n" in shown.err


def test_what_an_interrupted_run_left_is_not_run_by_the_next(ion: Ion) -> None:
    ion.home.joinpath("mended").touch()
    crash = {"ION_TESTING": "1", "ION_CRASH_AT": "S9"}
    assert ion.process("dev", "run", "start", "--file", "note.txt", environ=crash).code == 137
    done = ion.process("dev", "run", "start", "--file", "note.txt", "--json")
    assert done.code == 0
    assert len(done.json["jobs"]) == 3
    state = ("--state-dir", "dev/.ion")
    flows = {flow["correlationId"] for flow in ion("trace", "list", "--json", *state).json}
    [interrupted] = flows - {done.json["correlationId"]}
    kinds = [it["context"]["documentType"] for it in ion("trace", "flow", interrupted, "--json", *state).json]
    assert sorted(kinds) == ["commit", "eventMeta"], "its commit was not published, and started nothing"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["strat"], 2, "no module takes events of type 'strat'. Did you mean 'start'?"),
        (["Not A Type"], 2, "must be lower-case letters"),
        (["start", "--file", "absent.txt"], 2, "'absent.txt': no such file"),
        (["start", "--data", "novalue"], 2, "must be KEY=VALUE"),
        (["start", "--config", "absent.yaml"], 78, "absent.yaml: no such file"),
        (
            ["start", "--runtime", "podmn"],
            78,
            '--runtime: runtimes.default.provider: no container runtime called "podmn"',
        ),
    ],
)
def test_misuse_says_what_is_wrong(ion: Ion, arguments: list[str], code: int, said: str) -> None:
    result = ion("dev", "run", *arguments)
    assert result.code == code
    assert said in result.err
    assert result.out == ""


def test_two_at_a_time_need_two_directories(ion: Ion) -> None:
    with State.open(ion.home / "dev" / ".ion").locked():
        result = ion("dev", "run", "start", "--file", "note.txt")
        assert (result.code, result.out) == (75, "")
        assert "dev: another `dev run` works there. Give this one its own directory with --into." in result.err
        assert ion("dev", "run", "start", "--file", "note.txt", "--into", "other").code == 1


def test_an_image_without_a_command_needs_another_runtime(ion: Ion) -> None:
    with (ion.home / "ion.yaml").open("a") as config:
        config.write("  pictures: {image: localhost/pictures, subscribes: [start]}\n")
    result = ion("dev", "run", "start")
    assert result.code == 78
    assert "ion.yaml:17:3: modules.pictures: command is required" in result.err
    assert "Give --runtime podman" in result.err


def test_limits_that_the_runtime_here_does_not_have_are_left_out_and_said(ion: Ion) -> None:
    config = ion.home / "ion.yaml"
    limits = "    resources: {pids: 20}\n    network: backend\n"
    config.write_text(config.read_text().replace("    subscribes: [start]\n", "    subscribes: [start]\n" + limits))
    ion.home.joinpath("mended").touch()
    done = ion.process("dev", "run", "start", "--file", "note.txt")
    assert done.code == 0, done.err
    assert "modules.up.resources.pids: is left out" in done.err
    assert "modules.up.network: is left out" in done.err


def test_a_runtime_of_the_right_provider_keeps_its_settings(ion: Ion) -> None:
    config = ion.home / "ion.yaml"
    config.write_text("runtimes: {default: {provider: process, isolation: nonsense}}\n" + config.read_text())
    result = ion("dev", "run", "start")
    assert result.code == 78
    assert "runtimes.default.isolation" in result.err


def test_on_a_terminal_the_flow_is_drawn_while_it_runs(ion: Ion) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("dev", "run", "start", "--file", "note.txt"),
        cwd=ion.home,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = ""
    try:
        while more := os.read(ours, 4096):
            text += more.decode()
    except OSError:  # what a terminal says once nobody has its other side open
        pass
    os.close(ours)
    assert process.wait(60) == 1
    first, *later = text.split("\x1b[J")
    assert later, "it was drawn, and drawn again"
    assert "up: " in first
    assert "up: committed" in later[-1]
    assert "fails: dead-lettered" in later[-1]
    assert "Results: dev/" in later[-1]


def test_the_faces_example_runs_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "faces"
    shutil.copytree(ROOT / "examples" / "faces", home, ignore=shutil.ignore_patterns(".*"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
    done = subprocess.run(
        command("dev", "run", "photo.received", "--file", "photos/astronaut.jpg", "--json"),
        cwd=home,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [job["module"] for job in result["jobs"]] == ["detect", "blur", "catalogue"]
    [face] = (home / result["directory"] / "blur").glob("*/data/face-001.jpg")
    assert face.read_bytes().startswith(b"\xff\xd8")
