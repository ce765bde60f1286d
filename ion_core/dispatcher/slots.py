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
from datetime import timedelta

from ion_core.contracts.looking import SlotsView
from ion_core.contracts.runtime import ContainerRef, ContainerRuntime, ContainerSpec
from ion_core.dispatcher.bounded import uninterrupted
from ion_core.dispatcher.idle import IdleSlots
from ion_core.dispatcher.slot import GONE_BEFORE, Slot
from ion_core.dispatcher.warm import OLDEST, WarmSlots
from ion_core.errors import ContainerNotFound, ProviderError, TransientError
from ion_core.handler import Handler, HandlerApi, Workspace
from ion_core.modules import Module

log = logging.getLogger(__name__)

CLEAN_WITHIN = 60.0
"""Seconds for removing a slot; what is left then is removed at the next start."""

END_WITHIN = timedelta(seconds=5)
"""How long a module that waits for events may take to end."""

LABEL_STATE = "ion.state"
LABEL_MODULE = "ion.module"
LABEL_WORKER = "ion.worker"
"""Of several workers on one state directory, whose it is; without it there is but one."""

MODULE_ENV = {"PYTHONUNBUFFERED": "1"}
"""What every module is given: what one in Python printed is there also when it is stopped."""


def labels_of(state_id: str, worker: int = 0) -> Mapping[str, str]:
    """What marks the containers of a state directory; with ``worker`` those of one of its workers."""
    return {LABEL_STATE: state_id, **({LABEL_WORKER: str(worker)} if worker else {})}


def container_spec(
    module: Module, name: str, workspace: Workspace, *, calls: Mapping[str, str], labels: Mapping[str, str]
) -> ContainerSpec:
    """The container that ``module`` runs in. ``calls`` are the variables with which it calls its handler."""
    return ContainerSpec(
        name=name,
        module=module.name,
        image=module.image,
        build=module.build,
        command=module.command,
        args=module.args,
        source=module.source,
        python=module.python,
        workspace=workspace.root,
        env={**MODULE_ENV, **module.env, **calls},
        labels=labels,
        resources=module.resources,
        network=module.network,
    )


class Slots:
    """Makes slots for one module; while ``keep`` runs, ``module.warm`` of them ahead of their events."""

    def __init__(
        self,
        module: Module,
        runtime: ContainerRuntime,
        handler: Handler,
        *,
        api: HandlerApi,
        state_id: str,
        worker: int = 0,
    ) -> None:
        self._module = module
        self._runtime = runtime
        self._handler = handler
        self._api = api
        self._labels: Mapping[str, str] = {**labels_of(state_id, worker), LABEL_MODULE: module.name}
        self.warm = WarmSlots(module.warm, self._make, self._close, module=module.name)
        self.idle = IdleSlots(handler, self._end, oldest=OLDEST)

    @property
    def view(self) -> SlotsView:
        module, warm = self._module, self.warm
        return SlotsView(
            module=module.name,
            warm=module.warm,
            ready=warm.ready,
            found=warm.found,
            reused=self.idle.reused,
            made=warm.made,
        )

    async def keep(self, stop: asyncio.Event) -> None:
        """Make slots ahead until ``stop``, or until cancelled; none that waits is left then."""
        async with asyncio.TaskGroup() as keeping:
            keeping.create_task(self.warm.run(stop))
            keeping.create_task(self.idle.run(stop))

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Slot]:
        """A slot for one attempt; its container and workspace are gone when the body has ended, however it ended.

        But for one that ``is_kept``: its module goes on, and so it is one for the next attempt.
        """
        slot = await self.idle.take() or await self._new()
        try:
            yield slot
        except BaseException as error:
            slot.is_kept = False
            if slot.is_warm and isinstance(error, TransientError):  # perhaps the others are no better
                await self.warm.distrust()
            raise
        finally:
            self.warm.refill()
            if not (slot.is_kept and self.idle.put(slot)):
                await self._close(slot)

    async def _new(self) -> Slot:
        slot = await self.warm.take()
        if slot is None:
            return await self._make()
        slot.is_warm = True
        return slot

    async def _make(self) -> Slot:
        """A slot, or the error with nothing left behind."""
        module = self._module
        name = f"ion-{module.name[:40]}-{secrets.token_hex(6)}"
        secret = secrets.token_urlsafe(32)
        workspace = await self._handler.open_workspace(name)
        calls = {"SHARED_SECRET": secret, "HANDLER_PORT": str(self._api.port)}
        spec = container_spec(module, name, workspace, calls=calls, labels=self._labels)
        try:
            return Slot(self._runtime, await self._create(spec), workspace, secret=secret, api=self._api)
        except BaseException:
            await uninterrupted(self._clean(None, name, workspace), within=CLEAN_WITHIN + 5.0)
            raise

    async def _create(self, spec: ContainerSpec) -> ContainerRef:
        try:
            return await self._runtime.create(spec)
        except ContainerNotFound as error:  # somebody has removed it in the midst of this
            raise TransientError(f"{GONE_BEFORE}: {error}") from error

    async def _end(self, slot: Slot) -> None:
        """Of one whose module waits: it is told, and may end by itself."""
        try:
            await slot.dismiss(within=END_WITHIN)
            await slot.stop(grace=END_WITHIN)
            if said := await slot.output():  # belongs to no attempt
                log.info("a module's last words", extra={"moduleName": self._module.name, "lines": said})
        except ProviderError as error:
            log.warning("a module that waited for events was not stopped: %s", error, extra={"slot": slot.ref.name})
        await self._close(slot)

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
        said = await self._handler.failed.keep(slot.workspace, attempt, reason, most=most)
        slot.log += [said] if said else []

    async def _remove_half_made(self, name: str) -> None:
        """The container of a ``create`` that failed or was cancelled, which may have made it all the same."""
        for status in await self._runtime.find(self._labels):
            if status.ref.name == name:
                await self._runtime.remove(status.ref)
