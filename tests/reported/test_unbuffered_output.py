"""What a module in Python printed before it was stopped is in its log."""

from __future__ import annotations

import json
from pathlib import Path

from ion_core.dispatcher.slots import container_spec
from ion_core.handler import Workspace
from ion_core.modules import Module
from tests.acceptance.pipeline import Pipeline

KILLED = """
import os, signal
print("so far so good")
os.kill(os.getpid(), signal.SIGKILL)  # as at its timeout, and at once
"""
CONFIG = """
modules:
  killed:
    command: [python3, killed.py]
    source: modules
    subscribes: [in]
    retries: 0
"""


def test_the_log_of_a_python_module_that_was_killed_has_what_it_printed(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "home", config=CONFIG, modules={})
    (pipeline.home / "modules" / "killed.py").write_text(KILLED)
    event_id = json.loads(pipeline.ion("event", "publish", "in", "--json").stdout)["context"]["eventId"]
    pipeline.ion("serve", "--until-idle", code=1)
    assert "so far so good" in pipeline.ion("logs", event_id).stdout


def test_every_container_is_told_not_to_buffer_unless_its_module_says_otherwise(tmp_path: Path) -> None:
    def env(**given: str) -> dict[str, str]:
        module = Module(name="m", command=("python3",), env=given)
        return dict(container_spec(module, "c", Workspace(tmp_path), calls={}, labels={}).env)

    assert env(A="b") == {"A": "b", "PYTHONUNBUFFERED": "1"}
    assert env(PYTHONUNBUFFERED="") == {"PYTHONUNBUFFERED": ""}
