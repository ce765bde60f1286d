"""The files of a new project or module: those in ``templates/``, which run as they are once names are put in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from ion_core.module_library import LIBRARY, library
from ion_core.scaffold.writing import NewFile

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "python": ("python3", "main.py"),
    "sh": ("sh", "main.sh"),
    "node": ("node", "main.js"),
    "go": ("sh", "run.sh"),
}
LANGUAGES = tuple(COMMANDS)
CASE = "first"
"""The name of the recorded case that a new module comes with."""

_DOTTED = {"gitignore": ".gitignore"}
"""Files that would have an effect in our own tree under their own name."""


@dataclass(frozen=True, kw_only=True)
class ModuleNames:
    """A module's name and the event types it takes and may publish, at least one of each."""

    name: str
    subscribes: tuple[str, ...]
    publishes: tuple[str, ...]

    def filled(self, text: str) -> str:
        """``text`` with the names in place of @NAME@, @SUBSCRIBES@ and @PUBLISHES@, of types the first."""
        names = {"NAME": self.name, "SUBSCRIBES": self.subscribes[0], "PUBLISHES": self.publishes[0]}
        for key, value in names.items():
            text = text.replace(f"@{key}@", value)
        return text


def project_files(names: ModuleNames) -> dict[str, NewFile]:
    """A project's own files, by path below its directory; ``names`` are those of its first module."""
    return dict(_template("project", "", names))


def module_files(language: str, names: ModuleNames) -> dict[str, NewFile]:
    """A module in ``language``, one of LANGUAGES, and a recorded case for it, by path beside the configuration."""
    source = f"modules/{names.name}"
    files = dict(_template(language, f"{source}/", names))
    if language in LIBRARY:
        files[f"{source}/{LIBRARY[language]}"] = NewFile(library(language).encode())
    return files | dict(_template("case", f"cases/{names.name}/{CASE}/", names))


def module_entry(language: str, names: ModuleNames) -> dict[str, Any]:
    """What the configuration says of the module."""
    own = {"python": {"requirements": f"modules/{names.name}/requirements.txt"}} if language == "python" else {}
    return {
        "image": f"localhost/{names.name}:latest",
        "command": list(COMMANDS[language]),
        "source": f"modules/{names.name}",
        **own,
        "subscribes": list(names.subscribes),
        "publishes": list(names.publishes),
    }


def _template(name: str, prefix: str, names: ModuleNames) -> Iterator[tuple[str, NewFile]]:
    yield from _below(resources.files("ion_core.scaffold").joinpath("templates", name), prefix, names)


def _below(directory: Traversable, prefix: str, names: ModuleNames) -> Iterator[tuple[str, NewFile]]:
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _below(entry, f"{prefix}{entry.name}/", names)
            continue
        content = names.filled(entry.read_text(encoding="utf-8")).encode()
        yield prefix + _DOTTED.get(entry.name, entry.name), NewFile(content, executable=content.startswith(b"#!"))
