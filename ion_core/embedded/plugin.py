"""Registers the embedded providers, through the same hooks as any plugin. Their code is imported when opened."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ion_core.contracts.provider import Provider
from ion_core.embedded.settings import (
    LocalBlobsSettings,
    NoSettings,
    ProcessSettings,
    SqliteBrokerSettings,
    SqliteDocumentsSettings,
    SubprocessSettings,
)
from ion_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from ion_core.contracts.executor import Executor
    from ion_core.contracts.messaging import MessageBroker
    from ion_core.contracts.runtime import ContainerRuntime
    from ion_core.contracts.storage import BlobStore, DocumentStore

CONTRACT = "1.0"


def _sqlite_broker(settings: SqliteBrokerSettings) -> AbstractAsyncContextManager[MessageBroker]:
    from ion_core.embedded.sqlite.broker import open_sqlite_broker

    return open_sqlite_broker(settings)


def _memory_broker(settings: NoSettings) -> AbstractAsyncContextManager[MessageBroker]:
    from ion_core.embedded.memory.broker import open_memory_broker

    return open_memory_broker(settings)


def _process_runtime(settings: ProcessSettings) -> AbstractAsyncContextManager[ContainerRuntime]:
    from ion_core.embedded.process.runtime import open_process_runtime

    return open_process_runtime(settings)


def _memory_runtime(settings: NoSettings) -> AbstractAsyncContextManager[ContainerRuntime]:
    from ion_core.embedded.memory.runtime import open_memory_runtime

    return open_memory_runtime(settings)


def _subprocess_executor(settings: SubprocessSettings) -> AbstractAsyncContextManager[Executor]:
    from ion_core.embedded.jobs.executor import open_subprocess_executor

    return open_subprocess_executor(settings)


def _local_blobs(settings: LocalBlobsSettings) -> AbstractAsyncContextManager[BlobStore]:
    from ion_core.embedded.local.blobs import open_local_blobs

    return open_local_blobs(settings)


def _memory_blobs(settings: NoSettings) -> AbstractAsyncContextManager[BlobStore]:
    from ion_core.embedded.memory.blobs import open_memory_blobs

    return open_memory_blobs(settings)


def _sqlite_documents(settings: SqliteDocumentsSettings) -> AbstractAsyncContextManager[DocumentStore]:
    from ion_core.embedded.sqlite.documents import open_sqlite_documents

    return open_sqlite_documents(settings)


def _memory_documents(settings: NoSettings) -> AbstractAsyncContextManager[DocumentStore]:
    from ion_core.embedded.memory.documents import open_memory_documents

    return open_memory_documents(settings)


@hookimpl
def ion_message_brokers() -> Iterable[Provider[MessageBroker]]:
    yield Provider(name="sqlite", settings=SqliteBrokerSettings, open=_sqlite_broker, contract="1.4")
    yield Provider(name="memory", settings=NoSettings, open=_memory_broker, contract="1.4")


@hookimpl
def ion_container_runtimes() -> Iterable[Provider[ContainerRuntime]]:
    yield Provider(name="process", settings=ProcessSettings, open=_process_runtime, contract=CONTRACT)
    yield Provider(name="memory", settings=NoSettings, open=_memory_runtime, contract=CONTRACT)


@hookimpl
def ion_executors() -> Iterable[Provider[Executor]]:
    yield Provider(name="subprocess", settings=SubprocessSettings, open=_subprocess_executor, contract="1.2")


@hookimpl
def ion_blob_stores() -> Iterable[Provider[BlobStore]]:
    yield Provider(name="local", settings=LocalBlobsSettings, open=_local_blobs, contract=CONTRACT)
    yield Provider(name="memory", settings=NoSettings, open=_memory_blobs, contract=CONTRACT)


@hookimpl
def ion_document_stores() -> Iterable[Provider[DocumentStore]]:
    yield Provider(name="sqlite", settings=SqliteDocumentsSettings, open=_sqlite_documents, contract="1.4")
    yield Provider(name="memory", settings=NoSettings, open=_memory_documents, contract="1.4")
