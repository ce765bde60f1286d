from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from ion_core.contracts.provider import Provider
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.hookspecs import hookimpl
from ion_sample.settings import SampleSettings


def open_sample(settings: SampleSettings) -> AbstractAsyncContextManager[ContainerRuntime]:
    from ion_sample import runtime

    return runtime.open_sample(settings)


@hookimpl
def ion_container_runtimes() -> Iterable[Provider[ContainerRuntime]]:
    return [Provider(name="sample", settings=SampleSettings, open=open_sample, contract="@CONTRACT@")]
