"""The runtime of this plugin, for tests of what is its own; what every runtime of containers does: tests/containers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ion_core.contracts.runtime import ContainerRuntime
from ion_podman.settings import PodmanSettings
from ion_podman.testing import PodmanService
from tests.support.containers import RuntimeUnderTest, under_test


@pytest.fixture
def tested(service: PodmanService, monkeypatch: pytest.MonkeyPatch) -> RuntimeUnderTest:
    return under_test("podman", service, monkeypatch)


@pytest.fixture
def settings(tested: RuntimeUnderTest) -> PodmanSettings:
    found = tested.settings()
    assert isinstance(found, PodmanSettings)
    return found


@pytest_asyncio.fixture
async def runtime(tested: RuntimeUnderTest) -> AsyncIterator[ContainerRuntime]:
    async with tested.open() as runtime:
        yield runtime
