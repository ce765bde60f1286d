"""Where the pages of the documentation lie: beside the package in a clone, else where the distribution has put them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

INSTALLED = "share/doc/ion-core"


def pages_directory() -> Path | None:
    """None where ion-core was packed without them."""
    clone = Path(__file__).resolve().parents[1]
    if (clone / "docs/cli.md").is_file() and (clone / "pyproject.toml").is_file():
        return clone / "docs"
    try:
        installed = files("ion-core") or []
    except PackageNotFoundError:
        return None
    for file in installed:
        if file.as_posix().endswith(f"{INSTALLED}/cli.md"):
            return Path(str(file.locate())).resolve().parent
    return None
