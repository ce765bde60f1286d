"""Dead letters as work on a real RabbitMQ, by real ``ion-core`` processes: told, grouped, exported, redriven."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import ION, Pipeline, environment

EVENTS = 8
CONFIG = """
messaging: {{provider: rabbitmq, url: "${{env:AMQP_URL}}", prefix: letters}}
modules:
  work:
    command: [sh, work.sh]
    source: modules
    subscribes: [work.asked]
    retries: 0
    concurrency: 4
    env: {{RUNS: "{runs}"}}
"""
WORK = """
test -e "$RUNS.mended" || exit 3
echo done > "$HANDLER_BASE_DIR/out/data/done.txt"
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"work": WORK})


@pytest.mark.timeout(300)
def test_what_died_is_told_grouped_exported_and_redriven(
    pipeline: Pipeline, own_server: RabbitServer, tmp_path: Path
) -> None:
    own_server.start()

    def ion(*arguments: str, code: int = 0) -> Any:
        return pipeline.ion(*arguments, code=code, AMQP_URL=own_server.url)

    def dead() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(ion("dlq", "list", "--json").stdout)
        return sorted(found, key=lambda it: str(it["eventId"]))

    def waiting() -> int:
        [module] = json.loads(ion("module", "list", "--json").stdout)
        return int(module["queue"]["ready"])

    lines = "\n".join(json.dumps({"eventId": f"event-{n}"}) for n in range(EVENTS))
    (tmp_path / "events.jsonl").write_text(lines)
    ion("event", "publish", "work.asked", "--batch", str(tmp_path / "events.jsonl"))
    ion("serve", "--until-idle", code=1)

    [told] = json.loads(ion("why", "event-3", "--json").stdout)["modules"]
    assert (told["state"], told["rule"], told["reason"]) == (
        "dead letter", "module-failed", "exit code 3 (attempt 1, the last)",
    )  # fmt: skip
    [group] = json.loads(ion("dlq", "list", "--by", "reason", "--json").stdout)
    assert (group["count"], group["reason"]) == (EVENTS, "exit code 3")

    before = dead()
    ion("dlq", "export", str(tmp_path / "dead.jsonl"))
    ion("dlq", "purge", "--yes", *(it["id"] for it in before[:5]))
    told = json.loads(ion("dlq", "import", str(tmp_path / "dead.jsonl"), "--json").stdout)
    assert (told["imported"], told["there"]) == (5, EVENTS - 5)
    told = json.loads(ion("dlq", "import", str(tmp_path / "dead.jsonl"), "--json").stdout)
    assert (told["imported"], told["there"]) == (0, EVENTS)
    same = ("module", "eventId", "correlationId", "type", "reason", "attempts", "diedAt")
    assert [[it[key] for key in same] for it in dead()] == [[it[key] for key in same] for it in before]

    (pipeline.home / "runs.mended").touch()
    slowly = [*ION, "dlq", "redrive", "--all", "--rate", "6/min"]
    with subprocess.Popen(slowly, cwd=pipeline.home, env=environment(AMQP_URL=own_server.url)) as redriving:
        while not waiting():  # whoever lists dead letters holds them, and the redrive would not see them
            assert redriving.poll() is None
        redriving.send_signal(signal.SIGTERM)
        assert redriving.wait(60) == 128 + signal.SIGTERM
    left = len(dead())
    assert 0 < left < EVENTS
    done = ion("dlq", "redrive", "--all", "--rate", "50/s")
    assert done.stderr.endswith(f"{left} put back.\n")
    ion("serve", "--until-idle")
    assert len(pipeline.documents("commit")) == EVENTS
    assert dead() == []
