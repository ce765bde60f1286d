"""The contract holds against a real RabbitMQ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.provider import Provider
from ion_core.testing.messaging import MessageBrokerConformance
from ion_core.testing.models import CommitModel, MessageBrokerModel
from ion_core.testing.process import Opening
from ion_core.testing.provider import ProviderConformance
from ion_rabbitmq import plugin
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.delivery import RabbitDelivery
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.testing import RabbitServer


class OnRabbit(MessageBrokerConformance):
    patience: ClassVar[float] = 30.0
    queue_type: ClassVar[str] = "quorum"

    @pytest.fixture
    async def broker(self, rabbit: RabbitServer) -> AsyncIterator[MessageBroker]:
        self.settings = RabbitSettings(url=SecretStr(rabbit.url), queue_type=self.queue_type)
        async with open_rabbit_broker(self.settings) as broker:
            yield broker

    def reopen(self) -> AbstractAsyncContextManager[MessageBroker]:
        return open_rabbit_broker(self.settings)

    def opening(self) -> Opening:
        return open_rabbit_broker, self.settings

    async def take_back(self, broker: MessageBroker, delivery: RabbitDelivery) -> None:
        """A wrong ack makes the server close the channel, as its acknowledgement timeout does."""
        channel = delivery._subscription._channel
        assert channel is not None
        await (await channel.get_underlay_channel()).basic_ack(99_999)

    @asynccontextmanager
    async def outage(self, broker: RabbitBroker) -> AsyncIterator[None]:
        """All connections are cut, and nobody answers at the place they were to."""
        there, nowhere = broker.settings, self.settings.model_copy(update={"url": SecretStr("amqp://127.0.0.1:1/")})
        links = (broker.consuming, broker._publishing, broker.looking)
        for link in links:
            link._settings = nowhere
            if link._connection is not None:
                await link._connection.close()
        try:
            yield
        finally:
            for link in links:
                link._settings = there


class TestQuorumQueues(OnRabbit):
    pass


class TestClassicQueues(OnRabbit):
    queue_type: ClassVar[str] = "classic"


class TestClassicQueuesAndAModel(MessageBrokerModel):
    examples, steps, shortens = 3, 10, False
    patience: ClassVar[float] = 15.0
    queue_type: ClassVar[str] = "classic"

    @pytest.fixture(autouse=True)
    def place(self, rabbit: RabbitServer) -> None:
        self.settings = RabbitSettings(url=SecretStr(rabbit.url), queue_type=self.queue_type)

    def opened(self) -> AbstractAsyncContextManager[RabbitBroker]:
        return open_rabbit_broker(self.settings)


class TestQuorumQueuesAndAModel(TestClassicQueuesAndAModel):
    queue_type: ClassVar[str] = "quorum"
    keeps_places: ClassVar[bool] = False  # what was looked at too often is written anew, behind the others


class TestCommitsOnQuorumQueues(CommitModel):
    examples, steps, shortens = 3, 10, False

    @pytest.fixture(autouse=True)
    def place(self, rabbit: RabbitServer) -> None:
        self.settings = RabbitSettings(url=SecretStr(rabbit.url), queue_type="quorum")

    def broker(self) -> AbstractAsyncContextManager[MessageBroker]:
        return open_rabbit_broker(self.settings)


class TestProvider(ProviderConformance):
    not_set_up = None

    @pytest.fixture
    def provider(self, rabbit: RabbitServer) -> Provider[MessageBroker]:
        self.url = rabbit.url
        return next(iter(plugin.ion_message_brokers()))

    def section(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": self.url}

    def unusable(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": "amqp://guest:sesame@127.0.0.1:1/", "timeout": "3s"}
