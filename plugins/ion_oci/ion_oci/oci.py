"""The OCI runtime's own commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ion_core.contracts.runtime import ContainerState
from ion_core.errors import TransientError
from ion_oci.host import Tools
from ion_oci.programs import Ended, run
from ion_oci.refusals import said_of

_STATES = {"created": ContainerState.CREATED, "running": ContainerState.RUNNING, "paused": ContainerState.RUNNING}
_GONE = ("does not exist", "no such container", "no such file or directory")


@dataclass(frozen=True)
class Oci:
    """``state`` is where it keeps its notes, ``timeout`` in seconds is for one command.

    ``conmons`` is the control group for those that hold its containers.
    """

    tools: Tools
    state: Path
    timeout: float
    conmons: Path | None = None

    async def start(self, id: str) -> Ended:
        return await self._run("start", id)

    async def delete(self, id: str) -> None:
        """Fine if it is gone; what of it still runs is killed. Raises TransientError."""
        said = await self._run("delete", id)
        if said.code and not _is_gone(said):
            said = await self._run("delete", "--force", id)
        if said.code and not _is_gone(said):
            raise TransientError(f"{Path(self.tools.oci).name}: delete: {said_of('', said.stderr)}")

    async def kill(self, id: str, signal: str) -> None:
        """Fine if it does not run."""
        await self._run("kill", id, signal)

    async def states(self) -> Mapping[str, ContainerState]:
        """Of all that it knows, by their ids."""
        said = await self._run("list", "--format", "json")
        if said.code:
            raise TransientError(f"{Path(self.tools.oci).name}: list: {said_of('', said.stderr)}")
        listed = json.loads(said.stdout or "null") or ()
        return {it["id"]: _STATES.get(it["status"], ContainerState.EXITED) for it in listed}

    async def _run(self, verb: str, *arguments: str) -> Ended:
        argv = [self.tools.oci, f"--root={self.state}", verb, *arguments]
        return await run(argv, timeout=self.timeout, env={})


def _is_gone(said: Ended) -> bool:
    return any(sign in said.stderr for sign in _GONE)
