"""Ion with RabbitMQ and Podman, and the bare loop beside it: what the podman rows share."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from bench.embedded import EVENT_TYPE, Finished, Ion
from bench.measure import Unavailable
from ion_core.contracts.messaging import MessageBroker, RetryPolicy
from ion_core.contracts.provider import Provider
from ion_core.contracts.runtime import ContainerRuntime, ContainerSpec
from ion_core.dataplane import DataPlane
from ion_core.embedded import plugin as embedded_plugin
from ion_core.modules import Module

Opening = Callable[[Any], AbstractAsyncContextManager[ContainerRuntime]]
"""Opens a runtime, given the Podman service that has the images."""

CHILD_TYPE = "bench.child"
COMMAND = ("sh", "-c", """echo '[{"key":"eventType","value":"bench.child"}]' > /ion/out/events/1.json""")
"""Next to nothing, and one child event."""


@contextmanager
def podman() -> Iterator[Any]:
    """A service of our own with a small image. Raises Unavailable."""
    missing = [name for name in ("podman", "runc", "busybox") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise Unavailable(f"{', '.join(missing) or 'root'} is needed")
    from ion_podman.testing import podman_service

    with (
        tempfile.TemporaryDirectory(prefix="ion-bench-") as directory,
        podman_service(Path(directory) / "podman") as service,
    ):
        service.build_busybox()
        yield service


@contextmanager
def rabbit() -> Iterator[str]:
    """The address of a RabbitMQ of our own. Raises Unavailable."""
    if shutil.which("rabbitmq-server", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        raise Unavailable("rabbitmq-server is needed")
    from ion_rabbitmq.testing import RabbitServer

    with tempfile.TemporaryDirectory(prefix="ion-bench-") as directory:
        server = RabbitServer(Path(directory) / "rabbitmq")
        try:
            server.start()
            yield server.url
        finally:
            server.remove()


@asynccontextmanager
async def ion(directory: Path, url: str) -> AsyncIterator[Ion]:
    """RabbitMQ as broker, embedded stores below ``directory``."""
    from ion_rabbitmq.plugin import ion_message_brokers

    documents = named(embedded_plugin.ion_document_stores(), "sqlite")
    blobs = named(embedded_plugin.ion_blob_stores(), "local")
    brokers = named(ion_message_brokers(), "rabbitmq")
    async with (
        opening(brokers, url=url) as broker,
        opening(documents, path=directory / "documents.sqlite") as document_store,
        opening(blobs, path=directory / "blobs") as blob_store,
    ):
        await _sink(broker)
        finished = Finished()
        dataplane = DataPlane(blob_store, document_store, broker, finished)
        yield Ion(directory, broker, document_store, dataplane, finished)


async def _sink(broker: MessageBroker) -> None:
    """Somebody takes the child events, so that they are really published."""
    await broker.declare("sink", topics=[CHILD_TYPE], retry=RetryPolicy())


def named(providers: Any, name: str) -> Provider[Any]:
    provider: Provider[Any]
    (provider,) = [provider for provider in providers if provider.name == name]
    return provider


def opening(provider: Provider[Any], **settings: Any) -> Any:
    return provider.open(provider.settings.model_validate(settings))


@asynccontextmanager
async def podman_runtime(service: Any) -> AsyncIterator[ContainerRuntime]:
    """The podman runtime with its default settings, at that service."""
    from ion_podman.plugin import ion_container_runtimes

    async with opening(named(ion_container_runtimes(), "podman"), url=service.url) as runtime:
        yield runtime


def module(*, concurrency: int = 1, warm: int = 0) -> Module:
    from ion_podman.testing import BUSYBOX

    return Module(
        name="noop",
        image=BUSYBOX,
        command=COMMAND,
        subscribes=(EVENT_TYPE,),
        publishes=(CHILD_TYPE,),
        concurrency=concurrency,
        warm=warm,
    )


async def bare(directory: Path, url: str) -> Callable[[], Any]:
    """One container of the same kind by nothing but Podman's API: create, attach, start, end seen at EOF, remove."""
    from ion_podman.client import Attached, Client
    from ion_podman.images import Images
    from ion_podman.settings import PodmanSettings
    from ion_podman.spec import Wanted
    from ion_podman.testing import BUSYBOX

    client = Client(url.removeprefix("unix://"))
    settings = PodmanSettings.model_validate({"url": url})
    image = await Images(client, settings).resolve(ContainerSpec(name="bare", image=BUSYBOX, workspace=directory))
    workspace = directory / "bare"
    for name in ("in/data", "out/data", "out/events"):
        (workspace / name).mkdir(parents=True)
        (workspace / name).chmod(0o777)
    made = 0

    async def once() -> None:
        nonlocal made
        made += 1
        spec = ContainerSpec(name=f"bare-{made}", image=BUSYBOX, command=COMMAND, workspace=workspace)
        body = Wanted(spec=spec, image=image, settings=settings).to_json()
        answer = await client.call("POST", "/containers/create", body=body)
        path = f"/containers/{answer.body['Id']}"
        attached = await client.upgraded(f"{path}/attach", query={"stream": 1, "stdout": 1, "stderr": 1})
        assert isinstance(attached, Attached)
        answer = await client.call("POST", f"{path}/start")
        assert answer.ok, answer.message
        async for _ in attached.frames():
            pass
        attached.close()
        while not (await client.call("DELETE", path, query={"force": True, "timeout": 0})).ok:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    return once


async def at_rest(dispatcher: Any, warm: int) -> None:
    """Until it has cleaned up and, where it makes slots ahead, has made them: neither is timed."""
    while dispatcher.running or dispatcher.warm < warm:  # noqa: ASYNC110 - it tells nobody, and this is not timed
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.1)  # Podman cleans up behind its containers for a moment longer
