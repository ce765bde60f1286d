"""One console beside several workers: it shows what all of them do, and goes on when one of them dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from plugins.ion_console.tests.consoles import Served, serving

PIPELINE = """
modules:
  slow:
    command: [sh, -c, "echo begun; until test -e DIRECTORY/go; do sleep 0.05; done"]
    source: .
    subscribes: [asked]
    concurrency: 2
    warm: 2
services:
  console: {listen: "127.0.0.1:0", auth: none}
drain_timeout: 1s
"""


def pid_of(served: Served, worker: int) -> int:
    log = (served.directory / "serve.log").read_text()
    return int(re.findall(rf"worker started worker={worker} pid=(\d+)", log)[-1])


def down(served: Served) -> list[str]:
    """The workers for which it is not ready: on a busy machine it may be for its event loop, too."""
    problems = json.loads(served.curl("/readyz")[1])["problems"]
    return [problem["where"] for problem in problems if problem["where"].startswith("worker")]


def test_one_console_shows_what_all_workers_do(tmp_path: Path) -> None:
    (tmp_path / "ion.yaml").write_text(PIPELINE.replace("DIRECTORY", str(tmp_path)))
    with serving(tmp_path, "--workers", "2") as served:
        served.until(lambda: 'ion_slots_warm{module="slow"} 2.0' in served.curl("/metrics")[1])
        for event_id in ("e1", "e2"):
            served.ion("event", "publish", "asked", "--event-id", event_id)
        served.until(lambda: len(served.get("/api/running")) == 2)
        assert {it["eventId"] for it in served.get("/api/running")} == {"e1", "e2"}
        assert down(served) == []
        log = (tmp_path / "serve.log").read_text()
        assert log.count("the console listens") == 1
        assert set(re.findall(r"job started .*worker=(\d)", log)) == {"1", "2"}, "each has its share of two"

        os.kill(pid_of(served, 1), signal.SIGKILL)
        served.until(lambda: "not ready: worker 1" in (tmp_path / "serve.log").read_text())
        served.until(lambda: not down(served))
        served.until(lambda: len(served.get("/api/running")) == 2)

        with subprocess.Popen(
            ["curl", "-sN", served.url + "/api/changes"], stdout=subprocess.PIPE, text=True
        ) as changes:
            assert changes.stdout is not None
            said = ""
            while ": hello" not in said:
                said += changes.stdout.readline()
            (tmp_path / "go").touch()
            while said.count('"kind": "finished"') < 2:
                said += changes.stdout.readline()
            changes.kill()
        assert {"e1", "e2"} <= set(re.findall(r'"eventId": "(e\d)"', said))
