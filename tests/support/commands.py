"""Runs ``ion-core`` to its end, in a process forked from one that has imported what commands import.

Tests run thousands of commands, most of which are done in a fraction of the time that Python needs to start and to
import Ion. A command has a process of its own all the same, with its own directory, environment and output. What a fork
cannot have, such as another locale, is started anew.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

ION = [str(Path(sys.executable).with_name("ion-core"))]

# Variables that are read as Python starts, or once in a process.
_READ_ONCE = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "TMPDIR")


def _read_once(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(_READ_ONCE)}


_HAS_READ = _read_once(os.environ)
_forking = multiprocessing.get_context("forkserver")


def run(
    *arguments: str, cwd: Path, environ: Mapping[str, str], within: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` with ``capture_output`` and nothing to read; ``environ`` is all it has.

    Raises ``subprocess.TimeoutExpired``, with what was said until then, once it took ``within`` seconds; it is killed.
    """
    command = [*ION, *arguments]
    if _read_once(environ) != _HAS_READ:
        return subprocess.run(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
    with tempfile.TemporaryDirectory(prefix="ion-command-") as said:
        out, err = Path(said, "out"), Path(said, "err")
        out.touch()
        err.touch()
        _forking.set_forkserver_preload(_imported_by_commands())
        process = _forking.Process(
            target=_main, args=(command, str(cwd), dict(environ), _umask(), str(out), str(err)), daemon=True
        )
        process.start()
        process.join(within)
        if (code := process.exitcode) is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, within, out.read_bytes(), err.read_bytes())
        process.close()
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _imported_by_commands() -> list[str]:
    import ion_core.cli

    commands = [it.name for it in pkgutil.walk_packages(ion_core.cli.__path__, "ion_core.cli.")]
    return [*commands, *(it.value for it in entry_points(group="ion_core"))]


def _main(command: list[str], cwd: str, environ: dict[str, str], mask: int, out: str, err: str) -> NoReturn:
    for path, descriptor in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(cwd)
    os.umask(mask)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = command

    from ion_core.cli import main

    sys.exit(main())
