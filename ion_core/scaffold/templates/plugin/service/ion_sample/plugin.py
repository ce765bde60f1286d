from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from ion_core.contracts.provider import Provider
from ion_core.contracts.service import Service
from ion_core.hookspecs import hookimpl
from ion_sample.settings import SampleSettings


def open_sample(settings: SampleSettings) -> AbstractAsyncContextManager[Service]:
    from ion_sample import service

    return service.open_sample(settings)


@hookimpl
def ion_services() -> Iterable[Provider[Service]]:
    return [Provider(name="sample", settings=SampleSettings, open=open_sample, contract="@CONTRACT@")]
