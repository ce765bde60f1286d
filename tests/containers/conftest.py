"""Each test here is run with every runtime of containers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ion_core.contracts.runtime import ContainerRuntime
from ion_podman.testing import PodmanService
from tests.support.containers import RUNTIMES, RuntimeUnderTest, under_test


@pytest.fixture(params=RUNTIMES)
def tested(request: pytest.FixtureRequest, images: PodmanService, monkeypatch: pytest.MonkeyPatch) -> RuntimeUnderTest:
    return under_test(request.param, images, monkeypatch)


@pytest_asyncio.fixture
async def runtime(tested: RuntimeUnderTest) -> AsyncIterator[ContainerRuntime]:
    async with tested.open() as runtime:
        yield runtime
