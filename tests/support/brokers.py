"""Fixtures of tests that need a real broker: one for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ion_rabbitmq.testing import RabbitServer


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.start()
        yield server
    finally:
        server.remove()
