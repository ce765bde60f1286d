import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.provider import Provider
from ion_core.testing import MessageBrokerConformance, ProviderConformance
from ion_core.testing.process import Opening
from ion_sample import plugin
from ion_sample.broker import SampleDelivery, open_sample
from ion_sample.settings import SampleSettings


class TestSample(MessageBrokerConformance):
    patience = 30.0  # each call opens the file

    @pytest.fixture
    async def broker(self, tmp_path: Path) -> AsyncIterator[MessageBroker]:
        self.settings = SampleSettings(path=tmp_path / "sample.sqlite", lease=timedelta(seconds=4))
        async with open_sample(self.settings) as broker:
            yield broker

    def reopen(self) -> AbstractAsyncContextManager[MessageBroker]:
        return open_sample(self.settings)

    def opening(self) -> Opening:
        return open_sample, self.settings

    async def take_back(self, broker: MessageBroker, delivery: SampleDelivery) -> None:
        """As when its lease has run out, or a backend has restarted."""
        with closing(sqlite3.connect(self.settings.path)) as database, database:
            database.execute("UPDATE messages SET token = NULL, held_until = 0 WHERE token = ?", (delivery.token,))

    @asynccontextmanager
    async def outage(self, broker: MessageBroker) -> AsyncIterator[None]:
        """A directory in the place of the file."""
        away = self.settings.path.rename(self.settings.path.with_suffix(".away"))
        self.settings.path.mkdir()
        yield
        self.settings.path.rmdir()
        away.rename(self.settings.path)


class TestProvider(ProviderConformance):
    not_set_up = None  # settings say all that it takes

    @pytest.fixture
    def provider(self) -> Provider[MessageBroker]:
        (provider,) = plugin.ion_message_brokers()
        return provider

    def section(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": tmp_path / "sample.sqlite"}

    def unusable(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": "/dev/null/sample.sqlite"}
