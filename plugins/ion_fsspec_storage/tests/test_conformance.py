"""The contracts hold on every backend that can be had here."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import Mock

import pytest
from faulty_proxy import FaultyProxy, faulty_proxy_to
from fsspec.implementations.local import LocalFileSystem

from ion_core.contracts.provider import Provider
from ion_core.contracts.storage import BlobStore, DocumentStore
from ion_core.testing.blobs import BlobStoreConformance
from ion_core.testing.documents import DocumentStoreConformance
from ion_core.testing.models import CommitModel, DocumentStoreModel, WorkspaceModel
from ion_core.testing.provider import ProviderConformance
from ion_fsspec_storage import plugin
from ion_fsspec_storage.blobs import FsspecBlobs, open_fsspec_blobs
from ion_fsspec_storage.connections import Pooled, Shared
from ion_fsspec_storage.direct import DirectObjects
from ion_fsspec_storage.directories import DirectoryObjects
from ion_fsspec_storage.documents import FsspecDocuments, open_fsspec_documents
from ion_fsspec_storage.drivers import Driver
from ion_fsspec_storage.records import Record
from ion_fsspec_storage.settings import FsspecBlobsSettings, FsspecDocumentsSettings
from tests.support.file_servers import FileServer
from tests.support.object_stores import ObjectStore, azure_at, s3_at

S = TypeVar("S", FsspecBlobsSettings, FsspecDocumentsSettings)


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

    async def litter(self, blobs: FsspecBlobs, prefix: str) -> None:
        """Folder markers, as consoles make them, and names that Ion writes otherwise."""
        objects: Any = blobs._objects

        def leave() -> None:
            with objects._filesystems.one() as filesystem:
                for name in ("blobs/", f"blobs/{prefix}/", f"blobs/{prefix}/folder/", f"blobs/{prefix}/=zz", "long/x/"):
                    filesystem.pipe_file(objects._path(name), b"")
                filesystem.pipe_file(objects._path("long/x/content"), b"")
                filesystem.pipe_file(objects._path("long/x/key"), b"some/other/")

        await asyncio.to_thread(leave)

    @asynccontextmanager
    async def withhold(self, blobs: FsspecBlobs, key: str) -> AsyncIterator[None]:
        """The driver says so of this one name, as where the rights of one object are others."""
        filesystems = blobs._objects._filesystems  # type: ignore[attr-defined]
        with filesystems.one() as filesystem:
            patient = filesystem if isinstance(filesystems, Shared) else type(filesystem)

        def denying(name: str) -> Any:
            real = getattr(patient, name)

            def call(*given: Any, **known: Any) -> Any:
                if any(str(path).endswith(f"/blobs/{key}") for path in given):
                    raise PermissionError(f"{key}: Access Denied")
                return real(*given, **known)

            return call

        with pytest.MonkeyPatch.context() as patched:
            for name in ("cat_file", "get_file"):
                patched.setattr(patient, name, denying(name))
            yield


class _FolderMarkers:
    """Where a folder is a directory, and not an object of that name."""

    settings: Any

    def path(self, url: str) -> Path:
        return Path(url.removeprefix("file://"))

    async def litter(self, blobs: Any, prefix: str) -> None:
        place = self.path(self.settings.url)
        for name in (f"blobs/{prefix}/folder", "blobs/empty/er", "long/x"):
            (place / name).mkdir(parents=True)
        for name in (f"blobs/{prefix}/=zz", f"blobs/{prefix}/with space", "long/x/content"):
            (place / name).write_bytes(b"x")


class _Documents(DocumentStoreConformance):
    patience: ClassVar[float] = 30.0
    settings: FsspecDocumentsSettings

    def reopen(self) -> AbstractAsyncContextManager[DocumentStore]:
        return open_fsspec_documents(self.settings)

    async def damage(self, documents: DocumentStore, kind: str, id: str) -> None:
        assert isinstance(documents, FsspecDocuments)
        await asyncio.to_thread(documents._objects.write, Record.name_of(kind, id), b"{")

    @asynccontextmanager
    async def reads(self, documents: DocumentStore) -> AsyncIterator[Callable[[], int]]:
        """Objects; names are listed."""
        assert isinstance(documents, FsspecDocuments)
        objects = documents._objects
        read = Mock(wraps=objects.read)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(objects, "read", read)
            yield lambda: read.call_count


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
    driver: ClassVar[str] = "fsspec"

    def hurry(self, objects: Any) -> None:
        objects._filesystems.filesystem.retries = 1

    @asynccontextmanager
    async def outage(self, store: Any) -> AsyncIterator[None]:
        store._objects._retries.delay = 0.0
        self.hurry(store._objects)
        self.proxy.refusing = True
        yield
        self.proxy.refusing = False


class _Stopped:
    """The server is stopped meanwhile, with all its connections."""

    server: FileServer

    @asynccontextmanager
    async def outage(self, store: Any) -> AsyncIterator[None]:
        store._objects._retries.delay = 0.0
        await asyncio.to_thread(self.server.stop)
        yield
        await asyncio.to_thread(self.server.start)


class TestBlobsInFiles(_FolderMarkers, _Away, _Blobs):
    @asynccontextmanager
    async def withhold(self, blobs: FsspecBlobs, key: str) -> AsyncIterator[None]:
        """As for want of permission, which root cannot lack."""

        def denied(path: Path, *arguments: Any, **known: Any) -> Any:
            if str(path).endswith(f"/blobs/{key}"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return opens(path, *arguments, **known)

        opens = Path.open
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Path, "open", denied)
            yield

    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        self.settings = FsspecBlobsSettings(url=f"file://{tmp_path}/store")
        async with open_fsspec_blobs(self.settings) as blobs:
            yield blobs


class TestBlobsOnAnyFilesystem(_FolderMarkers, _Blobs):
    """Of one that is no object store, and of which nothing is known."""

    outage = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BlobStore]:
        with ThreadPoolExecutor(8) as pool:
            yield FsspecBlobs(
                DirectoryObjects(Pooled(LocalFileSystem, lambda filesystem: None), self.root, "any://host", Driver()),
                pool,
                sign_for=60,
            )

    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        self.root = str(tmp_path / "store")
        self.settings = FsspecBlobsSettings(url=f"file://{self.root}")
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


class TestDocumentsInFilesAndAModel(DocumentStoreModel):
    examples = 10

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.settings = FsspecDocumentsSettings(url=f"file://{tmp_path}/store")

    def opened(self) -> AbstractAsyncContextManager[DocumentStore]:
        return open_fsspec_documents(self.settings)


class TestDocumentsInS3AndAModel(TestDocumentsInFilesAndAModel):
    @pytest.fixture(autouse=True)
    def place(self, s3: ObjectStore) -> None:
        self.settings = FsspecDocumentsSettings(**s3.settings())


class _OnBoth:
    """Files and documents below one place."""

    directory: str
    s3: ObjectStore | None = None

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.directory = f"file://{tmp_path}/store"

    def settings_of(self, of: type[S]) -> S:
        return of(url=self.directory) if self.s3 is None else of(**self.s3.settings())

    def blobs(self) -> AbstractAsyncContextManager[BlobStore]:
        return open_fsspec_blobs(self.settings_of(FsspecBlobsSettings))

    def documents(self) -> AbstractAsyncContextManager[DocumentStore]:
        return open_fsspec_documents(self.settings_of(FsspecDocumentsSettings))


class TestCommitsInFiles(_OnBoth, CommitModel):
    examples = 10


class TestWorkspacesInFiles(_OnBoth, WorkspaceModel):
    examples = 10

    def opened(self) -> AbstractAsyncContextManager[BlobStore]:
        return self.blobs()


class TestCommitsInS3(TestCommitsInFiles):
    examples, steps = 4, 10

    @pytest.fixture(autouse=True)
    def place(self, s3: ObjectStore) -> None:
        self.s3 = s3


class TestWorkspacesInS3(TestWorkspacesInFiles):
    examples, steps = 4, 10

    @pytest.fixture(autouse=True)
    def place(self, s3: ObjectStore) -> None:
        self.s3 = s3


class TestBlobsInMemory(_Blobs):
    outage = None
    litter = None

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
    @asynccontextmanager
    async def withhold(self, blobs: FsspecBlobs, key: str) -> AsyncIterator[None]:
        self.proxy.forbidden = f"/blobs/{key}"
        yield
        self.proxy.forbidden = ""

    @pytest.fixture
    async def blobs(self, s3: ObjectStore) -> AsyncIterator[BlobStore]:
        async with faulty_proxy_to(s3.port) as self.proxy:
            self.settings = FsspecBlobsSettings(**s3_at(self.proxy.port).settings(driver=self.driver))
            async with open_fsspec_blobs(self.settings) as blobs:
                yield blobs


class TestDocumentsInS3(_Refused, _Documents):
    @pytest.fixture
    async def documents(self, s3: ObjectStore) -> AsyncIterator[DocumentStore]:
        async with faulty_proxy_to(s3.port) as self.proxy:
            self.settings = FsspecDocumentsSettings(**s3_at(self.proxy.port).settings(driver=self.driver))
            async with open_fsspec_documents(self.settings) as documents:
                yield documents


class _ByObstore:
    driver: ClassVar[str] = "obstore"

    def hurry(self, objects: DirectObjects) -> None:
        lister: Any = objects._listing()
        lister._retries.delay = 0.0
        lister._filesystems.filesystem.retries = 1


class TestBlobsInS3ByObstore(_ByObstore, TestBlobsInS3):
    async def litter(self, blobs: FsspecBlobs, prefix: str) -> None:
        """Keys that obstore cannot write, nor list, are put there by s3fs."""
        objects: Any = blobs._objects
        lister = objects._listing()
        await super().litter(FsspecBlobs(lister, blobs._pool, sign_for=60), prefix)
        with lister._filesystems.one() as filesystem:
            await asyncio.to_thread(filesystem.pipe_file, lister._path(f"blobs/{prefix}//x"), b"")


class TestDocumentsInS3ByObstore(_ByObstore, TestDocumentsInS3):
    pass


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # adlfs does
class TestBlobsInAzure(_Refused, _Blobs):
    @asynccontextmanager
    async def withhold(self, blobs: FsspecBlobs, key: str) -> AsyncIterator[None]:
        self.proxy.forbidden = f"/blobs/{key}"
        yield
        self.proxy.forbidden = ""

    async def litter(self, blobs: Any, prefix: str) -> None:
        """Markers of folders say that they are: adlfs shows the name of one without its slash."""
        from azure.storage.blob import BlobServiceClient

        container, _, place = self.settings.url.removeprefix("az://").partition("/")

        def leave() -> None:
            with BlobServiceClient.from_connection_string(self.settings.options["connection_string"]) as service:
                client = service.get_container_client(container)
                for name in (f"blobs/{prefix}/folder", f"blobs/{prefix}"):
                    client.upload_blob(f"{place}/{name}", b"", metadata={"hdi_isfolder": "true"})
                client.upload_blob(f"{place}/blobs/{prefix}/=zz", b"")

        await asyncio.to_thread(leave)

    @pytest.fixture
    async def blobs(self, azure: ObjectStore) -> AsyncIterator[BlobStore]:
        async with faulty_proxy_to(azure.port) as self.proxy:
            self.settings = FsspecBlobsSettings(**azure_at(self.proxy.port).settings(driver=self.driver))
            async with open_fsspec_blobs(self.settings) as blobs:
                yield blobs


class TestDocumentsInAzure(_Refused, _Documents):
    @pytest.fixture
    async def documents(self, azure: ObjectStore) -> AsyncIterator[DocumentStore]:
        async with faulty_proxy_to(azure.port) as self.proxy:
            self.settings = FsspecDocumentsSettings(**azure_at(self.proxy.port).settings(driver=self.driver))
            async with open_fsspec_documents(self.settings) as documents:
                yield documents


class TestBlobsInAzureByObstore(_ByObstore, TestBlobsInAzure):
    pass


class TestDocumentsInAzureByObstore(_ByObstore, TestDocumentsInAzure):
    pass


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # gcsfs does
class TestBlobsInGoogle(_Blobs):
    """Its emulator has no conditional writes: test_opening.py sees it refused for documents."""

    outage = None

    @pytest.fixture
    async def blobs(self, google: ObjectStore) -> AsyncIterator[BlobStore]:
        self.settings = FsspecBlobsSettings(**google.settings())
        async with open_fsspec_blobs(self.settings) as blobs:
            yield blobs


class TestBlobsOverSftp(_FolderMarkers, _Stopped, _Blobs):
    def path(self, url: str) -> Path:
        return self.server.path_of(url)

    @pytest.fixture
    async def blobs(self, sftp: FileServer) -> AsyncIterator[BlobStore]:
        self.server, self.settings = sftp, FsspecBlobsSettings(**sftp.settings())
        async with open_fsspec_blobs(self.settings) as blobs:
            yield blobs


class TestBlobsOverWebdav(_FolderMarkers, _Stopped, _Blobs):
    def path(self, url: str) -> Path:
        return self.server.path_of(url)

    @pytest.fixture
    async def blobs(self, webdav: FileServer) -> AsyncIterator[BlobStore]:
        self.server, self.settings = webdav, FsspecBlobsSettings(**webdav.settings())
        async with open_fsspec_blobs(self.settings) as blobs:
            yield blobs


class _Provider(ProviderConformance):
    not_set_up = None

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


class _ProviderInS3(ProviderConformance):
    unusable = None
    not_set_up = None

    @pytest.fixture(autouse=True)
    def in_s3(self, s3: ObjectStore) -> None:
        self.values = s3.settings(driver="obstore")

    def section(self, tmp_path: Path) -> dict[str, Any]:
        return self.values


class TestBlobsProviderInS3(_ProviderInS3):
    @pytest.fixture
    def provider(self) -> Provider[BlobStore]:
        return next(iter(plugin.ion_blob_stores()))


class TestDocumentsProviderInS3(_ProviderInS3):
    @pytest.fixture
    def provider(self) -> Provider[DocumentStore]:
        return next(iter(plugin.ion_document_stores()))
