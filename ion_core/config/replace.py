"""Puts other providers in the place of those that the file names, before anything of those is looked at.

So a pipeline runs where its broker, its stores and their plugins are not: what their sections say, ``${env:NAME}``
included, does not matter then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ion_core.config.tree import Node, Path, Place, outside


@dataclass(frozen=True, kw_only=True)
class Instead:
    """A provider and its settings. ``said_by`` is what asks for it, such as a flag: it begins a message about it.

    With ``keep_same`` a section that names this provider already stays as it is.
    """

    provider: str
    settings: Mapping[str, str] = field(default_factory=dict)
    said_by: str
    keep_same: bool = False


Replacements = Mapping[Path, Instead | None]
"""By the section's keys, such as ``("storage", "blobs")``; ``("runtimes",)`` is each of them. None leaves it out."""

RUNTIMES: Path = ("runtimes",)


def embedded(*, runtime: str | None = None, said_by: str) -> Replacements:
    """All of it on this machine and for this process: events in memory, files and documents under the state directory.

    Every runtime is ``process``, or the one named; no service runs, and no observer that takes settings is told.
    """
    return {
        ("messaging",): Instead(provider="memory", said_by=said_by),
        ("storage", "blobs"): Instead(provider="local", said_by=said_by),
        ("storage", "documents"): Instead(provider="sqlite", said_by=said_by),
        RUNTIMES: Instead(provider=runtime or "process", said_by="--runtime" if runtime else said_by, keep_same=True),
        ("services",): None,
        ("observers",): None,
    }


def unpublished(*, runtime: str | None = None, stored: bool, said_by: str) -> Replacements:
    """For what publishes nothing: events go to a broker in memory that nobody reads, and no service runs.

    No observer that takes settings is told. Runtimes are those configured, or the one named. Without ``stored`` files
    and documents are in memory too.
    """
    memory = Instead(provider="memory", said_by=said_by)
    found: dict[Path, Instead | None] = {("messaging",): memory, ("services",): None, ("observers",): None}
    if not stored:
        found |= {("storage", "blobs"): memory, ("storage", "documents"): memory}
    if runtime:
        found[RUNTIMES] = Instead(provider=runtime, said_by="--runtime", keep_same=True)
    return found


def replace_sections(root: Node, replacements: Replacements) -> None:
    """Change the tree. Where a section should be and something else is, that is a problem as it is without this."""
    for path, instead in replacements.items():
        if instead is None:
            root.value.pop(path[0], None)
        elif path == RUNTIMES:
            _replace_runtimes(root, instead)
        else:
            _replace(root, path, instead)


def _replace_runtimes(root: Node, instead: Instead) -> None:
    runtimes = root.value.get("runtimes")
    if runtimes is None or runtimes.value is None:
        place = outside(instead.said_by)
        runtimes = root.value["runtimes"] = Node({}, place, place)
    if isinstance(runtimes.value, dict):
        for name in {*runtimes.value, "default"}:
            _replace(root, ("runtimes", name), instead)


def _replace(root: Node, path: Path, instead: Instead) -> None:
    place = outside(instead.said_by)
    node = root
    for part in path[:-1]:
        below = node.value.get(part)
        if below is None or below.value is None:
            below = node.value[part] = Node({}, place, place)
        if not isinstance(below.value, dict):
            return  # reported when the whole file is validated
        node = below
    named = root.at((*path, "provider"))
    if not (instead.keep_same and named is not None and named.value == instead.provider):
        node.value[path[-1]] = _section(instead, place)


def _section(instead: Instead, place: Place) -> Node:
    values = {"provider": instead.provider, **instead.settings}
    return Node({key: Node(value, place, place, text=value) for key, value in values.items()}, place, place)
