"""Where a module's programs are looked for, and so which ``python3`` it finds: never Ion's own, unless asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

BASE_PYTHON: str = getattr(sys, "_base_executable", None) or sys.executable
"""The Python that Ion's own environment was made from, without what is installed there."""


def search_path(environ: Mapping[str, str] = os.environ, *, environment: Path | None = None, ion: bool = False) -> str:
    """The PATH of a module: ours, without the environment that Ion is installed in.

    ``environment`` is that of the module, which comes first; with ``ion`` Ion's own does. Without either, the Python
    that Ion was installed with is put first where nobody has it on the PATH.
    """
    return _search_path(environ.get("PATH") or os.defpath, environment, ion)


@lru_cache(maxsize=64)
def _search_path(path: str, environment: Path | None, ion: bool) -> str:
    entries = path.split(os.pathsep)
    own = Path(sys.executable).parent
    if ion:
        return os.pathsep.join((str(own), *entries))
    if sys.prefix != sys.base_prefix:
        entries = [entry for entry in entries if not _same(entry, own)]
    if environment is not None:
        return os.pathsep.join((str(environment / "bin"), *entries))
    base = Path(BASE_PYTHON).parent
    if not any(_same(entry, base) for entry in entries):
        entries.insert(0, str(base))
    return os.pathsep.join(entries)


def visible_prefixes(*, ion: bool) -> Iterator[str]:
    """Directories outside of /usr that a Python of a module needs to see, besides its own environment."""
    for prefix in dict.fromkeys((sys.base_prefix, *((sys.prefix,) if ion else ()))):
        if not prefix.startswith("/usr"):
            yield prefix


def _same(entry: str, directory: Path) -> bool:
    if not entry:
        return False
    try:
        return Path(entry).samefile(directory)
    except OSError:
        return False
