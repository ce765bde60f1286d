from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from ion_core.contracts.executor import Executor
from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl
from ion_sample.settings import SampleSettings


def open_sample(settings: SampleSettings) -> AbstractAsyncContextManager[Executor]:
    from ion_sample import executor

    return executor.open_sample(settings)


@hookimpl
def ion_executors() -> Iterable[Provider[Executor]]:
    return [Provider(name="sample", settings=SampleSettings, open=open_sample, contract="@CONTRACT@")]
