from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl
from ion_sample.settings import SampleSettings


def open_sample(settings: SampleSettings) -> AbstractAsyncContextManager[MessageBroker]:
    from ion_sample import broker

    return broker.open_sample(settings)


@hookimpl
def ion_message_brokers() -> Iterable[Provider[MessageBroker]]:
    return [Provider(name="sample", settings=SampleSettings, open=open_sample, contract="@CONTRACT@")]
