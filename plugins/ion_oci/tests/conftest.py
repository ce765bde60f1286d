"""The runtime of this plugin, for tests of what is its own; what every runtime of containers does: tests/containers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ion_oci.runtime import OciRuntime
from ion_podman.testing import PodmanService
from tests.support.containers import OciUnderTest, under_test


@pytest.fixture
def tested(images: PodmanService, monkeypatch: pytest.MonkeyPatch) -> OciUnderTest:
    found = under_test("oci", images, monkeypatch)
    assert isinstance(found, OciUnderTest)
    return found


@pytest_asyncio.fixture
async def runtime(tested: OciUnderTest) -> AsyncIterator[OciRuntime]:
    async with tested.open() as runtime:
        assert isinstance(runtime, OciRuntime)
        yield runtime
