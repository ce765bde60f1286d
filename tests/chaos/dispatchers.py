"""A dispatcher that is started again whenever it ends, as a service manager does."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.acceptance.pipeline import ION, environment

AGAIN_AFTER = 0.3
"""Seconds."""


class Dispatcher:
    """``ion-core serve`` in ``home``, which has an ion.yaml.

    ``ends`` counts its exit codes, ``killed`` how often we killed it; ``log`` has all it said.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ends: Counter[int] = Counter()
        self.killed = 0
        self.log = home / "log"
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def begin(self) -> None:
        self._keeper.start()

    def serves(self, within: float) -> None:
        """Returns once it does, for the first time."""
        deadline = time.monotonic() + within
        while "serving modules" not in self.tail():
            assert time.monotonic() < deadline, f"{self.home.name} does not serve: {self.tail()}"
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> bool:
        """Whether it runs, and so has been sent it."""
        with self._turn:
            process = self._process
            if process is None or process.poll() is not None:
                return False
            process.send_signal(number)
            self.killed += number is signal.SIGKILL
            return True

    def end(self, within: float) -> bool:
        """As a service manager ends it: politely, then by force. Whether that was not needed."""
        self._ending.set()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        self._keeper.join(within)
        ended = not self._keeper.is_alive()
        self.kill()
        return ended

    def kill(self) -> None:
        """Whatever state it is in: nothing is left of it."""
        self._ending.set()
        self.signal(signal.SIGKILL)
        with suppress(RuntimeError):  # it was never begun
            self._keeper.join(10)

    def tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-4000:] if self.log.exists() else ""

    def _keep(self) -> None:
        while True:
            with self.log.open("ab") as log, self._turn:
                if self._ending.is_set():
                    return
                self._process = subprocess.Popen(
                    [*ION, "serve"], cwd=self.home, env=environment(), stdout=subprocess.DEVNULL, stderr=log
                )
            self.ends[self._process.wait()] += 1
            self._ending.wait(AGAIN_AFTER)
