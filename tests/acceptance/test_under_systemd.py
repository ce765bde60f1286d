"""``serve`` under what systemd gives it: a real process that tells a real socket; and the unit that is shipped."""

from __future__ import annotations

import configparser
import re
import signal
import socket
import subprocess
from pathlib import Path

from ion_core.cli.root import COMMANDS
from tests.acceptance.pipeline import ION, TIMEOUT, Pipeline, environment

ROOT = Path(__file__).parents[2]


def test_serve_tells_its_supervisor_that_it_is_ready_lives_and_stops(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(TIMEOUT)
        environ = environment(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000")
        with subprocess.Popen([*ION, "serve"], cwd=pipeline.home, env=environ, stderr=subprocess.DEVNULL) as serving:
            while said.count("WATCHDOG=1") < 3:
                said += heard.recv(4096).decode().split("\n")
            serving.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in said:
                said += heard.recv(4096).decode().split("\n")
            assert serving.wait(TIMEOUT) == 128 + signal.SIGTERM
    assert said[:2] == ["READY=1", "STATUS=ready"]


def test_the_unit_says_what_serve_does() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((ROOT / "deploy/ion-core.service").read_text(encoding="utf-8"))
    service = unit["Service"]
    program, command, *options = service["ExecStart"].split()
    assert (Path(program).name, command in COMMANDS) == ("ion-core", True)
    assert service["Type"] == "notify"
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    codes = {int(code) for row in re.findall(r"^\| ([0-9, ]+) \|", page, re.MULTILINE) for code in row.split(", ")}
    for key in ("RestartPreventExitStatus", "SuccessExitStatus"):
        assert {int(code) for code in service[key].split()} <= codes
    help_text = subprocess.run([*ION, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(option in help_text for option in options if option.startswith("--"))
