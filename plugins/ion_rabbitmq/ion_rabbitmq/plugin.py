"""What ion-rabbitmq registers with Ion: no message broker yet."""

from collections.abc import Iterable

from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl


@hookimpl
def ion_message_brokers() -> Iterable[Provider[MessageBroker]]:
    return ()
