"""Steps 1 and 3 of jobs in memory: the handler itself, on a data plane that is there already."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from ion_core.cli.alone.handler_exit import handler_exit
from ion_core.contracts.executor import StepResult, Ticket
from ion_core.dataplane import DataPlane
from ion_core.embedded.memory.executor import StepEnd
from ion_core.errors import IonError
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.ticketed import commit_ticket, prepare_ticket
from ion_core.modules import Module


class DataPlaneSteps:
    """``settings`` tell the module; where the stores are, the data plane knows."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    async def prepare(self, settings: bytes, ticket: Ticket, workspace: Path, say: Callable[[str], None]) -> StepEnd:
        return await _told(prepare_ticket(self._dataplane, ticket, GivenWorkspace(workspace)), say)

    async def commit(self, settings: bytes, ticket: Ticket, workspace: Path, say: Callable[[str], None]) -> StepEnd:
        publishes = json.loads(settings)["modules"][ticket.module]["publishes"]
        module = Module(name=ticket.module, publishes=tuple(publishes))

        async def lines() -> list[str]:
            return (await commit_ticket(self._dataplane, ticket, module, GivenWorkspace(workspace))).lines

        return await _told(lines(), say)


async def _told(work: Awaitable[list[str]], say: Callable[[str], None]) -> StepEnd:
    """As a process of its own tells of it: its lines, and by the exit code of the error, which it says too."""
    try:
        lines = await work
    except IonError as error:
        say(str(error))
        return StepEnd(exit=handler_exit(error), result=StepResult(reasons=[str(error)]))
    for line in lines:
        say(line)
    return StepEnd()
