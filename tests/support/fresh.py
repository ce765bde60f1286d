"""Environments that have nothing but what is named, made without asking an index for what is here already."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def fresh_environment(directory: Path, distributions: Sequence[str]) -> Path:
    """Its ``python``. These distributions of ours are in it, as links, with all that they require in any case."""
    venv.create(directory, with_pip=False, symlinks=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    for name in set(_closure(distributions)):
        for path in _top_level(importlib.metadata.distribution(name)):
            link = packages / path.name
            if not link.exists():
                link.symlink_to(path)
    return directory / "bin/python"


def install_wheels(python: Path, wheels: Sequence[Path]) -> None:
    """With the installer that we have; what they require is there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr


def _closure(names: Sequence[str]) -> Iterator[str]:
    """Requirements with a marker are for other Pythons, other systems, or an extra."""
    for name in names:
        yield name
        wanted = [it for it in importlib.metadata.requires(name) or [] if ";" not in it]
        yield from _closure([found[0] for it in wanted if (found := _NAME.match(it))])


def _top_level(distribution: importlib.metadata.Distribution) -> set[Path]:
    """Files and directories at the top of its packages; programs lie elsewhere."""
    site = Path(str(distribution.locate_file("")))
    return {site / file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
