"""The contracts hold on every backend that can be had here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from faulty_proxy import FaultyProxy, faulty_proxy_to
from fsspec.implementations.local import LocalFileSystem
from object_stores import ObjectStore, s3_at

from ion_core.contracts.provider import Provider
from ion_core.contracts.storage import BlobStore, DocumentStore
from ion_core.testing.blobs import BlobStoreConformance
from ion_core.testing.documents import DocumentStoreConformance
from ion_core.testing.provider import ProviderConformance
from ion_fsspec_storage import plugin
from ion_fsspec_storage.blobs import FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.documents import open_fsspec_documents
from ion_fsspec_storage.drivers import Driver
from ion_fsspec_storage.remote import RemoteObjects
from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings


class _Blobs(BlobStoreConformance):
    patience: ClassVar[float] = 30.0
    settings: FsspecBlobsSettings

    def reopen(self) -> AbstractAsyncContextManager[BlobStore]:
        return open_fsspec_blobs(self.settings)

    async def corrupt(self, blobs: FsspecBlobs, key: str) -> None:
        objects, name = blobs._objects, f"blobs/{key}"
        data = bytearray(await asyncio.to_thread(objects.read, name))
        data[0] ^= 1
        await asyncio.to_thread(objects.write, name, bytes(data))


class _Documents(DocumentStoreConformance):
    patience: ClassVar[float] = 30.0
    settings: FsspecDocumentsSettings

    def reopen(self) -> AbstractAsyncContextManager[DocumentStore]:
        return open_fsspec_documents(self.settings)


class _Away:
    """The directory of a local store is moved away meanwhile."""

    settings: Any

    @asynccontextmanager
    async def outage(self, store: object) -> AsyncIterator[None]:
        root = Path(self.settings.url.removeprefix("file://"))
        away = root.with_name("away")
        os.rename(root, away)  # noqa: PTH104
        yield
        os.rename(away, root)  # noqa: PTH104


class _Refused:
    """Every connection to the object store is refused meanwhile."""

    proxy: FaultyProxy

    @asynccontextmanager
    async def outage(self, store: Any) -> AsyncIterator[None]:
        store._objects._delay = 0.0
        store._objects._filesystem.retries = 1
        self.proxy.refusing = True
        yield
        self.proxy.refusing = False


class TestBlobsInFiles(_Away, _Blobs):
    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        self.settings = FsspecBlobsSettings(url=f"file://{tmp_path}/store")
        async with open_fsspec_blobs(self.settings) as blobs:
            yield blobs


class TestBlobsOnAnyFilesystem(_Blobs):
    """Of one that is no object store, and of which nothing is known."""

    outage = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BlobStore]:
        with ThreadPoolExecutor(8) as pool:
            yield FsspecBlobs(RemoteObjects(LocalFileSystem(), self.root, "any://host", Driver()), pool, sign_for=60)

    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        self.root = str(tmp_path / "store")
        async with self.opened() as blobs:
            yield blobs

    def reopen(self) -> AbstractAsyncContextManager[BlobStore]:
        return self.opened()


class TestDocumentsInFiles(_Away, _Documents):
    @pytest.fixture
    async def documents(self, tmp_path: Path) -> AsyncIterator[DocumentStore]:
        self.settings = FsspecDocumentsSettings(url=f"file://{tmp_path}/store")
        async with open_fsspec_documents(self.settings) as documents:
            yield documents


class TestBlobsInMemory(_Blobs):
    outage = None

    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        self.settings = FsspecBlobsSettings(url=f"memory://{tmp_path}")
        async with open_fsspec_blobs(self.settings) as blobs:
            yield blobs


class TestDocumentsInMemory(_Documents):
    outage = None

    @pytest.fixture
    async def documents(self, tmp_path: Path) -> AsyncIterator[DocumentStore]:
        self.settings = FsspecDocumentsSettings(url=f"memory://{tmp_path}")
        async with open_fsspec_documents(self.settings) as documents:
            yield documents


class TestBlobsInS3(_Refused, _Blobs):
    @pytest.fixture
    async def blobs(self, s3: ObjectStore) -> AsyncIterator[BlobStore]:
        async with faulty_proxy_to(s3.port) as self.proxy:
            self.settings = FsspecBlobsSettings(**s3_at(self.proxy.port).settings())
            async with open_fsspec_blobs(self.settings) as blobs:
                yield blobs


class TestDocumentsInS3(_Refused, _Documents):
    @pytest.fixture
    async def documents(self, s3: ObjectStore) -> AsyncIterator[DocumentStore]:
        async with faulty_proxy_to(s3.port) as self.proxy:
            self.settings = FsspecDocumentsSettings(**s3_at(self.proxy.port).settings())
            async with open_fsspec_documents(self.settings) as documents:
                yield documents


class TestBlobsInAzure(_Blobs):
    outage = None

    @pytest.fixture
    async def blobs(self, azure: ObjectStore) -> AsyncIterator[BlobStore]:
        self.settings = FsspecBlobsSettings(**azure.settings())
        async with open_fsspec_blobs(self.settings) as blobs:
            yield blobs


class TestDocumentsInAzure(_Documents):
    outage = None

    @pytest.fixture
    async def documents(self, azure: ObjectStore) -> AsyncIterator[DocumentStore]:
        self.settings = FsspecDocumentsSettings(**azure.settings())
        async with open_fsspec_documents(self.settings) as documents:
            yield documents


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # gcsfs does
class TestBlobsInGoogle(_Blobs):
    """Its emulator has no conditional writes: test_opening.py sees it refused for documents."""

    outage = None

    @pytest.fixture
    async def blobs(self, google: ObjectStore) -> AsyncIterator[BlobStore]:
        self.settings = FsspecBlobsSettings(**google.settings())
        async with open_fsspec_blobs(self.settings) as blobs:
            yield blobs


class _Provider(ProviderConformance):
    def section(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": f"file://{tmp_path}/store"}

    def unusable(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": "file:///dev/null/store"}


class TestBlobsProvider(_Provider):
    @pytest.fixture
    def provider(self) -> Provider[BlobStore]:
        return next(iter(plugin.ion_blob_stores()))


class TestDocumentsProvider(_Provider):
    @pytest.fixture
    def provider(self) -> Provider[DocumentStore]:
        return next(iter(plugin.ion_document_stores()))
