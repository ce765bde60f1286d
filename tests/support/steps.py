"""Steps 1 and 3 of jobs in memory: the handler itself, on a data plane that is there already."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ion_core.contracts.executor import HandlerExit, Ticket
from ion_core.dataplane import DataPlane
from ion_core.embedded.memory.executor import StepResult
from ion_core.errors import ConfigError, OutputRefused, StorageFull, TransientError
from ion_core.handler.committer import Committer
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.preparer import Preparer
from ion_core.jobs import Attempt, Job
from ion_core.modules import Module


class DataPlaneSteps:
    """``settings`` tell the module; where the stores are, the data plane knows."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    async def prepare(self, settings: bytes, ticket: Ticket, workspace: Path, say: Callable[[str], None]) -> StepResult:
        async def work() -> StepResult:
            event = await self._dataplane.accepted(ticket.event_id)
            if event is None:
                why = f"event {ticket.event_id[:80]!r}: is not stored."
                return _failed(HandlerExit.NO_EVENT, why)
            given = GivenWorkspace(workspace)
            given.clear()
            for line in await Preparer(self._dataplane).prepare(event, given, link=False):
                say(line)
            return StepResult()

        return await _told(work, say)

    async def commit(self, settings: bytes, ticket: Ticket, workspace: Path, say: Callable[[str], None]) -> StepResult:
        async def work() -> StepResult:
            event = await self._dataplane.accepted(ticket.event_id)
            assert event is not None, "it was prepared"
            job = Job(event=event, module=ticket.module)
            if await self._dataplane.committed(job.id) is not None:
                say("had committed already: this changes nothing")
                return StepResult()
            publishes = json.loads(settings)["modules"][ticket.module]["publishes"]
            committed = await Committer(self._dataplane).commit(
                Attempt(job=job, number=ticket.attempt, token=ticket.token),
                Module(name=ticket.module, publishes=tuple(publishes)),
                GivenWorkspace(workspace),
                image=ticket.image,
                started_at=ticket.started_at,
            )
            for line in committed.lines:
                say(line)
            return StepResult()

        return await _told(work, say)


async def _told(work: Callable[[], object], say: Callable[[str], None]) -> StepResult:
    """Its result, or the exit code by which a process would tell of the error, which it says too."""
    try:
        return await work()  # type: ignore[misc, no-any-return]
    except OutputRefused as error:
        result = _failed(HandlerExit.OUTPUT_REFUSED, str(error))
    except StorageFull as error:
        result = _failed(HandlerExit.FULL, str(error))
    except TransientError as error:
        result = _failed(HandlerExit.AWAY, str(error))
    except ConfigError as error:
        result = _failed(HandlerExit.CONFIGURATION, str(error))
    say(result.reasons[0])
    return result


def _failed(code: HandlerExit, why: str) -> StepResult:
    return StepResult(exit=code, reasons=(why,))
