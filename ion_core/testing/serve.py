"""A real `serve` in a directory, for tests of a service that listens: whatever comes in goes the whole way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENVIRONMENT: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
"""Ours, without what would configure Ion."""
WITHIN = 60.0
"""Seconds for whatever is waited for."""


class Serve:
    """``url`` is where the service listens; the log is ``serve.log`` in ``directory``."""

    def __init__(self, directory: Path, url: str, process: subprocess.Popen[bytes]) -> None:
        self.directory, self.url, self.process = directory, url, process

    def ion(self, *arguments: str) -> str:
        """What `ion-core` prints, run to its end. Raises CalledProcessError."""
        return run_ion(self.directory, *arguments)

    def curled(self, *arguments: str) -> tuple[int, str]:
        """Status and body of what curl is answered, run in the directory."""
        ran = subprocess.run(
            ["curl", "-sS", "-w", "\n%{http_code}", *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=2 * WITHIN,
            check=True,
        )
        body, _, status = ran.stdout.rpartition("\n")
        return int(status), body

    def until(self, condition: Callable[[], Any], *, within: float = WITHIN) -> None:
        """Once it holds, for what tells nobody when it changes. Where it never does the log is shown."""
        until = time.monotonic() + within
        while not condition():
            over = self.process.poll() is not None or time.monotonic() > until
            assert not over, (self.directory / "serve.log").read_text()
            time.sleep(0.02)


def run_ion(directory: Path, *arguments: str) -> str:
    """What `ion-core` prints, run there to its end. Raises CalledProcessError."""
    ran = subprocess.run(
        [sys.executable, "-m", "ion_core", *arguments],
        cwd=directory,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=True,
    )
    return ran.stdout


@contextmanager
def serving(directory: Path, service: str, *options: str, start_new_session: bool = False) -> Iterator[Serve]:
    """By the ``ion.yaml`` in there, once the log says that ``service`` listens; told to end when the context is left.

    ``options`` are those of the command. ``start_new_session``: without a terminal, whoever runs this.
    """
    log = directory / "serve.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "ion_core", "serve", *options],
            cwd=directory,
            env=ENVIRONMENT,
            stderr=stderr,
            start_new_session=start_new_session,
        ) as process,
    ):
        it = Serve(directory, "", process)
        try:
            said = re.compile(rf"the {service} listens url=(\S+)\n")
            it.until(lambda: said.search(log.read_text()))
            it.url = said.findall(log.read_text())[0]
            yield it
        finally:
            process.terminate()
            process.wait(WITHIN)
