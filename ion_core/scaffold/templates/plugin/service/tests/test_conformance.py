import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.provider import Provider
from ion_core.contracts.service import Service
from ion_core.testing import ProviderConformance, ServiceConformance
from ion_sample import plugin
from ion_sample.service import Sample
from ion_sample.settings import SampleSettings

RARELY = SampleSettings(every=timedelta(hours=1), type="photo.received")


class TestSample(ServiceConformance):
    unservable = None  # nothing keeps a clock from going on
    send = None  # nobody sends it anything
    cause_look = None  # it looks at nothing

    @pytest.fixture
    async def service(self) -> Service:
        self.intervals = asyncio.Semaphore(0)

        async def sleep(seconds: float) -> None:
            await self.intervals.acquire()

        return Sample(RARELY, sleep=sleep)

    async def cause_event(self, service: Sample) -> str:
        self.intervals.release()  # one more has passed
        return RARELY.type

    def reloads(self) -> Sequence[tuple[SampleSettings, Collection[str]]]:
        return [(RARELY, []), (RARELY.model_copy(update={"every": timedelta(hours=2)}), [])]


class TestProvider(ProviderConformance):
    unusable = None  # whatever interval there is can be waited for
    not_set_up = None  # settings say all that it takes

    @pytest.fixture
    def provider(self) -> Provider[Service]:
        (provider,) = plugin.ion_services()
        return provider

    def section(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"every": "1h", "type": "tick.due"}
