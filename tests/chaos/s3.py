"""A server of S3 that can be killed and stopped, and keeps what it has promised to keep."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.object_stores import ObjectStore, free_port, listens, moto_command, request, s3_at

ANSWERS_WITHIN = 60.0


@dataclass
class S3Server:
    """``directory`` is for what it keeps and says; it always listens on the same port."""

    directory: Path
    store: ObjectStore = field(default_factory=lambda: s3_at(free_port()))
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """With its bucket; returns once it answers."""
        self.directory.mkdir()
        self.begin()
        self.answers()
        request("PUT", f"http://127.0.0.1:{self.store.port}/{self.store.root.removeprefix('s3://')}")

    def begin(self) -> None:
        """Start it, also again, and do not wait."""
        with (self.directory / "log").open("ab") as log:
            command = moto_command(self.store.port, str(self.directory / "journal"))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)

    def answers(self) -> None:
        """Returns once it does, after ``begin``."""
        assert self._process is not None
        deadline = time.monotonic() + ANSWERS_WITHIN
        while not listens(self.store.port):
            said = (self.directory / "log").read_text("utf-8", "replace")[-2000:]
            assert self._process.poll() is None, f"S3 ended: {said}"
            assert time.monotonic() < deadline, f"S3 does not listen: {said}"
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, whatever state it is in. Fine if it never began."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """The kernel goes on taking connections for it, and nobody answers."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
