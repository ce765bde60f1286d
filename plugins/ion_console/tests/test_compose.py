"""``deploy/compose.yaml`` without a compose: its parts fit each other, and what runs in its container runs here.

The command of the image, the configuration that the file's comment gives, the variables that it is given and what says
that it is well, before a real RabbitMQ.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ion_core.testing.serve import ENVIRONMENT
from ion_rabbitmq.testing import RabbitServer, free_port
from plugins.ion_console.tests.consoles import LOOK, MEND

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "deploy/compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = YAML(typ="safe").load(TEXT)["services"]
DISPATCHER = SERVICES["dispatcher"]
GIVEN = {"ION_AMQP_PASSWORD": "letters0", "ION_LOOK": LOOK, "ION_MEND": MEND}
MODULES = """
modules:
  count: {command: ["true"], source: ., subscribes: [photo.received]}
"""


def configuration() -> str:
    """What the comment says that the configuration says."""
    lines = re.findall(r"^#   ((?:messaging|services): .*)$", TEXT, re.MULTILINE)
    assert len(lines) == 2
    return MODULES + "\n".join(lines) + "\n"


def filled_in(text: str) -> str:
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda it: GIVEN[it[1]], text)


def image_command() -> list[str]:
    [found] = re.findall(r"^CMD (\[.*\])$", (ROOT / "deploy/Containerfile").read_text(encoding="utf-8"), re.MULTILINE)
    command: list[str] = json.loads(found)
    return command


def test_its_parts_fit_each_other() -> None:
    whole = YAML(typ="safe").load(TEXT)
    named = {it.partition(":")[0] for service in SERVICES.values() for it in service["volumes"] if it[0] not in "./"}
    assert named == set(whole["volumes"])
    assert set(DISPATCHER["depends_on"]) < set(SERVICES)
    assert re.search(r"build -f deploy/Containerfile -t (\S+) ", TEXT)[1] == DISPATCHER["image"]  # type: ignore[index]
    asked = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert asked == set(re.findall(r"(\w+)=…", TEXT)), "what must be set is in the command that it gives"
    assert asked == set(GIVEN)
    used = set(re.findall(r"\$\{env:(\w+)\}", configuration()))
    assert used == set(DISPATCHER["environment"])
    mounted = {it.split(":")[1] for it in DISPATCHER["volumes"]}
    assert {str(Path(image_command()[3]).parent), image_command()[5]} == mounted
    plugins = re.search(r'^ARG PLUGINS="(.*)"$', (ROOT / "deploy/Containerfile").read_text(), re.MULTILINE)
    assert plugins is not None
    assert {"./plugins/ion_console", "./plugins/ion_opentelemetry", "./plugins/ion_rabbitmq"} <= {*plugins[1].split()}
    [port] = DISPATCHER["ports"]
    assert port.startswith("127.0.0.1:"), "nobody else reaches what is plain HTTP"
    assert f":{port.rpartition(':')[2]}" in configuration()


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path / "node")
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.timeout(300)  # a server is started
def test_what_runs_in_the_container_is_well_and_says_so(tmp_path: Path, rabbit: RabbitServer) -> None:
    port = free_port()
    inside = DISPATCHER["ports"][0].rpartition(":")[2]
    config = tmp_path / "ion.yaml"
    config.write_text(configuration().replace(f"0.0.0.0:{inside}", f"0.0.0.0:{port}"))
    environment = ENVIRONMENT | {name: filled_in(text) for name, text in DISPATCHER["environment"].items()}
    assert environment["ION_AMQP_URL"] == "amqp://ion:letters0@rabbitmq:5672/"
    environment["ION_AMQP_URL"] = rabbit.url
    program, command, _, _, option, _ = image_command()
    arguments = [str(Path(sys.executable).with_name(program)), command, "--config", str(config), option, str(tmp_path)]
    checked = DISPATCHER["healthcheck"]["test"]
    assert checked[:2] == ["CMD", "python3"]
    is_well = [sys.executable, *(it.replace(f":{inside}/", f":{port}/") for it in checked[2:])]
    log = tmp_path / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(arguments, env=environment, stderr=said, cwd=tmp_path, start_new_session=True) as process,
    ):
        try:
            assert subprocess.run(is_well, check=False, capture_output=True).returncode != 0, "it does not serve yet"
            until = time.monotonic() + 60
            while subprocess.run(is_well, check=False, capture_output=True).returncode:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
            url = f"http://127.0.0.1:{port}/api/queues"
            asking = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"]
            bearer = ["-H", f"Authorization: Bearer {LOOK}"]
            answers = [
                subprocess.run([*asking, *how, url], check=True, capture_output=True, text=True).stdout
                for how in (bearer, [])
            ]
            assert answers == ["200", "401"]
        finally:
            process.terminate()
            process.wait(60)
    assert "canary" not in log.read_text()
