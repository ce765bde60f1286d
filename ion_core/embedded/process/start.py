"""Starting a module as a process of this machine: which program, with what environment, under which limits."""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path

from ion_core.contracts.runtime import ContainerSpec, RuntimeCapabilities
from ion_core.embedded.process.table import MARK
from ion_core.errors import PermanentError
from ion_core.python_environments import search_path

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
HAS_LIMITS = sys.platform == "linux"

_BELIEVED = 1.0
"""Seconds that we believe a program to be where it was found."""
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_OUT_OF_MEMORY = re.compile(rb"MemoryError|cannot allocate memory|bad_alloc|out of memory", re.IGNORECASE)


CAPABILITIES = RuntimeCapabilities(
    images=False,
    isolates=False,
    inputs_read_only=False,
    memory_limit=HAS_LIMITS,
    cpu_limit=HAS_LIMITS,
    pids_limit=False,
    gpus=True,
    handler_api=True,
    networks=frozenset({"none", "bridge", "host"}),
    notice="The process runtime isolates nothing: a module can do what you can; "
    "network, gpus and pids settings are not enforced. Where bubblewrap is installed, `isolation: bubblewrap` helps.",
)


def environment(
    spec: ContainerSpec, *, base: str, mark: str, home: str | None = None, python: Path | None = None
) -> dict[str, str]:
    """What the module sees: nothing of ours but where programs, home and language are; ``home`` if that is elsewhere.

    ``python`` is its own environment, if it has one.
    """
    kept = {name: value for name in _KEPT if (value := os.environ.get(name))}
    if home is not None:
        kept |= {"HOME": home, "TMPDIR": home}
    kept["PATH"] = search_path(environment=python, ion=spec.python is not None and spec.python.ion)
    if python is not None:
        kept["VIRTUAL_ENV"] = str(python)
    return kept | dict(spec.env) | {"HANDLER_BASE_DIR": base, MARK: mark}


def check(spec: ContainerSpec, env: Mapping[str, str]) -> str:
    """The program's absolute path. Raises PermanentError for a spec that can never start."""
    where = f"container {spec.name}"
    if not NAME.fullmatch(spec.name):
        raise PermanentError(f"{where}: is no name for a container: lower-case letters, digits and -, 63 at most.")
    if not spec.command:
        wanted = f"the image {spec.image}" if spec.image else "nothing"
        raise PermanentError(
            f"{where}: the process runtime runs commands, not images, and it was given {wanted}. "
            "Add `command` (and `source`), or name another runtime."
        )
    if not _can_be_given((*spec.argv, *env, *env.values())) or "=" in "".join(env):
        raise PermanentError(f"{where}: its command or environment holds what no process can be given.")
    if spec.source is not None and not spec.source.is_dir():
        raise PermanentError(f"{where}: its source {spec.source} is not a directory.")
    if not spec.workspace.is_dir():
        raise PermanentError(f"{where}: its workspace {spec.workspace} is not a directory.")
    return _program(spec, where, env["PATH"])


def _can_be_given(texts: Sequence[str]) -> bool:
    together = "".join(texts)
    try:
        os.fsencode(together)
        return "\0" not in together
    except UnicodeEncodeError:
        return False


def _program(spec: ContainerSpec, where: str, path: str) -> str:
    name = spec.command[0]
    start = spec.source or spec.workspace
    if os.sep not in name and (found := _which(name, path, int(time.monotonic() / _BELIEVED))):
        return found
    program = (start / name).absolute()
    if not program.is_file():
        looked = f"in {start}" if os.sep in name else f"in {start} or on the PATH ({path})"
        raise PermanentError(f"{where}: there is no program {name!r} {looked}.")
    if not os.access(program, os.X_OK):
        raise PermanentError(
            f"{where}: the program {program} is not executable. Make it so (chmod +x), or name what runs it first."
        )
    return str(program)


def limited(spec: ContainerSpec, program: str) -> list[str]:
    """A command line that runs ``program`` with the arguments of ``spec`` under its memory limit.

    The shell sets the limit, so it holds from the start, and exits with 126 and 127 where it should.
    """
    limit = f"ulimit -d {spec.resources.memory // 1024} && " if spec.resources.memory and HAS_LIMITS else ""
    return ["/bin/sh", "-c", f'{limit}exec "$@"', "sh", program, *spec.argv[1:]]


@lru_cache(maxsize=64)
def _which(name: str, path: str, now: int) -> str | None:
    """Where ``name`` is on ``path``: a look at many directories, so that it is good for as long as ``now`` is."""
    found = shutil.which(name, path=path)
    return found and str(Path(found).absolute())


class Cores:
    """Hands out cores in turn, of those that we may use."""

    def __init__(self) -> None:
        self._all = sorted(os.sched_getaffinity(0)) if HAS_LIMITS else []
        self._turn = count()

    def take(self, cpus: float | None) -> set[int] | None:
        """Cores for one that may use ``cpus``; None for all of them."""
        wanted = math.ceil(cpus or 0)
        if not 0 < wanted < len(self._all):
            return None
        return {self._all[next(self._turn) % len(self._all)] for _ in range(wanted)}


def spawn(
    argv: Sequence[str],
    *,
    program: str,
    cwd: str,
    env: Mapping[str, str],
    cores: set[int] | None,
    memory: int | None,
) -> tuple[subprocess.Popen[bytes], int, int]:
    """A process leading its own session and group, and our ends of its output. OSError when it cannot be had."""
    stdout, theirs = os.pipe()
    try:
        stderr, theirs_too = os.pipe()
    except BaseException:
        os.close(stdout)
        os.close(theirs)
        raise
    try:
        with _on(cores):
            process = subprocess.Popen(
                argv,
                executable=program,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs_too,
                start_new_session=True,
            )
        if memory is not None:
            _limit_memory(process, memory)
    except BaseException:
        os.close(stdout)
        os.close(stderr)
        raise
    finally:
        os.close(theirs)
        os.close(theirs_too)
    os.set_blocking(stdout, False)
    os.set_blocking(stderr, False)
    return process, stdout, stderr


@contextmanager
def _on(cores: set[int] | None) -> Iterator[None]:
    """Children started within inherit these cores; only the calling thread is moved."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _limit_memory(process: subprocess.Popen[bytes], memory: int) -> None:
    """Each process of it may have so many bytes of private writable memory, from its first millisecond on."""
    if not HAS_LIMITS:
        return
    try:
        _, most = resource.prlimit(process.pid, resource.RLIMIT_DATA)
        limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (limit, limit))
    except OSError:
        process.kill()
        process.wait()
        raise


def suspected_limit(memory: int | None, code: int, peak: int, log: bytes) -> str | None:
    """What ended a process with ``code``, if it looks as if its limit did: a peak near it, or its own words.

    The kernel fails an allocation and leaves it to the program to say so. ``peak`` in bytes of resident memory.
    """
    if memory is None or code == 0 or not HAS_LIMITS:
        return None
    # A new process starts out with the peak of the one it was forked from.
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > max(0.75 * memory, ours) or _OUT_OF_MEMORY.search(log):
        return f"memory {memory / 1024**2:.4g} MiB"
    return None
