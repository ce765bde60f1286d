"""One real RabbitMQ for each test process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer

sys.path.insert(0, str(Path(__file__).parent))  # for proxy.py and on_rabbit.py

from on_rabbit import RETRY, settings


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """Shared by all tests of this process: leave it running, with no policies and no alarms."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq") / "node")
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def broker(rabbit: RabbitServer, request: pytest.FixtureRequest) -> AsyncIterator[RabbitBroker]:
    prefix = f"t{abs(hash(request.node.name)) % 10**8}"
    async with open_rabbit_broker(settings(rabbit.url, prefix=prefix)) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        yield broker


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RabbitServer]:
    """One that may be broken."""
    server = RabbitServer(tmp_path / "node")
    try:
        yield server
    finally:
        server.remove()
