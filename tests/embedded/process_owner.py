"""A process that runs one command under the process runtime until it is killed; ``test_process_runtime`` starts it.

Arguments: directory of the runtime, workspace, isolation, ``noted`` or ``unnoted``, and the command.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from ion_core.contracts.runtime import ContainerSpec
from ion_core.embedded.process.notes import ContainerNotes
from ion_core.embedded.process.runtime import open_process_runtime
from ion_core.embedded.programs.table import ProcessId
from ion_core.embedded.settings import ProcessSettings


def die(notes: ContainerNotes, name: str, process: ProcessId) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(run: str, workspace: str, isolation: str, noted: str, *command: str) -> None:
    if noted == "unnoted":  # killed between starting a process and noting its number
        ContainerNotes.started = die  # type: ignore[assignment, method-assign]
    settings = ProcessSettings.model_validate({"path": run, "isolation": isolation})
    async with open_process_runtime(settings) as runtime:
        spec = ContainerSpec(name="orphan", command=command, workspace=Path(workspace), labels={"of": "the dead"})
        ref = await runtime.create(spec)
        await runtime.start(ref)
        async for line in runtime.logs(ref, follow=True):
            print(line.text, flush=True)


asyncio.run(main(*sys.argv[1:]))
