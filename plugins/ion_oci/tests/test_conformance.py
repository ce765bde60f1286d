"""The runtime kit against real containers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import ClassVar

import pytest

from ion_core.contracts.runtime import ContainerRuntime
from ion_core.testing import ContainerRuntimeConformance
from ion_oci.runtime import OciRuntime
from ion_podman.testing import BUSYBOX
from tests.support.containers import OciUnderTest


class TestOci(ContainerRuntimeConformance):
    image: ClassVar[str | None] = BUSYBOX
    missing_image: ClassVar[str | None] = "localhost/no/such:image"
    takes_source: ClassVar[bool] = False
    patience: ClassVar[float] = 30.0

    @pytest.fixture(autouse=True)
    def of_these_images(self, tested: OciUnderTest) -> None:
        self.tested = tested

    def reopen(self) -> AbstractAsyncContextManager[ContainerRuntime]:
        return self.tested.open()

    @asynccontextmanager
    async def outage(self, runtime: ContainerRuntime) -> AsyncIterator[None]:
        """conmon was uninstalled."""
        assert isinstance(runtime, OciRuntime)
        whole = runtime._oci
        runtime._oci = replace(whole, tools=replace(whole.tools, conmon="/no/such/conmon"))
        try:
            yield
        finally:
            runtime._oci = whole
