"""What ion-rabbitmq registers with Ion."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import click

from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl
from ion_rabbitmq.settings import RabbitSettings

if TYPE_CHECKING:
    from ion_core.contracts.messaging import MessageBroker


def _open(settings: RabbitSettings) -> AbstractAsyncContextManager[MessageBroker]:
    from ion_rabbitmq.broker import open_rabbit_broker

    return open_rabbit_broker(settings)


@hookimpl
def ion_message_brokers() -> Iterable[Provider[MessageBroker]]:
    return [Provider(name="rabbitmq", settings=RabbitSettings, open=_open, contract="1.4")]


@hookimpl
def ion_commands() -> Iterable[click.Command]:
    from ion_rabbitmq.commands import rabbitmq

    return [rabbitmq]
