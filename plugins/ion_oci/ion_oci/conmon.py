"""conmon, which holds a container: its output, its log, its exit code, whatever becomes of us."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from ion_core.contracts.output import KeptOutput, Stream
from ion_core.errors import TransientError
from ion_oci.host import Tools
from ion_oci.kept import Bundle
from ion_oci.programs import Exit, spawn

STREAMS: dict[int, Stream] = {2: "stdout", 3: "stderr"}
"""By the first byte of what comes from its socket."""

_BRIEFLY = {"GOMAXPROCS": "1", "GOGC": "off"}
"""For runc, which is written in Go and runs for milliseconds: it needs no threads for others' garbage."""
_LOG_FILE = 1 << 20
_LARGEST_FRAME = 1 << 16
_FRAMES_AT_ONCE = 32
_ANSWER = 1 << 16


class Conmon:
    """One that we have started. ``pid`` is that of the container's first process."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int) -> None:
        self.pid = pid
        self._process = process
        self._exit = Exit(process.pid)

    @property
    def ended(self) -> asyncio.Future[None]:
        """Once it has: the exit code of the container is written by then."""
        return self._exit.ended

    def close(self) -> None:
        self._exit.close()
        self._process.poll()


def command(tools: Tools, bundle: Bundle, state: str, log_limit: int) -> list[str]:
    """What makes the container and stays with it. Nothing of its environment is in there."""
    id = bundle.record.id
    here = str(bundle.path)
    given = ["--sync", "--api-version", "1", "--cid", id, "--cuuid", id, "--name", bundle.record.name]
    given += ["--runtime", tools.oci, "--bundle", here, "--container-pidfile", str(bundle.pid_file)]
    given += ["--exit-dir", here, "--full-attach", "--log-level", "error", "--no-sync-log"]
    given += ["--log-path", f"k8s-file:{bundle.log}", "--log-size-max", str(max(2 * log_limit, _LOG_FILE))]
    for argument in (f"--root={state}", f"--log={bundle.oci_log}", "--log-format=json"):
        given += ["--runtime-arg", argument]
    return [tools.conmon, *given]


async def start(
    argv: list[str], bundle: Bundle, *, group: Path | None, timeout: float, where: str
) -> tuple[Conmon | None, str]:
    """Start it beside the container, where it notes that memory ran out. The container is made when this returns.

    Without a conmon: why there is none. ``group`` is the control group for it.

    Raises TransientError when that takes longer than ``timeout`` seconds; then it is killed.
    """
    answers, theirs = socket.socketpair()
    with answers:
        with theirs:
            begin, tell = os.pipe()
            try:
                ends = {"_OCI_SYNCPIPE": str(theirs.fileno()), "_OCI_STARTPIPE": str(begin)}
                env = {"PATH": os.environ.get("PATH", os.defpath), **_BRIEFLY, **ends}
                descriptors, here = [theirs.fileno(), begin], bundle.path
                # A process is made when its program runs, which on a busy machine others need not wait for.
                process = await asyncio.to_thread(spawn, argv, env=env, pass_fds=descriptors, cwd=here, where=where)
                _move(process.pid, group)  # before it has children
                os.write(tell, b"x")
            finally:
                os.close(begin)
                os.close(tell)
        answers.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                said = await asyncio.get_running_loop().sock_recv(answers, _ANSWER)
            answer = json.loads(said) if said.strip() else {}
        except (TimeoutError, ValueError) as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the OCI runtime that it waits for
            process.wait()
            raise TransientError(f"{where}: conmon made no container within {timeout:g} s.") from error
    pid = int(answer.get("data") or answer.get("pid") or -1)
    if pid > 0:
        return Conmon(process, pid), ""
    process.kill()  # it has nothing more to say
    process.wait()
    return None, str(answer.get("message") or "conmon ended without a word")


def _move(pid: int, group: Path | None) -> None:
    """Where that cannot be, conmon is in our own group, which is where most programs' children are."""
    if group is not None:
        with suppress(OSError):
            group.mkdir(parents=True, exist_ok=True)
            (group / "cgroup.procs").write_text(str(pid), encoding="ascii")


class Attached:
    """Both streams of a container, from before it starts until conmon closes them. ``ended`` tells when."""

    def __init__(self, bundle: Bundle, log: KeptOutput) -> None:
        """Raises OSError where nobody listens."""
        self._loop = asyncio.get_running_loop()
        self._log = log
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directory = os.open(bundle.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The address of a socket has room for 107 bytes, a path has not to care.
            self._socket.connect(f"/proc/self/fd/{directory}/attach")
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.close(directory)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            try:
                frame = self._socket.recv(_LARGEST_FRAME)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                frame = b""
            if not frame:
                self.close()
                return
            if (stream := STREAMS.get(frame[0])) is not None:
                self._log.add(stream, frame[1:], time.time())

    def close(self) -> None:
        """Idempotent."""
        if not self.ended.done():
            self._loop.remove_reader(self._socket.fileno())
            with suppress(OSError):
                self._socket.close()
            self.ended.set_result(None)
