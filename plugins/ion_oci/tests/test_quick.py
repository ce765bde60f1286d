"""Starting and deleting goes without the OCI runtime's commands, and with them where that does not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ion_core.containers.limits import ControlGroup
from ion_core.contracts.runtime import ContainerState
from ion_oci import quick
from ion_oci.oci import Oci
from ion_oci.programs import Ended
from ion_oci.runtime import OciRuntime
from tests.containers.running import PATIENCE, finished, run, said, spec, started
from tests.support.containers import OciUnderTest


async def test_no_command_is_run_to_start_or_to_delete(
    runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    async def asked(self: Oci, verb: str, *arguments: str) -> Ended:
        ran.append(verb)
        return Ended(1, "", "not now")

    monkeypatch.setattr(Oci, "_run", asked)
    assert (await run(runtime, tmp_path, "echo ran; exit 3")).stdout == ["ran"]
    assert ran == []
    assert [*(tested.directory / "state").iterdir()] == []


async def test_where_that_is_not_to_be_had_the_commands_are(
    runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cannot(notes: Path, ended: asyncio.Future[None]) -> bool:
        return False

    monkeypatch.setattr(quick, "start", cannot)
    monkeypatch.setattr(quick, "delete", lambda *_: False)
    job = spec(tmp_path, "echo ran; exit 3")
    async with started(runtime, job) as ref:
        ran = await finished(runtime, ref, job.workspace)
    assert (ran.status.code, ran.stdout) == (3, ["ran"])
    assert [*(tested.directory / "state").iterdir()] == []


async def test_others_see_that_it_runs(runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path) -> None:
    job = spec(tmp_path, "echo up; sleep 100")
    async with started(runtime, job) as ref:
        await said(runtime, ref, "up")
        assert ref.id in await asyncio.to_thread(tested.in_state, "running")
        assert (await runtime.find(job.labels))[0].state is ContainerState.RUNNING


async def test_a_container_that_ended_first_is_not_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "exec.fifo")
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    starting = asyncio.create_task(quick.start(tmp_path, ended))
    await asyncio.sleep(0)
    ended.set_result(None)
    async with asyncio.timeout(PATIENCE):
        assert not await starting
    (tmp_path / "exec.fifo").unlink()
    assert not await quick.start(tmp_path, ended)


def test_only_groups_of_its_own_are_removed(tmp_path: Path) -> None:
    own, shared = tmp_path / "pids/ion-oci/id", tmp_path / "cpuset"
    notes = tmp_path / "notes"
    for path in (own, shared, notes):
        path.mkdir(parents=True)
    assert quick.delete(notes, ControlGroup({"pids": own, "cpuset": shared}), "id")
    assert (own.exists(), shared.exists(), notes.exists()) == (False, True, False)
    own.mkdir()
    (own / "busy").touch()
    notes.mkdir()
    assert not quick.delete(notes, ControlGroup({"pids": own}), "id"), "what still has processes is not removed"
    assert notes.exists()
