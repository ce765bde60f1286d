"""What a module is as a process of this machine: which program, with what environment, under which limits."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ion_core.contracts.runtime import ContainerSpec, RuntimeCapabilities
from ion_core.embedded.programs.spawning import HAS_LIMITS
from ion_core.embedded.programs.table import MARK
from ion_core.errors import PermanentError
from ion_core.python_environments import search_path

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

SHELL = "/bin/sh"
_BELIEVED = 1.0
"""Seconds that we believe a program to be where it was found."""
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


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


def check(spec: ContainerSpec, env: Mapping[str, str], *, where: str, by: str) -> str:
    """The program's absolute path. Raises PermanentError for a spec that can never start: ``where`` begins it.

    ``by`` is who would run it.
    """
    if not NAME.fullmatch(spec.name):
        raise PermanentError(f"{where}: is no name for a container: lower-case letters, digits and -, 63 at most.")
    if not spec.command:
        wanted = f"the image {spec.image}" if spec.image else "nothing"
        raise PermanentError(
            f"{where}: {by} runs commands, not images, and it was given {wanted}. "
            "Add `command` (and `source`), or name another runtime."
        )
    if not _can_be_given((*spec.argv, *env, *env.values())) or "=" in "".join(env):
        raise PermanentError(f"{where}: its command or environment holds what no process can be given.")
    if spec.source is not None and not spec.source.is_dir():
        raise PermanentError(f"{where}: its source {spec.source} is not a directory.")
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

    Each of its processes may have so many bytes of private writable memory. The shell sets the limit, so it holds from
    the start, for whatever it may have begun within its first millisecond, and exits with 126 and 127 where it should.
    Where we are under a lower one ourselves, that stays.
    """
    limit = f"ulimit -d {spec.resources.memory // 1024} 2>/dev/null; " if spec.resources.memory and HAS_LIMITS else ""
    return [SHELL, "-c", f'{limit}exec "$@"', "sh", program, *spec.argv[1:]]


@lru_cache(maxsize=64)
def _which(name: str, path: str, now: int) -> str | None:
    """Where ``name`` is on ``path``: a look at many directories, so that it is good for as long as ``now`` is."""
    found = shutil.which(name, path=path)
    return found and str(Path(found).absolute())
