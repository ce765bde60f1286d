"""One Podman service, with one image, for all tests of a worker."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ion_core.contracts.runtime import ContainerRuntime
from ion_podman.runtime import open_podman_runtime
from ion_podman.settings import PodmanSettings
from ion_podman.testing import PodmanService, podman_service


@pytest.fixture(scope="session")
def service() -> Iterator[PodmanService]:
    with (
        tempfile.TemporaryDirectory(prefix="ion-podman-") as directory,
        podman_service(Path(directory) / "podman") as service,
    ):
        service.build_busybox()
        yield service


@pytest.fixture
def settings(service: PodmanService) -> PodmanSettings:
    return PodmanSettings.model_validate({"url": service.url})


@pytest_asyncio.fixture
async def runtime(settings: PodmanSettings) -> AsyncIterator[ContainerRuntime]:
    async with open_podman_runtime(settings) as runtime:
        yield runtime
