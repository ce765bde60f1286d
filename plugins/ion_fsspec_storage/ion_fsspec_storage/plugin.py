"""What ion-fsspec-storage registers with Ion: a blob store and a document store, both called ``fsspec``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl
from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings

if TYPE_CHECKING:
    from ion_core.contracts.storage import BlobStore, DocumentStore

_PLAIN = "ion_fsspec_storage.plain"


def _open_blobs(settings: FsspecBlobsSettings) -> AbstractAsyncContextManager[BlobStore]:
    from ion_fsspec_storage.blobs import open_fsspec_blobs

    return open_fsspec_blobs(settings)


def _open_documents(settings: FsspecDocumentsSettings) -> AbstractAsyncContextManager[DocumentStore]:
    from ion_fsspec_storage.documents import open_fsspec_documents

    return open_fsspec_documents(settings)


@hookimpl
def ion_blob_stores() -> Iterable[Provider[BlobStore]]:
    return [
        Provider(name="fsspec", settings=FsspecBlobsSettings, open=_open_blobs, contract="1.3", plain=f"{_PLAIN}:blobs")
    ]


@hookimpl
def ion_document_stores() -> Iterable[Provider[DocumentStore]]:
    return [
        Provider(
            name="fsspec",
            settings=FsspecDocumentsSettings,
            open=_open_documents,
            contract="1.4",
            plain=f"{_PLAIN}:documents",
        )
    ]
