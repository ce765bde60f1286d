from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from ion_core.contracts.provider import Provider
from ion_core.contracts.storage import BlobStore
from ion_core.hookspecs import hookimpl
from ion_sample.settings import SampleSettings


def open_sample(settings: SampleSettings) -> AbstractAsyncContextManager[BlobStore]:
    from ion_sample import blobs

    return blobs.open_sample(settings)


@hookimpl
def ion_blob_stores() -> Iterable[Provider[BlobStore]]:
    return [Provider(name="sample", settings=SampleSettings, open=open_sample, contract="@CONTRACT@")]
