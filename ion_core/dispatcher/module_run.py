"""One attempt in its slot: prepare, run the module, commit; steps S4 to S9 of ``docs/delivery.md``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from ion_core import crash
from ion_core.contracts.runtime import ExitStatus
from ion_core.dispatcher.attempt_log import AttemptLog
from ion_core.dispatcher.health import Health
from ion_core.dispatcher.running import RunningAttempts
from ion_core.dispatcher.slot import Slot
from ion_core.errors import ModuleFailed, OutputRefused, PermanentError, TransientError
from ion_core.handler import Committed, Handler
from ion_core.jobs import Attempt, Module

NOT_WORTH_RETRYING = {126: "the command cannot be executed", 127: "the command was not found"}


@dataclass(frozen=True, kw_only=True)
class ModuleRun:
    """``record`` is told what happens. ``grace`` is between SIGTERM and SIGKILL."""

    attempt: Attempt
    module: Module
    slot: Slot
    record: AttemptLog
    handler: Handler
    health: Health
    running: RunningAttempts
    grace: timedelta

    async def committed(self) -> Committed:
        """Prepare, run, commit. What goes wrong is the exception's class."""
        attempt, slot, record = self.attempt, self.slot, self.record
        handler = self.handler
        with record.step("prepare"):
            link = self.slot.inputs_read_only
            record.preparer += await handler.prepare(attempt, slot.workspace, link=link)
        slot.session.prepared()
        with record.step("module"), self.running.running(attempt, slot):
            ended = await self._run_module()
        if isinstance(ended, Committed):
            return ended
        if ended is not None:
            await self.health.check_space()  # then it was no fault of the module
            raise ended
        with record.step("commit"):
            committed = await handler.commit(
                attempt, self.module, slot.workspace, image=slot.ref.image_digest, started_at=record.started_at
            )
            record.committer += committed.lines
        return committed

    async def _run_module(self) -> Committed | ModuleFailed | PermanentError | None:
        """S5 to S7; returns what is wrong with how the module ended, or the commit that it asked for itself.

        Nothing of it runs when this returns, unless the slot is kept.
        """
        slot, record = self.slot, self.record
        timeout = self.module.timeout.total_seconds()
        goes_on = slot.is_started
        await slot.start()
        crash.reached("S5")
        status: ExitStatus | None = None
        committed: Committed | None = None
        try:
            async with asyncio.timeout(timeout) as limit:
                while status is None and not slot.is_kept:
                    status = await slot.until_end_or_done()
                    if status is None:
                        until = limit.when()
                        limit.reschedule(None)  # a commit is not cut short, it decides by itself
                        committed = await self._commit_when_asked()
                        limit.reschedule(until)
        except TimeoutError:
            if not limit.expired():
                raise
            await slot.stop(grace=self.grace)
        if goes_on and status is not None and committed is None and (status.code == 0 or not slot.session.taken):
            # Whether it ever heard of this event nobody can know: its connection may have ended with the answer.
            raise TransientError("the module that was given a further event ended without /done")
        crash.reached("S6")
        record.worker += await slot.output()
        crash.reached("S7")
        timed_out = f"timed out after {timeout:g} s (modules.{self.module.name}.timeout)"
        failure = ModuleFailed(timed_out) if status is None else _judge(status)
        if committed is None:
            return failure
        if failure is not None and not slot.is_kept:
            record.committer.append(f"after its commit the module did not end well: {failure}")
        return committed

    async def _commit_when_asked(self) -> Committed | None:
        """S8 and S9, while the module waits in ``/done``; None if what it left is refused, which it is told."""
        attempt, slot, record = self.attempt, self.slot, self.record
        try:
            committed = await self.handler.commit_running(
                attempt, self.module, slot.workspace, image=slot.ref.image_digest, started_at=record.started_at
            )
        except OutputRefused as error:
            record.committer.append(f"/done was refused: {error}")
            slot.session.answer_failed(str(error))
            return None
        record.committer += committed.lines
        slot.is_kept = self.module.reuse
        slot.session.answer_committed(more=slot.is_kept)
        return committed


def _judge(status: ExitStatus) -> ModuleFailed | PermanentError | None:
    """What an exit status means for the job."""
    if status.code == 0:
        return None
    limit = f" (limit: {status.limit})" if status.limit else ""
    if status.signal is not None:
        return ModuleFailed(f"killed by signal {status.signal}{limit}")
    if status.code in NOT_WORTH_RETRYING:
        return PermanentError(f"exit code {status.code}: {NOT_WORTH_RETRYING[status.code]}")
    return ModuleFailed(f"exit code {status.code}{limit}")
