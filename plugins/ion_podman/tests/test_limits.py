"""Which limit ended a container: what is counted is named, and nothing is guessed, also where the count is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
import uuid
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ion_core.containers.limits import ControlGroup, Hits
from ion_core.containers.scope import Counter, Scope
from ion_core.contracts.runtime import ContainerRuntime, ExitStatus, Resources
from ion_podman import container
from tests.containers.running import PATIENCE, run

MIB = 1024**2
EATS = "x=0123456789abcdef; while :; do x=$x$x; done"
_PLACES = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_UNIFIED = next((place for place in _PLACES if (place / "cgroup.procs").exists()), None)


class VersionTwo:
    """A control group as systemd makes one: a scope, with the container one level further down as crun has it."""

    def __init__(self, directory: Path) -> None:
        self.scope = directory / "machine.slice/libpod-1.scope"
        self.inner = self.scope / "container"
        self.inner.mkdir(parents=True)
        self.group = ControlGroup({"": self.inner})
        self.count()

    def count(self, *, oom_kill: int = 0, pids: int = 0, oom: int = 1) -> None:
        """The kernel counts kills for want of memory in both, and what the limit refused where the limit is."""
        for place in (self.scope, self.inner):
            met = oom if oom_kill and place is self.scope else 0
            (place / "memory.events").write_text(f"low 0\nhigh 0\nmax 7\noom {met}\noom_kill {oom_kill}\n")
            (place / "pids.events").write_text(f"max {pids if place is self.scope else 0}\n")

    def vanish(self) -> None:
        """As its last process ends. What was open is removed too, which a directory on a disk does not show."""
        for file in (*self.scope.glob("*.events"), *self.inner.glob("*.events")):
            file.write_text("")
        shutil.rmtree(self.scope)


@pytest.fixture
def scope(tmp_path: Path) -> VersionTwo:
    return VersionTwo(tmp_path)


async def test_what_was_counted_is_known_while_the_scope_is_there(scope: VersionTwo) -> None:
    watched = Scope(scope.group)
    watched.watch()
    assert watched.hits() == Hits(memory=0, pids=0)
    scope.count(oom_kill=1, pids=3)
    assert watched.hits() == Hits(memory=1, pids=3), "also where it is counted one level further up"
    scope.vanish()
    assert watched.hits() == Hits(memory=1, pids=3)
    watched.close()


async def test_a_kill_of_a_machine_that_runs_out_of_memory_is_not_of_the_limit(scope: VersionTwo) -> None:
    """It is counted by the group as well, whose own limit was never met."""
    watched = Scope(scope.group)
    watched.watch()
    scope.count(oom_kill=1, oom=0)
    assert watched.hits() == Hits(memory=0, pids=0)
    scope.vanish()
    assert watched.hits().memory == 0
    watched.close()


async def test_of_a_scope_that_vanished_unseen_nothing_is_known(scope: VersionTwo) -> None:
    """Files on a disk tell of no change, as some kernels' of version 1 do not: their silence says nothing."""
    watched = Scope(scope.group)
    watched.watch()
    scope.count(oom_kill=1)
    scope.vanish()
    assert watched.hits() == Hits(memory=None, pids=None)
    watched.close()


async def test_silence_of_a_kernel_that_tells_of_changes_is_none(scope: VersionTwo) -> None:
    for changed, count in ((False, 0), (True, None)):
        file = scope.inner / "memory.events"
        counter = Counter(file, "oom_kill")
        counter.told = True
        if changed:
            counter.changed()  # and what came after that was not to be seen any more
        content = file.read_text()
        file.write_text("")
        assert counter.count() == count
        file.write_text(content)


@pytest.fixture
def real_group() -> Iterator[Path]:
    if _UNIFIED is None or not os.access(_UNIFIED, os.W_OK):
        pytest.skip("no control groups of version 2 that may be written to")
    group = _UNIFIED / f"ion-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    yield group
    with contextlib.suppress(FileNotFoundError):
        group.rmdir()


async def test_the_kernel_tells_of_changes_before_a_group_is_gone(
    real_group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``populated`` stands for a count: it is told of in the same way, on every machine."""
    monkeypatch.setattr(ControlGroup, "event_files", lambda group, what: [real_group / "cgroup.events"])
    monkeypatch.setattr("ion_core.containers.scope.MEMORY", "populated")
    monkeypatch.setattr("ion_core.containers.scope.PIDS", "frozen")
    watched = Scope(ControlGroup({"": real_group}))
    watched.watch()
    script = f"echo $$ > {real_group}/cgroup.procs; echo in; read line; echo $$ > {real_group.parent}/cgroup.procs"
    inside = await asyncio.create_subprocess_exec("sh", "-c", script, stdin=PIPE, stdout=PIPE)
    assert inside.stdin is not None
    assert inside.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await inside.stdout.readline() == b"in\n"
        while not watched._memory[0]._highest:  # noqa: ASYNC110 only the kernel tells the event loop
            await asyncio.sleep(0.01)
        inside.stdin.write(b"\n")
        await inside.wait()
    await asyncio.to_thread(until_gone, real_group)
    assert watched.hits() == Hits(memory=1, pids=None), "what changed last in a file that is gone cannot be known"
    watched.close()


async def test_a_group_of_which_the_kernel_told_nothing_counted_nothing(real_group: Path) -> None:
    counter = Counter(real_group / "cgroup.events", "frozen")
    watched = Scope(ControlGroup({}))
    watched._memory = [counter]
    counter.told = True
    await asyncio.to_thread(until_gone, real_group)
    assert watched.hits().memory == 0
    watched.close()


def until_gone(group: Path) -> None:
    """Its last process may still be on its way out."""
    deadline = time.monotonic() + PATIENCE
    while group.exists():
        assert time.monotonic() < deadline, f"{group} stays"
        with contextlib.suppress(OSError):
            group.rmdir()
        time.sleep(0.01)


def without_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under systemd: the control group is gone before anybody has looked."""
    monkeypatch.setattr(Scope, "hits", lambda scope: Hits())


def says_oom_killed(monkeypatch: pytest.MonkeyPatch, *, killed: bool) -> None:
    asked = container.last_state

    async def says(*args: Any) -> Any:
        return {**await asked(*args), "OOMKilled": killed}

    monkeypatch.setattr(container, "last_state", says)


async def test_a_kill_without_a_count_is_no_limit(
    runtime: ContainerRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_counts(monkeypatch)
    says_oom_killed(monkeypatch, killed=False)
    assert (await run(runtime, tmp_path, "sh -c 'kill -9 $$'; exit $?")).status == ExitStatus(code=137, signal=9)
    assert (await run(runtime, tmp_path, "exit 0")).status == ExitStatus(code=0)


async def test_podmans_own_word_counts_where_the_count_is_gone(
    runtime: ContainerRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_counts(monkeypatch)
    says_oom_killed(monkeypatch, killed=True)
    limit = "memory 32 MiB"
    given = Resources(memory=32 * MIB)
    for script, code in ((f"sh -c '{EATS}'; exit 3", 3), (f"sh -c '{EATS}'; exit 0", 0)):
        assert (await run(runtime, tmp_path, script, resources=given)).status == ExitStatus(code=code, limit=limit)


async def test_a_count_that_is_there_needs_no_word_of_podman(
    runtime: ContainerRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says_oom_killed(monkeypatch, killed=True)
    assert (await run(runtime, tmp_path, "exit 3")).status == ExitStatus(code=3)
