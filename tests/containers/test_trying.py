"""Steps run one by one and looked at, in containers: `dev run`, `module run`, `replay` and `debug`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ion_podman.testing import BUSYBOX
from tests.support.containers import RuntimeUnderTest

ION = str(Path(sys.executable).with_name("ion-core"))
PATIENCE = 60.0
CONFIG = """
messaging: {{provider: of-nobody}}
runtimes: {{default: {runtime}}}
modules:
  copies:
    image: {image}
    command: ["sh", "-c", "cat /ion/in/data/* > /ion/out/data/copy; echo copied"]
    subscribes: [asked]
  fails:
    image: {image}
    command: ["sh", "-c", "echo half > /ion/out/data/half; exit 3"]
    subscribes: [asked]
    retries: 0
    env: {{COLOUR: canary-blue}}
"""


@pytest.fixture
def home(tested: RuntimeUnderTest, tmp_path: Path) -> Path:
    (tmp_path / "ion.yaml").write_text(CONFIG.format(runtime=tested.written(), image=BUSYBOX), encoding="utf-8")
    (tmp_path / "note").write_text("remember\n", encoding="utf-8")
    return tmp_path


def ion(home: Path, *arguments: str, code: int = 0, commands: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [ION, *arguments],
        cwd=home,
        env={name: value for name, value in os.environ.items() if not name.startswith("ION_")},
        input=commands,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def dev_run(home: Path, tested: RuntimeUnderTest) -> Any:
    there = ("--runtime", tested.provider)
    return json.loads(ion(home, "dev", "run", "asked", "--file", "note", *there, "--json", code=1).stdout)


def test_from_a_run_to_a_shell_in_the_container(home: Path, tested: RuntimeUnderTest) -> None:
    run = json.loads(
        ion(home, "dev", "run", "asked", "--file", "note", "--runtime", tested.provider, "--json", code=1).stdout
    )
    states = {job["module"]: job["state"] for job in run["jobs"]}
    assert states == {"copies": "committed", "fails": "dead-lettered"}
    event, there = run["eventId"], ("--dev", "--runtime", tested.provider)

    [same] = json.loads(ion(home, "replay", event, *there, "--json").stdout)
    assert (same["same"], same["committed"]["image"]) == (True, same["replayed"]["image"])
    again = ion(home, "module", "run", "copies", "--type", "asked", "--file", "note")
    assert again.stderr == "copied\n"

    looked = "cat /ion/out/data/half /ion/in/data/note; echo $COLOUR; touch /ion/in/x || echo read-only; id -u; exit 9"
    shell = ion(home, "debug", event, *there, "--shell", code=9, commands=looked)
    assert shell.stdout == "half\nremember\ncanary-blue\nread-only\n65534\n"
    assert "as attempt 1 left it (exit code 3)" in shell.stderr

    fresh = ion(home, "debug", event, *there, "--module", "copies", "--shell", commands="ls /ion/in/data /ion/out/data")
    assert fresh.stdout == "/ion/in/data:\nnote\n\n/ion/out/data:\n"
    assert tested.containers() == []


def test_an_image_to_replay_with_is_the_one_that_runs(home: Path, tested: RuntimeUnderTest) -> None:
    run = json.loads(
        ion(home, "dev", "run", "asked", "--file", "note", "--runtime", tested.provider, "--json", code=1).stdout
    )
    failed = ion(
        home, "replay", run["eventId"], "--dev", "--runtime", tested.provider, "--image", "localhost/no/such:1", code=1
    )
    assert "localhost/no/such:1" in failed.stderr
