"""Runs ``ion-core`` in processes forked from one that has imported what commands import.

Tests run thousands of commands, most of which are done in a fraction of the time that Python needs to start and to
import Ion. A command has a process of its own all the same, with its own directory, environment and output. What a fork
cannot have, such as another locale, is started anew.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import IO, NoReturn, TextIO

ION = [str(Path(sys.executable).with_name("ion-core"))]

# Variables that are read as Python starts, or once in a process.
_READ_ONCE = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "TMPDIR")


def _read_once(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(_READ_ONCE)}


_HAS_READ = _read_once(os.environ)


def run(
    *arguments: str, cwd: Path, environ: Mapping[str, str], within: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` with ``capture_output`` and nothing to read; ``environ`` is all it has.

    Raises ``subprocess.TimeoutExpired``, with what was said until then, once it took ``within`` seconds; it is killed.
    """
    command = [*ION, *arguments]
    with tempfile.TemporaryDirectory(prefix="ion-command-") as said:
        out, err = Path(said, "out"), Path(said, "err")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = _begun(command, cwd, environ, stdout.fileno(), stderr.fileno())
        try:
            code = process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise subprocess.TimeoutExpired(command, within, out.read_bytes(), err.read_bytes()) from None
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


def start(*arguments: str, cwd: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes] | Forked:
    """As ``subprocess.Popen`` with a pipe for ``stderr``, nothing to read and nobody who reads ``stdout``."""
    reading, writing = os.pipe()
    with Path(os.devnull).open("wb") as nowhere:
        process = _begun([*ION, *arguments], cwd, environ, nowhere.fileno(), writing)
    os.close(writing)
    process.stderr = os.fdopen(reading, "rb")
    return process


def _begun(
    command: Sequence[str], cwd: Path, environ: Mapping[str, str], stdout: int, stderr: int
) -> subprocess.Popen[bytes] | Forked:
    if _read_once(environ) == _HAS_READ:
        return Forked(command, cwd, environ, stdout, stderr)
    return subprocess.Popen(command, cwd=cwd, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)


class Forked:
    """What tests use of ``subprocess.Popen``."""

    stderr: IO[bytes] | None = None

    def __init__(self, command: Sequence[str], cwd: Path, environ: Mapping[str, str], stdout: int, stderr: int) -> None:
        self.args = command
        outputs = [Connection(os.dup(it), readable=False) for it in (stdout, stderr)]
        self._process = _forking().Process(
            target=_main, args=(list(command), str(cwd), dict(environ), _umask(), *outputs), daemon=True
        )
        self._process.start()
        for it in outputs:
            it.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@functools.cache
def _forking() -> ForkServerContext:
    import ion_core.cli

    commands = [it.name for it in pkgutil.walk_packages(ion_core.cli.__path__, "ion_core.cli.")]
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([*commands, *(it.value for it in entry_points(group="ion_core"))])
    return forking


def _stream(descriptor: int, *, like: TextIO) -> TextIO:
    buffering = 1 if like.line_buffering else -1
    return open(descriptor, "w", buffering, encoding=like.encoding, errors=like.errors, closefd=False)


def _main(
    command: list[str], cwd: str, environ: dict[str, str], mask: int, out: Connection, err: Connection
) -> NoReturn:
    for connection, descriptor in ((out, 1), (err, 2)):
        os.dup2(connection.fileno(), descriptor)
        connection.close()
    # Those of the process it was forked from are for what that one had there.
    sys.stdout = sys.__stdout__ = _stream(1, like=sys.stdout)
    sys.stderr = sys.__stderr__ = _stream(2, like=sys.stderr)
    os.chdir(cwd)
    os.umask(mask)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = command

    from ion_core.cli import main

    sys.exit(main())
