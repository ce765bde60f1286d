"""Runs one job, in whose directory it is started: ``python -m ion_sample.supervisor``.

It goes on when whoever started it ends. What it says it leaves in files there, each whole or not at all:

``job``        of the executor: what to run
``ticket``     of the executor: for which attempt
``stop``       of the executor: seconds of grace, once it is to be stopped
``begun``      there is a supervisor, or has been: no second one runs the job
``supervisor`` its process, which keeps the file locked as long as it lives
``complaints`` what is printed where it fails itself
``module``     the process group of the module, and when that began
``log``        what the steps print, a line of JSON each
``end``        how it ended
"""

import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TextIO

from ion_sample import groups

LOOK_AGAIN = 0.02
"""Seconds until it looks again whether it is to stop."""


class Ended(Exception):
    """The job is over: ``how`` is what ``end`` is to say."""

    def __init__(self, step: str, how: str, code: int | None = None, reason: str = "") -> None:
        self.said = {"step": step, "how": how, "code": code, "reason": reason}


class Kept:
    """Lines of one step: the first half of ``limit`` bytes at once, and in the end the last half of it."""

    def __init__(self, log: TextIO, step: str, limit: float) -> None:
        self._log, self._step, self._half = log, step, limit / 2
        self._room = self._half
        self._tail: deque[tuple[str, str, float]] = deque()
        self._size = self._dropped = 0
        self._partial = {"stdout": b"", "stderr": b""}

    def add(self, stream: str, data: bytes) -> None:
        *lines, self._partial[stream] = (self._partial[stream] + data).split(b"\n")
        for line in lines:
            self._line(stream, line)
        self._log.flush()

    def close(self) -> None:
        for stream, rest in self._partial.items():
            if rest:
                self._line(stream, rest)
        if self._dropped:
            self._write("stderr", f"[… {self._dropped} bytes of output are not kept …]", time.time())
        for line in self._tail:
            self._write(*line)
        self._log.flush()

    def _line(self, stream: str, raw: bytes) -> None:
        text, size = raw.decode(errors="replace"), len(raw) + 1
        if not self._tail and size <= self._room:
            self._room -= size
            self._write(stream, text, time.time())
            return
        self._tail.append((stream, text, time.time()))
        self._size += size
        while self._size > self._half and len(self._tail) > 1:
            gone = len(self._tail.popleft()[1].encode()) + 1
            self._size -= gone
            self._dropped += gone

    def _write(self, stream: str, text: str, at: float) -> None:
        line = {"step": self._step, "stream": stream, "text": text, "at": at}
        self._log.write(f"{json.dumps(line)}\n")


class Supervisor:
    def __init__(self, job: Mapping[str, Any], log: TextIO) -> None:
        self._job, self._log = job, log
        self._told_to_end = False
        self.began: dict[str, float] = {}

    def tell_to_end(self, *_: object) -> None:
        """SIGTERM, as when the machine is shut down."""
        self._told_to_end = True

    def run(self) -> Ended:
        try:
            self._may_begin("queued")
            self._handler("prepare")
            self._module()
            return self._handler("commit", last=True)
        except Ended as end:
            return end

    def _handler(self, step: str, *, last: bool = False) -> Ended:
        """Step 1 or 3. Raises Ended where the job goes no further."""
        files = ["--config", "settings", "--ticket", "ticket", "--result", f"result-{step}", "--basedir", "workspace"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
        end = self._step(step, [*self._job["handler"], step, *files], None, environment, self._job["allowance"])
        if end.said["how"] != "exited" or end.said["code"] != 0:
            raise end
        if not last:
            self._may_begin(step)
        return end

    def _module(self) -> None:
        job, workspace = self._job, Path("workspace").absolute()
        env = {"PATH": os.environ.get("PATH", os.defpath), "HANDLER_BASE_DIR": str(workspace), **job["env"]}
        limit = job["log_limit"]
        end = self._step("module", job["argv"], job["source"] or str(workspace), env, job["timeout"], limit)
        if end.said["how"] != "exited" or end.said["code"] != 0:
            raise end
        self._may_begin("module")

    def _may_begin(self, after: str) -> None:
        if self._told_to_end or Path("stop").exists():
            raise Ended(after, "told" if self._told_to_end else "stopped")

    def _step(
        self,
        step: str,
        argv: Sequence[str],
        where: str | None,
        env: Mapping[str, str],
        seconds: float,
        limit: float = float("inf"),
    ) -> Ended:
        """Runs it; how it ended. Nothing of it runs then."""
        try:
            process = subprocess.Popen(
                argv,
                cwd=where,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError)
            how, reason = "refused" if missing else "infrastructure", f"{error.filename or argv[0]}: {error.strerror}"
            return Ended(step, how, reason=reason)
        self.began[step] = time.time()
        write("module", {"process": process.pid, "began": groups.began(process.pid)})
        kept = Kept(self._log, step, limit)
        with selectors.DefaultSelector() as selector:
            for pipe, stream in ((process.stdout, "stdout"), (process.stderr, "stderr")):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, stream)
            how, reason = self._watched(process, selector, kept, seconds)
            while groups.runs(process.pid):  # until it is reaped, its number is nobody else's
                groups.kill(process.pid)
                time.sleep(LOOK_AGAIN)
            code = process.wait()
            if how == "stopped" and step == "commit" and code == 0:
                how = "exited"  # it has come to its end
            while read(selector, kept):
                pass
        kept.close()
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        return Ended(step, how, code, reason)

    def _watched(
        self, process: subprocess.Popen[bytes], selector: selectors.BaseSelector, kept: Kept, seconds: float
    ) -> tuple[str, str]:
        """Once it has ended by itself, or has been killed: how, and in words."""
        deadline, stopping = time.monotonic() + seconds, False
        grace_ends = float("inf")
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if self._told_to_end:
                return "told", ""
            if not stopping and Path("stop").exists():
                stopping = True
                grace_ends = time.monotonic() + float(Path("stop").read_text())
                os.kill(process.pid, signal.SIGTERM)
            if time.monotonic() > grace_ends:
                return "stopped", ""
            if time.monotonic() > deadline:
                return "timeout", f"timed out after {seconds:g} s"
            if selector.get_map():
                read(selector, kept, LOOK_AGAIN)
            else:
                time.sleep(LOOK_AGAIN)
        return ("stopped" if stopping else "exited"), ""


def read(selector: selectors.BaseSelector, kept: Kept, seconds: float = 0) -> bool:
    """What there is; whether there was any."""
    found = False
    for key, _ in selector.select(seconds) if selector.get_map() else ():
        data = os.read(key.fd, 1 << 16)
        if data:
            kept.add(key.data, data)
            found = True
        else:
            selector.unregister(key.fileobj)
    return found


def write(name: str, content: Any) -> None:
    """Whole or not at all, in the directory of the job."""
    new = Path(f"{name}.new")
    new.write_text(json.dumps(content), "utf-8")
    new.replace(name)


def locked(file: IO[Any]) -> bool:
    """Whether it is ours from now on, for as long as the file is open."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> None:
    with Path("supervisor").open("a+", encoding="utf-8") as file:
        if not locked(file) or Path("begun").exists():
            return
        Path("begun").touch()
        if os.fork():
            os._exit(0)  # who started us goes on; the lock is the child's
        complaints = os.open("complaints", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(complaints, 1)
        os.dup2(complaints, 2)
        file.write(str(os.getpid()))
        file.flush()
        job = json.loads(Path("job").read_text("utf-8"))
        with Path("log").open("a", encoding="utf-8") as log:
            supervisor = Supervisor(job, log)
            signal.signal(signal.SIGTERM, supervisor.tell_to_end)
            end = supervisor.run()
        write("end", end.said | {"began": supervisor.began, "ended": time.time()})


if __name__ == "__main__":
    main()
    sys.exit(0)
