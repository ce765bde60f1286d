"""On RabbitMQ as on any broker: a module that comes later, has another name then, and goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import SPLIT, Pipeline

CONFIG = """
messaging: {{{{provider: rabbitmq, url: "${{{{env:AMQP_URL}}}}", prefix: {prefix}}}}}
modules:
  split:
    command: [sh, split.sh]
    source: modules
    subscribes: [whole.received]
    publishes: [part.made]
    env: {{{{RUNS: "{{runs}}"}}}}
"""
LATE = """
  # added later
  late:
    command: [sh, -c, ": done"]
    subscribes: [part.made]
"""


@pytest.mark.timeout(480)
def test_it_is_given_events_of_the_past_takes_them_along_and_leaves_no_queue(
    tmp_path: Path, rabbit: RabbitServer
) -> None:
    environ = {"AMQP_URL": rabbit.url}
    pipeline = Pipeline.make(tmp_path / "home", config=CONFIG.format(prefix="changing"), modules={"split": SPLIT})

    def ion(*arguments: str) -> str:
        return pipeline.ion(*arguments, **environ).stdout

    def queues() -> dict[str, dict[str, Any]]:
        return {it["name"]: it["queue"] for it in json.loads(ion("module", "list", "--json"))}

    (tmp_path / "note.txt").write_text("a note")
    for _ in range(2):
        ion("event", "publish", "whole.received", "--file", str(tmp_path / "note.txt"))
    ion("serve", "--until-idle")
    config = pipeline.home / "ion.yaml"
    config.write_text(config.read_text() + LATE)
    republish = ("event", "republish", "--type", "part.made", "--since", "1h", "--yes", "--json")
    assert json.loads(ion(*republish))["modules"] == [{"module": "late", "events": 6, "committed": 0, "waiting": 0}]
    assert queues()["late"]["ready"] == 6
    renamed = json.loads(ion("module", "rename", "late", "later", "--yes", "--json"))
    assert renamed["moved"] == 6
    assert queues().keys() == {"split", "later"}
    ion("serve", "--until-idle")
    assert sorted(it["context"]["name"] for it in pipeline.documents("commit")) == ["later"] * 6 + ["split"] * 2
    assert json.loads(ion(*republish))["modules"] == [{"module": "later", "events": 0, "committed": 6, "waiting": 0}]
    assert json.loads(ion("module", "remove", "later", "--yes", "--json"))["dropped"] is True
    assert queues().keys() == {"split"}
    assert "# added later" in config.read_text()
