"""One real RabbitMQ for each test process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_rabbitmq.testing import RabbitServer

sys.path.insert(0, str(Path(__file__).parent))  # for proxy.py


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """Shared by all tests of this process: leave it running, with no policies and no alarms."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq") / "node")
    try:
        server.start()
        yield server
    finally:
        server.remove()
