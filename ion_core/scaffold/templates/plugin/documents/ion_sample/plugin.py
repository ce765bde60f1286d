from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from ion_core.contracts.provider import Provider
from ion_core.contracts.storage import DocumentStore
from ion_core.hookspecs import hookimpl
from ion_sample.settings import SampleSettings


def open_sample(settings: SampleSettings) -> AbstractAsyncContextManager[DocumentStore]:
    from ion_sample import documents

    return documents.open_sample(settings)


@hookimpl
def ion_document_stores() -> Iterable[Provider[DocumentStore]]:
    return [Provider(name="sample", settings=SampleSettings, open=open_sample, contract="@CONTRACT@")]
