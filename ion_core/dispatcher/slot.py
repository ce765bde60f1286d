"""One slot: a workspace, a container that sees it, and the calls its module may make."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from ion_core.contracts.runtime import ContainerRef, ContainerRuntime, ExitStatus
from ion_core.dispatcher.bounded import begun
from ion_core.errors import (
    ContainerNotFound,
    HandlerUnreachable,
    IonError,
    PermanentError,
    ProviderError,
    TransientError,
)
from ion_core.handler import HandlerApi, Session, Workspace
from ion_core.jobs import Attempt

log = logging.getLogger(__name__)

NEXT_WITHIN = 30.0
"""Seconds in which a module that committed has to ask for its next event, once there is one."""

GONE_BEFORE = "a container is gone before it ran"
"""Somebody has removed it: that says nothing of the event, which is given out again."""


@dataclass(frozen=True)
class Failed:
    """The attempt that a slot was used for, and why it failed."""

    attempt: Attempt
    reason: str


class Slot:
    """Used for one attempt, or for one after the other where the module asks for more.

    ``is_warm`` if it was made ahead of its event, ``is_kept`` if its module goes on after this attempt. ``failed``,
    set before it is closed, has the workspace kept; ``log`` then says what became of that.
    """

    def __init__(
        self, runtime: ContainerRuntime, ref: ContainerRef, workspace: Workspace, *, secret: str, api: HandlerApi
    ) -> None:
        self._runtime = runtime
        self._secret = secret
        self._api = api
        self._listening: asyncio.Task[asyncio.Server | None] | None = None
        self._ending: asyncio.Task[ExitStatus] | None = None
        self._unreachable: IonError | None = None
        self._happened: asyncio.Future[None] | None = None
        """Done once its container has ended, or its module has called; of whoever waits for that, if anybody does."""
        self._told = 0
        self.printed = 0
        """Characters that its module has printed so far, as far as ``output`` saw them."""
        self.ref = ref
        self.workspace = workspace
        self.session = Session(self._tell)
        self.is_warm = False
        self.is_kept = False
        self.failed: Failed | None = None
        self.log: list[str] = []
        self.made_at = asyncio.get_running_loop().time()
        api.register(secret, self.session)

    @property
    def inputs_read_only(self) -> bool:
        return self._runtime.capabilities.inputs_read_only

    @property
    def is_started(self) -> bool:
        return self._ending is not None

    async def start(self) -> None:
        """Nothing if its module runs already."""
        if self._ending is not None:
            return
        self._listening = begun(self._listen(), name="listen for a container")
        try:
            await self._runtime.start(self.ref)
        except ContainerNotFound as error:
            raise TransientError(f"{GONE_BEFORE}: {error}") from error
        self._ending = begun(self._runtime.wait(self.ref), name="end of a container")
        self._ending.add_done_callback(self._tell)

    async def until_end_or_call(self) -> ExitStatus | None:
        """How it ended; None once its module has called ``/ready`` or ``/done`` and waits for the answer.

        Raises ModuleFailed where the module could not call its handler, TransientError where that is not known yet,
        ContainerNotFound where somebody has removed its container.
        """
        assert self._ending is not None, "start it first"
        session = self.session
        while not self._ending.done() and not session.filling and not session.committing:
            if self._unreachable is not None:
                raise self._unreachable
            await self._something()
        return None if session.filling or session.committing else self._ending.result()

    async def until_waiting(self) -> bool:
        """Whether its module waits for another event, as it should before long."""
        assert self._ending is not None, "start it first"
        try:
            async with asyncio.timeout(NEXT_WITHIN):
                while not self._ending.done() and not self.session.waiting:
                    await self._something()
        except TimeoutError:
            log.warning("a module did not call /ready again in %.0f s", NEXT_WITHIN, extra={"slot": self.ref.name})
            return False
        return not self._ending.done()

    async def _something(self) -> None:
        """Until it ends, or its module calls."""
        self._happened = asyncio.get_running_loop().create_future()
        await self._happened

    def _tell(self, _: object = None) -> None:
        if self._happened is not None and not self._happened.done():
            self._happened.set_result(None)

    async def dismiss(self, *, within: timedelta) -> None:
        """No more events: a module that asks for one is told so, and may end by itself."""
        self.session.close()
        if self._ending is not None:
            await asyncio.wait({self._ending}, timeout=within.total_seconds())

    async def stop(self, *, grace: timedelta) -> None:
        """Returns once nothing of the module runs any more."""
        await self._runtime.stop(self.ref, grace=grace)

    async def output(self) -> list[str]:
        """What the module printed since this was asked last, without the slot's secret should it have printed that."""
        try:
            lines = [line.text async for line in self._runtime.logs(self.ref)]
        except ContainerNotFound as error:
            return [f"[… output is lost from here on: {error} …]"]
        new, self._told = lines[self._told :], len(lines)
        self.printed += sum(len(line) + 1 for line in new)
        return [self._without_secret(line) for line in new]

    async def follow(self) -> AsyncIterator[str]:
        """What the module prints from this attempt on, as it comes, until its container ends."""
        skipped = self._told
        async for line in self._runtime.logs(self.ref, follow=True):
            if skipped:
                skipped -= 1
            else:
                yield self._without_secret(line.text)

    def _without_secret(self, text: str) -> str:
        return text.replace(self._secret, "********")

    async def remove(self) -> None:
        """Remove the container, stopping it first if it runs: its calls end. Idempotent."""
        self.session.close()
        self._api.unregister(self._secret)
        for task in (self._listening, self._ending):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait({task})
        if self._ending is not None and not self._ending.cancelled():
            self._ending.exception()  # seen: perhaps nobody waited
        if self._listening is not None and not self._listening.cancelled():
            server = self._listening.result()
            if server is not None:
                server.close()
        await self._runtime.remove(self.ref)

    async def _listen(self) -> asyncio.Server | None:
        """Where the container has a loopback interface of its own: be there.

        Whether a module is about to call cannot be known, and one that waits for its handler in vain would wait until
        its timeout. So where that cannot be reached the attempt has failed.
        """
        try:
            inside = await self._runtime.listen(self.ref, self._api.port)
        except ContainerNotFound:
            return None
        except PermanentError as error:
            self._cannot_be_called(HandlerUnreachable(f"a module cannot call its handler: {error}"))
            return None
        except ProviderError as error:
            self._cannot_be_called(error)
            return None
        return None if inside is None else await self._api.serve(inside)

    def _cannot_be_called(self, why: IonError) -> None:
        self._unreachable = why
        self._tell()
