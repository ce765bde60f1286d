"""The gateway of a real `serve` while its RabbitMQ is stopped: 503, when to come again, and then one event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_rabbitmq.testing import RabbitServer
from plugins.ion_gateway.tests.test_gateway_serve import serving

PIPELINE = """
messaging: {{provider: rabbitmq, url: "{url}", timeout: 3s}}
modules:
  count: {{command: ["true"], source: ., subscribes: [photo.received]}}
services:
  gateway: {{listen: "127.0.0.1:0", auth: none}}
"""


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path / "node")
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.timeout(600)  # a server is started twice
def test_while_the_broker_is_away_it_is_503_and_once_it_is_back_202(tmp_path: Path, rabbit: RabbitServer) -> None:
    directory = tmp_path / "pipeline"
    directory.mkdir()
    (directory / "ion.yaml").write_text(PIPELINE.format(url=rabbit.url))
    with serving(directory) as it:

        def sent(key: str) -> dict[str, object]:
            what = ["-H", f"Idempotency-Key: {key}", "--json", '{"a": "b"}', f"{it.url}/events/photo.received"]
            return it.curl("-D", "headers", *what)

        assert it.over(str(sent("one")["eventId"]))["outcome"] == "done"
        rabbit.stop()
        refused = sent("two")
        assert refused["status"] == 503, refused
        assert "\nretry-after: 5" in (directory / "headers").read_text().lower()
        assert it.curl(f"{it.url}/events/no-such-id")["status"] == 404, "what needs no broker is answered"
        rabbit.start()
        taken: dict[str, object] = {}

        def is_taken() -> bool:
            taken.update(sent("two"))
            assert taken["status"] in (202, 503), taken
            return taken["status"] == 202

        it.until(is_taken, within=180)
        found = it.over(str(taken["eventId"]))
        assert (found["outcome"], found["jobs"]) == ("done", {"committed": 1})
