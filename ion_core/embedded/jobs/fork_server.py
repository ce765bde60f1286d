"""The process that supervisors are forked from: it has imported what they need, and lives as long as who started it.

``python -m ion_core.embedded.jobs.fork_server SOCKET``: the descriptor of its end of a pair. A request is a line of
JSON, ``[directory, mark]``, and two descriptors, the lock of the job and what its supervisor complains to. The answer
is ``ANSWER``: a pid and 0, or 0 and the number of an error.

It knows nothing that it could lose. A supervisor is nobody's child that matters: it goes on when we end.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress

from ion_core.embedded.jobs import layout
from ion_core.embedded.jobs.supervisor import Supervisor

ANSWER = struct.Struct("=ii")
_MOST = 1 << 16
"""Bytes of a request: two paths, each with what JSON makes of it."""


class _Request:
    def __init__(self, directory: str, mark: str, lock: int, complaints: int) -> None:
        self.directory = directory
        self.mark = mark
        self.lock = lock
        self.complaints = complaints


def serve(ours: socket.socket) -> None:
    """Fork a supervisor for each request, until the other end is closed."""
    while (request := _request(ours)) is not None:
        # What it is told while it is not yet able to hear waits for it: see ``Signals``.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid, error = os.fork(), 0
        except OSError as refused:
            pid, error = 0, refused.errno or 0
        else:
            if pid == 0:
                ours.close()
                _supervise(request)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.close(request.lock)
        os.close(request.complaints)
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked has died: its job goes on
            ours.sendall(ANSWER.pack(pid, error))


def _request(ours: socket.socket) -> _Request | None:
    """None where there is nobody any more to ask."""
    try:
        said, fds, _, _ = socket.recv_fds(ours, _MOST, 2)
        while said and not said.endswith(b"\n"):
            more = ours.recv(_MOST)
            said = said + more if more else b""
    except ConnectionResetError:  # who asked has died before it read our answer
        return None
    if not said:
        return None
    directory, mark = json.loads(said)
    lock, complaints = fds
    os.set_inheritable(lock, False)
    os.set_inheritable(complaints, False)
    return _Request(directory, mark, lock, complaints)


def _supervise(request: _Request) -> None:
    """Be that job's supervisor, in a session of its own, to the end of this process."""
    code = 1
    try:
        os.setsid()
        os.dup2(request.complaints, 1)
        os.dup2(request.complaints, 2)
        os.close(request.complaints)
        os.environ[layout.MARK] = request.mark
        Supervisor(request.directory, request.lock).supervise()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _collect(*_: object) -> None:
    """Supervisors that have ended are no zombies."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, _collect)
    os.chdir("/")
    gc.freeze()  # what is there now stays as it is, shared with all that are forked
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
