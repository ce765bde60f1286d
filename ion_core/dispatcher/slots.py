"""Slots: a workspace and a container that sees it, made ready before anything of an event is in them.

Environment and labels belong to the slot; everything about an event is a file in the workspace. So a slot can be made
ahead of its event, and nothing of an event can leak through a container's metadata.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from ion_core.contracts.runtime import ContainerRef, ContainerRuntime, ContainerSpec, ExitStatus
from ion_core.dispatcher.bounded import uninterrupted
from ion_core.dispatcher.warm import WarmSlots
from ion_core.errors import ContainerNotFound, ProviderError, TransientError
from ion_core.handler import Handler, Workspace
from ion_core.jobs import Attempt, Module

log = logging.getLogger(__name__)

CLEAN_WITHIN = 60.0
"""Seconds for removing a slot; what is left then is removed at the next start."""

LABEL_STATE = "ion.state"
LABEL_MODULE = "ion.module"


@dataclass(frozen=True)
class Failed:
    """The attempt that a slot was used for, and why it failed."""

    attempt: Attempt
    reason: str


class Slot:
    """One container and its workspace, used for one attempt. ``is_warm`` if it was made ahead of its event.

    ``failed``, set before it is closed, has the workspace kept; ``log`` then says what became of that.
    """

    def __init__(self, runtime: ContainerRuntime, ref: ContainerRef, workspace: Workspace, secret: str) -> None:
        self._runtime = runtime
        self._secret = secret
        self.ref = ref
        self.workspace = workspace
        self.is_warm = False
        self.failed: Failed | None = None
        self.log: list[str] = []

    async def start(self) -> None:
        try:
            await self._runtime.start(self.ref)
        except ContainerNotFound as error:
            if not self.is_warm:
                raise
            raise TransientError(f"a container made ahead is gone: {error}") from error

    async def wait(self) -> ExitStatus:
        return await self._runtime.wait(self.ref)

    async def stop(self, *, grace: timedelta) -> None:
        """Returns once nothing of the module runs any more."""
        await self._runtime.stop(self.ref, grace=grace)

    async def output(self, *, follow: bool = False) -> AsyncIterator[str]:
        """What the module printed, without the slot's secret should it have printed that."""
        async for line in self._runtime.logs(self.ref, follow=follow):
            yield line.text.replace(self._secret, "********")

    async def remove(self) -> None:
        """Remove the container, stopping it first if it runs. Idempotent."""
        await self._runtime.remove(self.ref)


class Slots:
    """Makes slots for one module, ``module.warm`` of them ahead of their events while ``keep_warm`` runs."""

    def __init__(self, module: Module, runtime: ContainerRuntime, handler: Handler, *, state_id: str) -> None:
        self._module = module
        self._runtime = runtime
        self._handler = handler
        self._labels: Mapping[str, str] = {LABEL_STATE: state_id, LABEL_MODULE: module.name}
        self.warm = WarmSlots(module.warm, self._make, self._close, module=module.name)

    @property
    def inputs_read_only(self) -> bool:
        return self._runtime.capabilities.inputs_read_only

    async def keep_warm(self, stop: asyncio.Event) -> None:
        """Make slots ahead until ``stop``, or until cancelled; none that waits is left then."""
        await self.warm.run(stop)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Slot]:
        """A slot for one attempt; its container and workspace are gone when the body has ended, however it ended."""
        slot = await self.warm.take()
        if slot is not None:
            slot.is_warm = True
        else:
            slot = await self._make()
        try:
            yield slot
        except TransientError:
            if slot.is_warm:  # perhaps the others are no better
                await self.warm.distrust()
            raise
        finally:
            self.warm.refill()
            await self._close(slot)

    async def _make(self) -> Slot:
        """A slot, or the error with nothing left behind."""
        module = self._module
        name = f"ion-{module.name[:40]}-{secrets.token_hex(6)}"
        secret = secrets.token_urlsafe(32)
        workspace = await self._handler.open_workspace(name)
        spec = ContainerSpec(
            name=name,
            image=module.image,
            command=module.command,
            source=module.source,
            workspace=workspace.root,
            env={**module.env, "SHARED_SECRET": secret},
            labels=self._labels,
            resources=module.resources,
            network=module.network,
        )
        try:
            return Slot(self._runtime, await self._runtime.create(spec), workspace, secret)
        except BaseException:
            await uninterrupted(self._clean(None, name, workspace), within=CLEAN_WITHIN + 5.0)
            raise

    async def _close(self, slot: Slot) -> None:
        await uninterrupted(self._clean(slot, slot.ref.name, slot.workspace), within=CLEAN_WITHIN + 5.0)

    async def _clean(self, slot: Slot | None, name: str, workspace: Workspace) -> None:
        try:
            async with asyncio.timeout(CLEAN_WITHIN):
                if slot is not None:
                    await slot.remove()
                    await self._keep(slot)
                else:
                    await self._remove_half_made(name)
                await self._handler.close_workspace(workspace)
        except (ProviderError, TimeoutError) as error:
            reason = str(error) or f"not removed within {CLEAN_WITHIN:.0f} s"
            log.warning("a slot is left behind until the next start: %s", reason, extra={"slot": name})
        except Exception:
            log.exception("a slot is left behind until the next start, by a bug", extra={"slot": name})

    async def _keep(self, slot: Slot) -> None:
        """Of a failed attempt the workspace is moved aside, now that nothing writes to it any more."""
        if slot.failed is None:
            return
        attempt, reason, most = slot.failed.attempt, slot.failed.reason, self._module.keep_failed
        kept, why_not = await self._handler.failed.keep(slot.workspace, attempt, reason, most=most)
        if kept is not None:
            slot.log.append(f"workspace kept in {kept}")
        elif why_not:
            slot.log.append(f"workspace not kept: {why_not}")

    async def _remove_half_made(self, name: str) -> None:
        """The container of a ``create`` that failed or was cancelled, which may have made it all the same."""
        for status in await self._runtime.find(self._labels):
            if status.ref.name == name:
                await self._runtime.remove(status.ref)
