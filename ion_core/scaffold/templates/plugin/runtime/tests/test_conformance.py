from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.provider import Provider
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.testing import ContainerRuntimeConformance, ProviderConformance
from ion_sample import plugin
from ion_sample.runtime import open_sample
from ion_sample.settings import SampleSettings


class TestSample(ContainerRuntimeConformance):
    @pytest.fixture
    async def runtime(self, tmp_path: Path) -> AsyncIterator[ContainerRuntime]:
        self.settings = SampleSettings(path=tmp_path / "sample")
        async with open_sample(self.settings) as runtime:
            yield runtime

    def reopen(self) -> AbstractAsyncContextManager[ContainerRuntime]:
        return open_sample(self.settings)

    @asynccontextmanager
    async def outage(self, runtime: ContainerRuntime) -> AsyncIterator[None]:
        """A file in the place of the directory."""
        away = self.settings.path.rename(self.settings.path.with_name("away"))
        self.settings.path.touch()
        yield
        self.settings.path.unlink()
        away.rename(self.settings.path)


class TestProvider(ProviderConformance):
    not_set_up = None  # settings say all that it takes

    @pytest.fixture
    def provider(self) -> Provider[ContainerRuntime]:
        (provider,) = plugin.ion_container_runtimes()
        return provider

    def section(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": tmp_path / "sample"}

    def unusable(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": "/dev/null/sample"}
