"""What ion-fsspec-storage registers with Ion: no blob store and no document store yet."""

from collections.abc import Iterable

from ion_core.contracts.provider import Provider
from ion_core.contracts.storage import BlobStore, DocumentStore
from ion_core.hookspecs import hookimpl


@hookimpl
def ion_blob_stores() -> Iterable[Provider[BlobStore]]:
    return ()


@hookimpl
def ion_document_stores() -> Iterable[Provider[DocumentStore]]:
    return ()
