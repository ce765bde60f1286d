"""One container of the process runtime, in the process that made it: from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from ion_core.contracts.output import KeptOutput, Stream
from ion_core.contracts.runtime import ContainerSpec, ContainerState, ExitStatus
from ion_core.embedded.programs import ends, spawning
from ion_core.embedded.programs import table as process_table
from ion_core.embedded.programs.launch import Launch
from ion_core.errors import TransientError

DEATH = timedelta(seconds=30)
"""For a process that was sent SIGKILL to be gone: one that waits for a disk may take a while."""
_DRAIN = 1.0
"""Seconds for output to reach its end once nothing is left that could write to it."""
_READ = 1 << 18
_LOOK_BACK = 4096
_SHORT = 2.0
"""Seconds within which process numbers do not come round again."""


class ProcessContainer:
    """Belongs to one event loop. ``ended`` is its exit status, None if it was removed without having run."""

    def __init__(self, spec: ContainerSpec, launch: Launch) -> None:
        self.spec = spec
        self.launch = launch
        self.log = KeptOutput(spec.log_limit)
        self.ended: asyncio.Future[ExitStatus | None] = asyncio.get_running_loop().create_future()
        self.begun = asyncio.Event()
        """Set once it was started, or never will be."""
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._gone: asyncio.Future[None] | None = None
        self._outputs: dict[int, asyncio.Future[None]] = {}

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of what was started here, until it has ended."""
        return None if self._process is None or self.ended.done() else self._process.pid

    @property
    def state(self) -> ContainerState:
        if not self.started:
            return ContainerState.CREATED
        return ContainerState.EXITED if self.ended.done() else ContainerState.RUNNING

    def start(self, cores: set[int] | None) -> int:
        """Start it and return its number. OSError when the program cannot be executed. ``finish`` must follow.

        Without a pause, so that nobody sees it half started; a fork that shares our memory takes a millisecond.
        """
        launch = self.launch
        self._process, *outputs = spawning.spawn(
            launch.argv,
            program=launch.program,
            cwd=launch.cwd,
            env=launch.env,
            cores=cores,
        )
        loop = asyncio.get_running_loop()
        self._started_at = loop.time()
        streams: tuple[Stream, Stream] = ("stdout", "stderr")
        for stream, fd in zip(streams, outputs, strict=True):
            self._outputs[fd] = loop.create_future()
            loop.add_reader(fd, self._read, stream, fd)
        self._gone = ends.ended(self._process.pid)
        self.begun.set()
        return self._process.pid

    async def finish(self, blocking: Callable[..., Awaitable[None]]) -> None:
        """Wait for the end, end whatever it left behind, and set ``ended``."""
        assert self._process is not None
        assert self._gone is not None
        try:
            await self._gone
            pid = self._process.pid
            # Until it is waited for, its number and that of its group stay its own.
            process_table.signal_group(pid, signal.SIGKILL)
            short = asyncio.get_running_loop().time() - self._started_at < _SHORT
            if not (short and process_table.nobody_left(self.launch.mark, pid)):
                await blocking(process_table.kill_marked, self.launch.mark, pid if short else 0)
            if not all(output.done() for output in self._outputs.values()):
                await asyncio.wait(self._outputs.values(), timeout=_DRAIN)
            self._close()
            self.ended.set_result(self._reap())
        except BaseException as error:
            self._close()
            told = error if isinstance(error, Exception) else TransientError("process runtime: was closed meanwhile")
            self.ended.set_exception(told)
            self.ended.exception()  # seen: perhaps nobody waits
            raise

    def signal(self, number: int) -> None:
        """To all of it that is in its group; under bubblewrap, anything but SIGKILL to all that runs inside."""
        if self._process is None or self.ended.done():
            return
        if self.launch.isolated and number != signal.SIGKILL:
            process_table.signal_inside(self._process.pid, number)
        else:
            process_table.signal_group(self._process.pid, number)

    async def stop(self, *, grace: timedelta) -> None:
        """SIGTERM, and SIGKILL after ``grace``; returns once it has ended. Raises TransientError if it does not."""
        if not self.started or self.ended.done():
            return
        if grace:
            self.signal(signal.SIGTERM)
            await asyncio.wait({self.ended}, timeout=grace.total_seconds())
        self.signal(signal.SIGKILL)
        await asyncio.wait({self.ended}, timeout=DEATH.total_seconds())
        if not self.ended.done():
            raise TransientError(
                f"container {self.spec.name}: did not end within {DEATH.seconds} s of SIGKILL. It waits for the kernel."
            )

    def _read(self, stream: Stream, fd: int) -> None:
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.log.add(stream, data, time.time())
        else:
            asyncio.get_running_loop().remove_reader(fd)
            self._outputs[fd].set_result(None)

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        for fd in self._outputs:
            loop.remove_reader(fd)
            os.close(fd)
        self._outputs.clear()
        self.log.close()

    def _reap(self) -> ExitStatus:
        assert self._process is not None
        _, status, usage = os.wait4(self._process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code  # what Popen would have found, had it been asked to wait
        number = -code if code < 0 else None
        if number is not None:
            code = 128 + number
        elif self.launch.isolated and 128 < code <= 128 + signal.NSIG:
            number = code - 128
        limit = spawning.suspected_limit(
            self.spec.resources.memory, code, usage.ru_maxrss * 1024, self.log.last(_LOOK_BACK)
        )
        return ExitStatus(code=code, signal=number, limit=limit)
