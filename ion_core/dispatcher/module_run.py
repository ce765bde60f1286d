"""S3 to S9 where containers share our directories: an attempt in a slot of its module's runtime."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

from ion_core import crash
from ion_core.commits import Commit
from ion_core.contracts.looking import SlotsView
from ion_core.contracts.runtime import ExitStatus
from ion_core.dispatcher.attempt_log import AttemptLog
from ion_core.dispatcher.health import Health
from ion_core.dispatcher.running import RunningAttempts
from ion_core.dispatcher.slot import Failed, Slot
from ion_core.dispatcher.slots import Slots
from ion_core.dispatcher.surroundings import Surroundings
from ion_core.dispatcher.trouble import Stage
from ion_core.errors import (
    CannotBeExecuted,
    ContainerNotFound,
    ContainerRemoved,
    ModuleFailed,
    OutputRefused,
    PermanentError,
    TransientError,
)
from ion_core.handler import Committed, Handler
from ion_core.jobs import Attempt
from ion_core.modules import Module

log = logging.getLogger(__name__)

NOT_WORTH_RETRYING = {126: "the command cannot be executed", 127: "the command was not found"}


class InSlots:
    """The place of jobs whose module's runtime starts containers here."""

    def __init__(self, module: Module, slots: Slots, around: Surroundings) -> None:
        self._module = module
        self._slots = slots
        self._around = around

    @property
    def slots(self) -> SlotsView:
        return self._slots.view

    async def fetch(self, attempt: Attempt, commit: Commit, record: AttemptLog) -> bool:
        return False  # a container of ours ends with us

    async def holds(self, attempt: Attempt) -> bool:
        return False  # containers end with us

    async def keep(self, stop: asyncio.Event) -> None:
        await self._slots.keep(stop)

    async def committed(self, attempt: Attempt, record: AttemptLog, stack: AsyncExitStack) -> Committed:
        record.progress.reaches(Stage.SLOT)
        slot = await stack.enter_async_context(self._slots.take())
        crash.reached("S3")
        try:
            run = ModuleRun(
                attempt=attempt,
                module=self._module,
                slot=slot,
                record=record,
                handler=self._around.handler,
                health=self._around.health,
                running=self._around.running,
                grace=self._around.grace,
                traceparent=self._around.traceparent(attempt),
            )
            committed = await run.committed()
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, TransientError):
                slot.failed = Failed(attempt, self._around.hide(str(error)))
            await stack.aclose()  # gone before anybody can be given the event again
            record.committer += slot.log
            raise
        if slot.is_kept:
            await stack.aclose()  # to be found by the next event
        return committed


@dataclass(frozen=True, kw_only=True)
class ModuleRun:
    """S4 to S9: one attempt in its slot. ``record`` is told what happens; ``grace`` is between SIGTERM and SIGKILL.

    ``traceparent`` is what the module is told of the trace that it is part of; '' for nothing.
    """

    attempt: Attempt
    module: Module
    slot: Slot
    record: AttemptLog
    handler: Handler
    health: Health
    running: RunningAttempts
    grace: timedelta
    traceparent: str = ""

    async def committed(self) -> Committed:
        """Prepare, run, commit. What goes wrong is the exception's class."""
        await self._prepare()
        with self.record.step("module"), self.running.running(self.attempt, self.slot):
            ended = await self._run()
        if isinstance(ended, Committed):
            return ended
        if ended is not None:
            await self.health.check_space()  # then it was no fault of the module
            raise ended
        with self.record.step("commit"):
            return await self._commit()

    async def _prepare(self) -> None:
        """S4: inputs into the workspace."""
        slot, record = self.slot, self.record
        record.progress.reaches(Stage.PREPARE)
        with record.step("prepare"):
            record.preparer += await self.handler.prepare(
                self.attempt, slot.workspace, link=slot.inputs_read_only, traceparent=self.traceparent
            )
        slot.session.prepared()

    async def _run(self) -> Committed | ModuleFailed | PermanentError | None:
        """S5 to S7; returns what is wrong with how the module ended, or the commit that it asked for itself.

        Nothing of it runs when this returns, unless the slot is kept.
        """
        slot, record = self.slot, self.record
        record.progress.reaches(Stage.MODULE)
        timeout = self.module.timeout.total_seconds()
        goes_on = slot.is_started
        await slot.start()
        crash.reached("S5")
        status: ExitStatus | None = None
        committed: Committed | None = None
        unreachable: ModuleFailed | None = None
        try:
            async with asyncio.timeout(timeout) as limit:
                while status is None and not slot.is_kept:
                    status = await slot.until_end_or_call()
                    if status is None:
                        until = limit.when()
                        limit.reschedule(None)  # a commit is not cut short, it decides by itself
                        if slot.session.filling:
                            await self._fill_when_asked()
                        else:
                            committed = await self._commit_when_asked()
                        limit.reschedule(until)
        except TimeoutError:
            if not limit.expired():
                raise
            await slot.stop(grace=self.grace)
        except ModuleFailed as error:  # it runs, and waits for its handler in vain
            unreachable = error
            await slot.stop(grace=self.grace)
        except ContainerNotFound as error:  # somebody has removed it, which says nothing of the event
            if goes_on and committed is None and not slot.session.taken:
                raise TransientError(f"the module that was given a further event is gone: {error}") from error
            unreachable = ContainerRemoved(f"its container was removed while it ran: {error}")
        if goes_on and status is not None and committed is None and (status.code == 0 or not slot.session.taken):
            # Whether it ever heard of this event nobody can know: its connection may have ended with the answer.
            raise TransientError("the module that was given a further event ended without /done")
        crash.reached("S6")
        record.worker += await slot.output()
        crash.reached("S7")
        timed_out = f"timed out after {timeout:g} s (modules.{self.module.name}.timeout)"
        failure = unreachable or (ModuleFailed(timed_out) if status is None else judge(status, self.module))
        if status is not None and status.code == 0 and status.limit is not None:
            log.warning("a process of the module was killed (limit: %s)", status.limit, extra=record.fields)
            if failure is None:
                record.committer.append(f"a process of the module was killed (limit: {status.limit}); it exited with 0")
        if committed is None:
            return failure
        if failure is not None and not slot.is_kept:
            record.committer.append(f"after its commit the module did not end well: {failure}")
        return committed

    async def _fill_when_asked(self) -> None:
        """S4 once more, for a module that waits in ``/ready`` and may have cleared its workspace before."""
        slot, record = self.slot, self.record
        why_not = ""
        try:
            record.preparer += await self.handler.put_back(
                self.attempt, slot.workspace, link=slot.inputs_read_only, traceparent=self.traceparent
            )
        except OutputRefused as error:
            why_not = str(error)
            record.preparer.append(f"/ready was refused: {error}")
        slot.session.answer_filled(why_not)

    async def _commit(self) -> Committed:
        """S8 and S9, once nothing of the module runs."""
        slot, record = self.slot, self.record
        record.progress.reaches(Stage.COMMIT)
        committed = await self.handler.commit(
            self.attempt, self.module, slot.workspace, image=slot.ref.image_digest, started_at=record.started_at
        )
        record.committer += committed.lines
        return committed

    async def _commit_when_asked(self) -> Committed | None:
        """S8 and S9, while the module waits in ``/done``; None if what it left is refused, which it is told."""
        attempt, slot, record = self.attempt, self.slot, self.record
        record.progress.reaches(Stage.COMMIT)
        try:
            committed = await self.handler.commit_running(
                attempt, self.module, slot.workspace, image=slot.ref.image_digest, started_at=record.started_at
            )
        except OutputRefused as error:
            record.committer.append(f"/done was refused: {error}")
            slot.session.answer_failed(str(error))
            record.progress.reaches(Stage.MODULE)
            return None
        record.progress.reaches(Stage.MODULE)
        record.committer += committed.lines
        slot.is_kept = self.module.reuse
        slot.session.answer_committed(more=slot.is_kept)
        return committed


def judge(status: ExitStatus, module: Module) -> ModuleFailed | PermanentError | None:
    """What an exit status means for the job."""
    if status.code == 0:
        if status.limit is None or module.oom == "warn":
            return None
        return ModuleFailed(
            f"a process of it was killed (limit: {status.limit}), though it exited with 0. Raise "
            f"modules.{module.name}.resources.memory; with modules.{module.name}.oom: warn what it left is committed"
        )
    limit = f" (limit: {status.limit})" if status.limit else ""
    if status.signal is not None:
        return ModuleFailed(f"killed by signal {status.signal}{limit}")
    if status.code in NOT_WORTH_RETRYING:
        return CannotBeExecuted(f"exit code {status.code}: {NOT_WORTH_RETRYING[status.code]}")
    return ModuleFailed(f"exit code {status.code}{limit}")
