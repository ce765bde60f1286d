"""A base image with this machine's Python in it: no registry is needed for one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

NOT_NEEDED = {"test", "tests", "site-packages", "idlelib", "tkinter", "turtledemo", "__pycache__"}


def libraries(*programs: Path) -> Iterator[Path]:
    """Shared libraries they need, the loader among them."""
    for program in programs:
        told = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
        yield from (Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+)", told, re.M))


def link(source: str, target: str) -> None:
    """Like copying, at no cost where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def lay_out_python(root: Path) -> Path:
    """Python and its library below ``root``, as an image has them; the directory for packages."""
    prefix = root / "usr/local"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns(*NOT_NEEDED, "config-*", "*.a")
    shutil.copytree(stdlib, prefix / "lib" / version, ignore=ignored, copy_function=link)
    program = Path(sys.executable).resolve()
    (prefix / "bin").mkdir()
    shutil.copy2(program, prefix / "bin/python3")
    lay_out_libraries(root, program, *stdlib.glob("lib-dynload/*.so"))
    return prefix / "lib" / version / "site-packages"


def lay_out_libraries(root: Path, *programs: Path, besides: Path | None = None) -> None:
    """What the programs are linked with, at its own place; not what is below ``besides``."""
    for library in set(libraries(*programs)):
        target = root / str(library).lstrip("/")
        if not target.exists() and not (besides and library.is_relative_to(besides)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, target)
