"""The embedded providers pass the same kits as the reference ones."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from ion_core.contracts.messaging import Delivery, MessageBroker
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.contracts.storage import BlobStore, DocumentStore
from ion_core.embedded import plugin
from ion_core.embedded.local.blobs import LocalBlobs, open_local_blobs
from ion_core.embedded.process.runtime import open_process_runtime
from ion_core.embedded.settings import (
    LocalBlobsSettings,
    ProcessSettings,
    SqliteBrokerSettings,
    SqliteDocumentsSettings,
)
from ion_core.embedded.sqlite.broker import open_sqlite_broker
from ion_core.embedded.sqlite.documents import open_sqlite_documents
from ion_core.testing import (
    BlobStoreConformance,
    ContainerRuntimeConformance,
    DocumentStoreConformance,
    MessageBrokerConformance,
    ProviderConformance,
)
from ion_core.testing.process import Opening
from tests.support.away import a_file_in_place_of
from tests.support.documents import counted_steps


@contextmanager
def tables_away(path: Path) -> Iterator[None]:
    """Another process has renamed every table of the database."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        names = [name for (name,) in rows]
        for name in names:
            connection.execute(f"ALTER TABLE {name} RENAME TO {name}_away")
        connection.commit()
        yield
        for name in names:
            connection.execute(f"ALTER TABLE {name}_away RENAME TO {name}")
        connection.commit()


class TestSqliteBroker(MessageBrokerConformance):
    @pytest.fixture
    async def broker(self, tmp_path: Path) -> AsyncIterator[MessageBroker]:
        self.settings = SqliteBrokerSettings(
            path=tmp_path / "broker.sqlite", lease=timedelta(seconds=2), poll=timedelta(milliseconds=20)
        )
        async with open_sqlite_broker(self.settings) as broker:
            yield broker

    def reopen(self) -> AbstractAsyncContextManager[MessageBroker]:
        return open_sqlite_broker(self.settings)

    def opening(self) -> Opening:
        return open_sqlite_broker, self.settings

    async def take_back(self, broker: MessageBroker, delivery: Delivery) -> None:
        """By saying nothing until the lease is over."""
        await delivery.lost.wait()

    @asynccontextmanager
    async def outage(self, broker: MessageBroker) -> AsyncIterator[None]:
        with tables_away(self.settings.path):
            yield


class TestSqliteDocuments(DocumentStoreConformance):
    reads = staticmethod(counted_steps)

    @pytest.fixture
    async def documents(self, tmp_path: Path) -> AsyncIterator[DocumentStore]:
        self.settings = SqliteDocumentsSettings(path=tmp_path / "documents.sqlite")
        async with open_sqlite_documents(self.settings) as documents:
            yield documents

    def reopen(self) -> AbstractAsyncContextManager[DocumentStore]:
        return open_sqlite_documents(self.settings)

    async def damage(self, documents: DocumentStore, kind: str, id: str) -> None:
        with sqlite3.connect(self.settings.path) as connection:
            connection.execute("UPDATE documents SET body = '{' WHERE kind = ? AND id = ?", (kind, id))
        connection.close()

    @asynccontextmanager
    async def outage(self, documents: DocumentStore) -> AsyncIterator[None]:
        with tables_away(self.settings.path):
            yield


class TestLocalBlobs(BlobStoreConformance):
    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        self.settings = LocalBlobsSettings(path=tmp_path / "blobs")
        async with open_local_blobs(self.settings) as blobs:
            yield blobs

    def reopen(self) -> AbstractAsyncContextManager[BlobStore]:
        return open_local_blobs(self.settings)

    async def corrupt(self, blobs: BlobStore, key: str) -> None:
        (path,) = (path for path in self.settings.path.rglob("*") if path.is_file() and path.stat().st_size > 1000)
        with path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))

    async def litter(self, blobs: BlobStore, prefix: str) -> None:
        below = self.settings.path / "files" / prefix
        deep = below.joinpath(*["n" * 250] * 4)
        deep.mkdir(parents=True)
        for path in (deep / ("n" * 100), below / "two\nlines", below / "back\\slash"):
            path.write_bytes(b"content")
        (below / "link").symlink_to(below / "key")
        (below / "folder").mkdir()

    @asynccontextmanager
    async def withhold(self, blobs: BlobStore, key: str) -> AsyncIterator[None]:
        """As for want of permission, which root cannot lack."""
        assert isinstance(blobs, LocalBlobs)
        tree, opens = blobs._tree, blobs._tree.open

        def denied(asked: str) -> tuple[int, os.stat_result]:
            if asked == key:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), tree.path(asked))
            return opens(asked)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tree, "open", denied)
            yield

    @asynccontextmanager
    async def outage(self, blobs: BlobStore) -> AsyncIterator[None]:
        with a_file_in_place_of(self.settings.path):
            yield


class TestProcessRuntime(ContainerRuntimeConformance):
    isolation: ClassVar[Literal["none", "bubblewrap"]] = "none"

    @pytest.fixture
    async def runtime(self, tmp_path: Path) -> AsyncIterator[ContainerRuntime]:
        self.settings = ProcessSettings(isolation=self.isolation, path=tmp_path / "run")
        async with open_process_runtime(self.settings) as runtime:
            yield runtime

    def reopen(self) -> AbstractAsyncContextManager[ContainerRuntime]:
        return open_process_runtime(self.settings)

    @asynccontextmanager
    async def outage(self, runtime: ContainerRuntime) -> AsyncIterator[None]:
        with a_file_in_place_of(self.settings.path):
            yield


def bubblewrap_works() -> bool:
    """It may be installed where unprivileged namespaces are forbidden."""
    try:
        return subprocess.run(["bwrap", "--unshare-pid", "--ro-bind", "/", "/", "true"], timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if bubblewrap_works():  # where it does not, the setting is refused, which has a test of its own

    class TestProcessRuntimeInBubblewrap(TestProcessRuntime):
        isolation = "bubblewrap"


@pytest.mark.parametrize(
    "provider",
    [
        next(provider for provider in hook() if provider.name != "memory")
        for hook in (
            plugin.ion_message_brokers,
            plugin.ion_container_runtimes,
            plugin.ion_executors,
            plugin.ion_blob_stores,
            plugin.ion_document_stores,
        )
    ],
    ids=lambda provider: provider.name,
)
class TestEmbeddedProviders(ProviderConformance):
    not_set_up = None

    def section(self, tmp_path: Path) -> dict[str, Any]:
        return {"path": str(tmp_path / "some" / "state")}

    def unusable(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "file").write_bytes(b"no directory, no database")
        return {"path": str(tmp_path / "file" / "state")}
