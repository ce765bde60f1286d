"""Programs that are run and waited for: each ends within its time, or is killed."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ion_core.errors import StorageFull, TransientError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


class Exit:
    """The end of a process of ours, told by the kernel: no thread waits for it, and no signal is caught."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError if there is none (any more)."""
        self._loop = asyncio.get_running_loop()
        self.pidfd = os.pidfd_open(pid)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self.pidfd, self._told)

    def _told(self) -> None:
        self._loop.remove_reader(self.pidfd)
        if not self.ended.done():
            self.ended.set_result(None)

    def send(self, number: int) -> None:
        """Fine if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    async def within(self, seconds: float) -> bool:
        """Whether it ends in that time."""
        done, _ = await asyncio.wait({self.ended}, timeout=seconds)
        return bool(done)

    def close(self) -> None:
        """Nobody waits any more. Idempotent."""
        if self.pidfd >= 0:
            self._loop.remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1


async def run(
    argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None, stdin: str = "", where: str = ""
) -> Ended:
    """Run it to its end, however it ends. Raises TransientError when that takes longer than ``timeout`` seconds.

    It leads a group of its own, which is killed when this is cancelled or late. ``where`` begins the error.
    """
    given, out, err = (os.memfd_create(name) for name in ("in", "out", "err"))
    try:
        if stdin:
            os.pwrite(given, stdin.encode(), 0)
        process = spawn(argv, env=env, stdin=given, stdout=out, stderr=err, where=where)
        try:
            exit = Exit(process.pid)
            try:
                if not await exit.within(timeout):
                    raise TransientError(f"{where or argv[0]}: {' '.join(argv[:2])} took longer than {timeout:g} s.")
            finally:
                exit.close()
        finally:
            _end(process)
        return Ended(process.returncode, _all_of(out), _all_of(err))
    finally:
        for file in (given, out, err):
            os.close(file)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    where: str = "",
) -> subprocess.Popen[bytes]:
    """A process leading a session of its own. Raises TransientError where it cannot be had."""
    try:
        return subprocess.Popen(
            argv,
            env=None if env is None else dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise TransientError(f"{where or argv[0]}: {argv[0]} cannot be run: {error}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _all_of(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")


async def to_the_end(doing: Awaitable[_T]) -> _T:
    """Done to its end even when we are cancelled: then nothing is half done behind our back."""
    task = asyncio.ensure_future(doing)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def failure_of(error: OSError, where: str) -> StorageFull | TransientError:
    """What trouble with a file means for a job."""
    if error.errno in _FULL:
        return StorageFull(f"{where}: {error}. Free some space there.")
    return TransientError(f"{where}: {error}")
