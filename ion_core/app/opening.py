"""Opens what a configuration names: each provider when it is first asked for, and what stands on them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ion_core.app.changes import Changes
from ion_core.app.observing import Observation
from ion_core.config import Config
from ion_core.contracts.executor import Executor
from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.provider import Reach, Section
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.contracts.storage import BlobStore, DocumentStore
from ion_core.dataplane import DataPlane
from ion_core.errors import ConfigError
from ion_core.intake import Intake
from ion_core.jobs import ION
from ion_core.opening import Chosen, opened
from ion_core.registry import Kind
from ion_core.state import State

log = logging.getLogger(__name__)


class App:
    """The providers of one configuration, each opened when first asked for and closed with the App."""

    def __init__(self, config: Config, state: State, stack: AsyncExitStack) -> None:
        self.config = config
        self.state = state
        self.observation = Observation(config)
        self.observers = self.observation.observers
        self.changes = Changes(self.observers, hide=config.hidden.masked)
        """What the work is to tell of: it hands on to ``observers``."""
        stack.push_async_callback(asyncio.to_thread, self.observers.close)
        self._stack = stack
        self._opened: dict[str, Any] = {}
        self._dataplane: DataPlane | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config, *, reading: bool = False) -> AsyncIterator[App]:
        """Makes the state directory and connects to nothing yet.

        With ``reading`` nothing is made where there is no state directory: it is read as an empty one. Raises
        StateError when it is another user's.
        """
        async with AsyncExitStack() as stack:
            if not reading:
                state = State.open(config.state)
            elif State.exists(config.state):
                state = stack.enter_context(State.looking(config.state))
            else:
                empty = stack.enter_context(TemporaryDirectory(prefix="ion-"))
                config = config.with_state(Path(empty))
                state = State(config.state)
            yield cls(config, state, stack)

    async def broker(self) -> MessageBroker:
        broker: MessageBroker = await self._open("messaging", self.config.messaging)
        return broker

    async def blobs(self) -> BlobStore:
        blobs: BlobStore = await self._open("blobs", self.config.blobs)
        return blobs

    async def documents(self) -> DocumentStore:
        documents: DocumentStore = await self._open("documents", self.config.documents)
        return documents

    async def blobs_at(self, path: Path) -> BlobStore:
        """A store of its own for files of this process only, under ``path``."""
        provider = self.config.registry.choose(Kind.BLOB_STORE, "local", where=str(path))
        settings = provider.settings.model_validate({"path": str(path)}, context={"state": path, "base": path})
        plugin = self.config.registry.plugin_of(Kind.BLOB_STORE, "local")
        chosen = Chosen(
            provider=provider, settings=settings, plugin=plugin, section=Section(key=str(path)), kind=Kind.BLOB_STORE
        )
        blobs: BlobStore = await self._stack.enter_async_context(opened(chosen))
        return blobs

    async def runtimes(self) -> Mapping[str, ContainerRuntime]:
        """Those that some module uses, by their name in the configuration; executors are not among them."""
        return {name: await self.runtime(name) for name in self._used(Kind.CONTAINER_RUNTIME)}

    async def runtime(self, name: str) -> ContainerRuntime:
        """That of this name in the configuration. Raises ConfigError for an executor."""
        chosen = self.config.runtimes[name]
        if chosen.kind is Kind.EXECUTOR:
            raise ConfigError(
                f"{chosen.where}: {chosen.provider.name} takes whole jobs of `serve`, and this runs one step here. "
                "Give --runtime process, or another that starts containers."
            )
        runtime: ContainerRuntime = await self._open(f"runtime {name}", chosen)
        return runtime

    async def executors(self) -> Mapping[str, Executor]:
        """Those that some module uses, by their name under ``runtimes``."""
        return {
            name: await self._open(f"runtime {name}", self.config.runtimes[name]) for name in self._used(Kind.EXECUTOR)
        }

    def _used(self, kind: Kind) -> list[str]:
        used = {module.runtime for module in self.config.modules.values()}
        return sorted(name for name in used if self.config.runtimes[name].kind is kind)

    def installation(self) -> tuple[str, bool]:
        """What all dispatchers have in common that share our documents, and whether there can be but one.

        Whoever shares them may fetch each other's jobs of an engine: a commit is a commit for all of them.
        """
        location = self.config.documents.location
        if location is None or location.reach is not Reach.NETWORK:
            return self.state.id(), True
        return uuid.uuid5(ION, f"{self.config.documents.provider.name} {location.where}").hex[:16], False

    async def dataplane(self) -> DataPlane:
        """The same whenever it is asked for: it remembers what gatherers wait for."""
        if self._dataplane is None:
            dataplane = DataPlane(
                await self.blobs(),
                await self.documents(),
                await self.broker(),
                self.changes,
                documents_at=self.config.documents.named("storage.documents"),
            )
            self._dataplane = dataplane.with_gatherers(self.config.modules.values())
        return self._dataplane

    async def intake(self) -> Intake:
        """Ready to publish: every module's queue is declared."""
        intake = Intake(await self.dataplane(), self.config.modules.values())
        await intake.declare()
        return intake

    async def _open(self, part: str, chosen: Chosen) -> Any:
        if part not in self._opened:
            self._opened[part] = await self._stack.enter_async_context(opened(chosen))
        return self._opened[part]
