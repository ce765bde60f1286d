"""What is given and shown, in the shapes that people have it in."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

Data = Mapping[str, str] | Sequence[tuple[str, str]]
Files = Mapping[str, str | Path] | Sequence[str | Path]


def pairs_of(data: Data) -> list[tuple[str, str]]:
    return [*data.items()] if isinstance(data, Mapping) else [(key, value) for key, value in data]


def paths_of(files: Files) -> dict[str, Path]:
    """By the name that modules see: that of the file where none is given. Raises ValueError for one name twice."""
    if isinstance(files, Mapping):
        return {name: Path(path) for name, path in files.items()}
    if isinstance(files, str | Path):
        raise TypeError(f"files: is one path, {str(files)!r}. Give a list of them, or a dict by name.")
    found: dict[str, Path] = {}
    for path in map(Path, files):
        if path.name in found:
            raise ValueError(
                f"files: {str(found[path.name])!r} and {str(path)!r} have the same name. Give a dict with other names."
            )
        found[path.name] = path
    return found


def row(own: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """A row of a table: ``own`` columns first, which win; a key that is there several times has all its values."""
    found: dict[str, str | list[str]] = dict(own)
    for key, value in pairs:
        if key in own:
            continue
        there = found.get(key)
        found[key] = value if there is None else [*([there] if isinstance(there, str) else there), value]
    return found


def in_notebook(page: bytes) -> str:
    """A page of its own inside of another, which it can do nothing to."""
    return (
        '<iframe sandbox style="width: 100%; height: 480px; border: 0" title="Flow" '
        f'srcdoc="{html.escape(page.decode())}"></iframe>'
    )
