"""Processes forked from one that has done nothing yet: it has no event loop, no threads, no connections.

That one, the fork server, is forked first, and knows all that we knew then, such as a configuration that was read. All
of them die with whoever is above them, however that dies: processes with the fork server, which dies with us.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ion_core.errors import TransientError, WorkerEnded
from ion_core.signals import SIGNALS

ANSWERED_WITHIN = 30.0
"""Seconds for a fork, or for a process that is at its end to have ended."""

CRASHED = 70
_LONGEST = 1 << 12
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15

Body = Callable[[int, int, socket.socket], int]
"""What a forked process does: given its number, how many of that number there were before, and its end of a socket,
its exit code."""


@dataclass(frozen=True)
class Forked:
    """A process, and our end of the socket that it was given. Its ``pid`` is no other's until it is reaped."""

    pid: int
    socket: socket.socket

    def kill(self) -> None:
        """At once, whatever it does. Fine if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """Made by ``fork_server``."""

    def __init__(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._control = control
        self._turn = asyncio.Lock()
        self._asked = 0

    async def fork(self, number: int, life: int) -> Forked:
        """A process that runs the body with these.

        Raises TransientError where there is none to be had, WorkerEnded where there will be none any more.
        """
        ours, theirs = socket.socketpair()
        try:
            answer = await self._ask({"number": number, "life": life}, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        if "pid" not in answer:
            ours.close()
            raise TransientError(f"no process can be made: {answer['error']}")
        return Forked(pid=answer["pid"], socket=ours)

    async def reaped(self, process: Forked) -> int:
        """The exit code of one that is at its end; a negative one is a death by that signal.

        Raises TransientError or WorkerEnded where that is not known.
        """
        answer = await self._ask({"reap": process.pid})
        if "code" not in answer:
            raise TransientError(f"how process {process.pid} has ended is not known: {answer['error']}")
        return int(answer["code"])

    async def _ask(self, question: dict[str, Any], end: socket.socket | None = None) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        try:
            async with self._turn, asyncio.timeout(ANSWERED_WITHIN):
                self._asked += 1
                asked = json.dumps({**question, "asked": self._asked}).encode()
                socket.send_fds(self._control, [asked], [] if end is None else [end.fileno()])
                while said := await loop.sock_recv(self._control, _LONGEST):
                    answer: dict[str, Any] = json.loads(said)
                    if answer["asked"] == self._asked:  # else that of somebody who was cancelled
                        return answer
        except (BrokenPipeError, ConnectionResetError):
            pass  # as when nothing more is received
        except (OSError, TimeoutError) as error:
            raise TransientError(f"the process that workers are forked from does not answer: {error}") from error
        raise WorkerEnded("the process that workers are forked from has ended. Start this again.")


@contextmanager
def fork_server(body: Body) -> Iterator[ForkServer]:
    """Within, processes that run ``body`` can be had. Enter it before there is a thread or an event loop.

    What is left of them afterwards is killed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # what is there by now is shared by all as long as nobody writes to it
    us = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _end(lambda: _serve(theirs, body, above=us))
    gc.unfreeze()
    theirs.close()
    try:
        with ours:
            yield ForkServer(ours)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _end(run: Callable[[], int]) -> None:
    """Run it, and be gone: nothing of what the process that was forked would still have done is ours to do."""
    code = CRASHED
    try:
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _serve(control: socket.socket, body: Body, *, above: int) -> int:
    """Until whoever asks is gone. Signals that a terminal or a supervisor sends to all are for them to heed."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in before:
        signal.signal(number, signal.SIG_IGN)
    _be("ion-forks", above)
    us = os.getpid()
    while True:
        said, received, _, _ = socket.recv_fds(control, _LONGEST, 1)
        if not said:
            return 0
        question = json.loads(said)
        answer: dict[str, Any]
        try:
            if "reap" in question:
                answer = {"code": os.waitstatus_to_exitcode(os.waitpid(question["reap"], 0)[1])}
            else:
                answer = {"pid": _fork(control, body, question, received[0], before, above=us)}
        except OSError as error:
            answer = {"error": error.strerror or str(error)}
        for descriptor in received:
            os.close(descriptor)
        control.send(json.dumps({**answer, "asked": question["asked"]}).encode())


def _fork(
    control: socket.socket, body: Body, question: dict[str, Any], descriptor: int, before: dict[Any, Any], *, above: int
) -> int:
    pid = os.fork()
    if pid:
        return pid
    number, life = question["number"], question["life"]

    def run() -> int:
        control.close()
        _be(f"ion-worker-{number}", above)
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
        return body(number, life, socket.socket(fileno=descriptor))

    _end(run)
    raise AssertionError("is gone")


def _be(name: str, above: int) -> None:
    """Be called so by ``ps``, and die with the process above."""
    ourselves = ctypes.CDLL(None, use_errno=True)
    ourselves.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    ourselves.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != above:  # it died meanwhile
        os._exit(137)
