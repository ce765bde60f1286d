"""The runtime kit against a real Podman service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

import pytest

from ion_core.contracts.runtime import ContainerRuntime
from ion_core.testing import ContainerRuntimeConformance
from ion_podman.runtime import open_podman_runtime
from ion_podman.settings import PodmanSettings
from ion_podman.testing import BUSYBOX, PodmanService


class TestPodman(ContainerRuntimeConformance):
    image: ClassVar[str | None] = BUSYBOX
    missing_image: ClassVar[str | None] = "localhost/no/such:image"
    takes_source: ClassVar[bool] = False
    patience: ClassVar[float] = 30.0

    @pytest.fixture(autouse=True)
    def of_this_service(self, service: PodmanService, settings: PodmanSettings) -> None:
        self.service = service
        self.settings = settings

    def reopen(self) -> AbstractAsyncContextManager[ContainerRuntime]:
        return open_podman_runtime(self.settings)

    @asynccontextmanager
    async def outage(self, runtime: ContainerRuntime) -> AsyncIterator[None]:
        self.service.kill()
        try:
            yield
        finally:
            self.service.start()
