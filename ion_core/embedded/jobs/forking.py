"""Supervisors of jobs, had from a fork server: a process of ours that is ready to become one. Blocks."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

from ion_core.embedded.jobs import fork_server
from ion_core.embedded.programs import table

log = logging.getLogger(__name__)

_ANSWERS_WITHIN = 10.0


class Forks:
    """One fork server for all threads, started when it is first needed, and anew where somebody has killed it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def supervisor(self, directory: str, mark: str, *, lock: int, complaints: int) -> table.ProcessId | None:
        """A supervisor of the job in ``directory``, which has what it needs: the descriptors stay ours to close.

        None where the fork server died, or was killed for not answering, before it told: whoever has the lock
        then supervises it, and if nobody has, that is as if the supervisor had died. Raises OSError where there
        can be none.
        """
        said = json.dumps([directory, mark]).encode() + b"\n"
        with self._turn:
            answer = self._ask(said, [lock, complaints])
        if answer is None:
            log.warning("the process that starts supervisors died while it started one", extra={"job": directory})
            return None
        pid, error = fork_server.ANSWER.unpack(answer)
        if error:
            raise OSError(error, os.strerror(error))
        return table.identify(pid) or table.ProcessId(pid=pid, started="", boot="")

    def close(self) -> None:
        """Supervisors go on; may be called again."""
        with self._turn:
            self._end()

    def _ask(self, said: bytes, fds: list[int]) -> bytes | None:
        """The answer; None if there came none to what may have been heard."""
        for _ in range(2):
            theirs = self._running()
            try:
                socket.send_fds(theirs, [said], fds)
            except (BrokenPipeError, ConnectionResetError):  # it was killed meanwhile: nobody has heard this
                self._end()
                continue
            try:
                answer = theirs.recv(fork_server.ANSWER.size)
            except (ConnectionResetError, TimeoutError):
                answer = b""
            if len(answer) == fork_server.ANSWER.size:
                return answer
            self._end()
            return None
        raise OSError(errno.EAGAIN, "the process that starts supervisors ends as soon as it begins")

    def _running(self) -> socket.socket:
        if self._server is None:
            ours, its = socket.socketpair()
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", fork_server.__name__, str(its.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[its.fileno()],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
            finally:
                its.close()
            ours.settimeout(_ANSWERS_WITHIN)
            self._server = process, ours
        return self._server[1]

    def _end(self) -> None:
        """It has nothing that could be lost."""
        if self._server is not None:
            process, ours = self._server
            self._server = None
            ours.close()
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
