"""The process that supervisors are forked from: who may die when, and what that costs."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import pytest

from ion_core.contracts.executor import Cause, JobRef, JobState, Step
from ion_core.embedded.jobs import fork_server, forking, layout
from ion_core.embedded.programs import ends, table
from ion_core.errors import TransientError
from tests.embedded.test_subprocess_executor import HANGS, SOON, TICKET, Place, held, place_at, running

SERVING = Path(__file__).with_name("job_server.py")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with place_at(tmp_path) as made:
        yield made


async def server_of(place: Place, ref: JobRef) -> int:
    """What the supervisor of that job was forked from."""
    return parent((await place.supervisor(ref)).pid)


def parent(pid: int) -> int:
    said = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in said.splitlines() if line.startswith("PPid:")))


def is_there(pid: int) -> bool:
    """Also one that has ended and was not waited for."""
    return Path(f"/proc/{pid}").exists()


async def gone(pid: int) -> None:
    async with asyncio.timeout(SOON):
        await ends.ended(pid)


async def test_jobs_side_by_side_are_forked_from_one_process(place: Place) -> None:
    refs = [await place.started(HANGS, name=name) for name in ("a", "b", "c")]
    servers = {await server_of(place, ref) for ref in refs}
    assert len(servers) == 1
    assert servers.isdisjoint({os.getpid(), 1})
    sessions = {os.getsid((await place.supervisor(ref)).pid) for ref in refs}
    assert sessions == {(await place.supervisor(ref)).pid for ref in refs}, "each leads a session of its own"


async def test_a_job_goes_on_when_it_is_killed_and_the_next_one_starts(place: Place) -> None:
    ref = await place.started("while [ ! -e go ]; do sleep 0.02; done")
    server = await server_of(place, ref)
    os.kill(server, signal.SIGKILL)
    await gone(server)
    end, _ = await place.run("true", name="the-next")
    assert end.cause is None
    (place.source / "go").touch()
    end = await place.end(ref)
    assert (end.step, end.cause) == (Step.COMMIT, None)


async def test_it_ends_with_its_executor_and_jobs_go_on(place: Place) -> None:
    async with place.another() as starter:
        ref = await starter.create(place.spec("while [ ! -e go ]; do sleep 0.02; done"))
        await starter.start(ref, TICKET)
        server = await server_of(place, ref)
    assert not is_there(server)
    (place.source / "go").touch()
    assert (await place.end(ref)).cause is None


async def test_it_ends_when_its_starter_is_killed_and_jobs_go_on(place: Place) -> None:
    ref = await place.executor.create(place.spec("while [ ! -e go ]; do sleep 0.02; done"))
    arguments = [str(place.settings.path), ref.name, TICKET.encode().decode()]
    starter = await asyncio.create_subprocess_exec(sys.executable, str(SERVING), *arguments)
    server = await server_of(place, ref)
    starter.kill()
    await starter.wait()
    await gone(server)
    (place.source / "go").touch()
    assert (await place.end(ref)).cause is None


async def test_one_that_does_not_answer_costs_a_job_and_no_attempt(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it heard of the job or not: that runs once, or is lost; nothing of it runs on."""
    monkeypatch.setattr(forking, "_ANSWERS_WITHIN", 0.5)
    server = await server_of(place, await place.started(name="first"))
    os.kill(server, signal.SIGSTOP)
    ref = await place.started("echo ran >> runs", name="second")
    end = await place.end(ref)
    assert (end.step, end.cause) == (Step.QUEUED, Cause.INFRASTRUCTURE)
    assert "its supervisor was killed" in end.reason
    assert running(place, ref) == []
    assert not is_there(server)
    end, _ = await place.run("true", name="third")
    assert end.cause is None


async def test_one_that_dies_after_its_fork_has_started_the_job(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not tell: who holds the lock of the job does."""
    server = await server_of(place, await place.started(name="first"))
    recv = socket.socket.recv

    def dies(self: socket.socket, size: int, *flags: int) -> bytes:
        said = recv(self, size, *flags)
        if threading.current_thread() is threading.main_thread():  # the event loop's own
            return said
        os.kill(server, signal.SIGKILL)
        return b""

    with monkeypatch.context() as patched:
        patched.setattr(forking.socket.socket, "recv", dies)
        ref = await place.started("echo ran >> runs", name="second")
    await place.executor.start(ref, TICKET)
    assert (await place.end(ref)).cause is None
    assert (place.source / "runs").read_text() == "ran\n"


@contextmanager
def served() -> Iterator[socket.socket]:
    """A fork server on a thread of ours."""
    ours, its = socket.socketpair()
    thread = threading.Thread(target=fork_server.serve, args=[its])
    thread.start()
    ours.settimeout(SOON)
    try:
        yield ours
    finally:
        ours.close()
        thread.join(SOON)
        its.close()


def test_a_fork_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> NoReturn:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", refused)
    with served() as ours:
        for _ in range(2):
            read, write = os.pipe()
            socket.send_fds(ours, [b'["/a'], [write, write])
            ours.sendall(b'/job", "a mark"]\n')  # in whatever pieces it comes
            assert fork_server.ANSWER.unpack(ours.recv(64)) == (0, errno.EAGAIN)
            os.close(write)
            assert os.read(read, 1) == b"", "it keeps what it was given"
            os.close(read)


def test_it_ends_in_silence_however_its_starter_goes() -> None:
    """Also with an answer that nobody has read, or with half a question, which is another error than an end."""
    for asked in (b"", b'["/a', b'["/a/job", "a mark"]\n'):
        ours, its = socket.socketpair()
        null = os.open(os.devnull, os.O_WRONLY)
        if asked:
            socket.send_fds(ours, [asked], [null, null])
        os.close(null)
        its.send(b"an answer")
        ours.close()
        with its, patch.object(os, "fork", side_effect=OSError(errno.EAGAIN, "no more processes")):
            fork_server.serve(its)


async def test_a_job_that_cannot_be_forked_can_be_started_later(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> bytes:
        return fork_server.ANSWER.pack(0, errno.EAGAIN)

    ref = await place.executor.create(place.spec())
    with monkeypatch.context() as patched:
        patched.setattr(forking.Forks, "_ask", refused)
        with pytest.raises(TransientError, match="Resource temporarily unavailable"):
            await place.executor.start(ref, TICKET)
    (status,) = await place.executor.find({})
    assert status.state is JobState.CREATED
    await place.executor.start(ref, TICKET)
    assert (await place.end(ref)).cause is None


async def test_nothing_is_inherited_but_what_a_job_needs(place: Place) -> None:
    """What a shell left open for us is neither its supervisor's nor its module's to hold."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    ref = await held(place, Step.MODULE)
    os.close(write)
    assert os.read(read, 1) == b"", "somebody holds it"
    os.close(read)
    lock = (place.directory(ref) / layout.SUPERVISOR).stat()
    supervisor = (await place.supervisor(ref)).pid
    holding = [pid for pid in [supervisor, *table.descendants(supervisor)] if holds(pid, lock)]
    assert holding == [supervisor], "a step holds the lock of its job"


def holds(pid: int, file: os.stat_result) -> bool:
    found = (entry.stat() for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists())
    return any((it.st_dev, it.st_ino) == (file.st_dev, file.st_ino) for it in found)
