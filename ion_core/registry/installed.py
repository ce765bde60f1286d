"""What is installed: the entry points that name plugins."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ion_core.registry.registry import BrokenPlugin, normalised

GROUP = "ion_core"
EMBEDDED = "ion_core.embedded.plugin"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a plugin comes from; ``load`` imports it. ``package`` is the one at the top of what is imported."""

    distribution: str
    version: str
    entry_point: str
    package: str = ""
    load: Callable[[], object]

    def broken(self, cause: str) -> BrokenPlugin:
        return BrokenPlugin(
            distribution=self.distribution, entry_point=self.entry_point, version=self.version, cause=cause
        )


def installed(broken: list[BrokenPlugin]) -> Iterator[Source]:
    """Entry points of every distribution, read one distribution at a time: bad metadata spoils its own only."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            if not _names_a_plugin(distribution):
                continue  # before the name is asked for: that reads and parses another file
            name = _field(distribution, "Name")
        except Exception as error:
            broken.append(_unreadable(distribution, "", f"its metadata cannot be read: {error}"))
            continue
        if not name:
            broken.append(_unreadable(distribution, "", "its METADATA has no name"))
            continue
        if normalised(name) in seen:
            continue  # the first on the path is what would be imported
        seen.add(normalised(name))
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
            version = _field(distribution, "Version")
        except Exception as error:
            broken.append(_unreadable(distribution, name, f"its entry_points.txt cannot be read: {error}"))
            continue
        for point in points:
            module = point.value.partition(":")[0].strip()
            if module != EMBEDDED:
                yield Source(
                    distribution=name,
                    version=version,
                    entry_point=point.name,
                    package=module.partition(".")[0],
                    load=point.load,
                )


def _names_a_plugin(distribution: importlib.metadata.Distribution) -> bool:
    """Whether it has entry points in our group. Where that cannot be read and may be so, it raises."""
    try:
        return f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or "")
    except UnicodeDecodeError:
        path = _path(distribution)
        if path is not None and f"[{GROUP}]".encode() not in (path / "entry_points.txt").read_bytes():
            return False  # of others, and none of our business
        raise


def _field(distribution: importlib.metadata.Distribution, key: str) -> str:
    """A field of its METADATA, '' without one. Where there is none ``distribution.name`` is None, or an error."""
    metadata: Any = distribution.metadata
    return str(metadata[key]) if metadata is not None and key in metadata else ""


def _path(distribution: importlib.metadata.Distribution) -> Path | None:
    """The directory of its metadata, which has no public name."""
    path = getattr(distribution, "_path", None)
    return None if path is None else Path(str(path))


def _unreadable(distribution: importlib.metadata.Distribution, name: str, cause: str) -> BrokenPlugin:
    """One of which no more than ``name`` is known, if that; where it lies says which it is."""
    path = _path(distribution)
    where = "a distribution of unknown place" if path is None else str(path)
    said = f"{cause} ({where})" if name else cause
    return BrokenPlugin(distribution=name or where, entry_point="", cause=said)


def plugin_readmes() -> Mapping[str, tuple[str, str]]:
    """By plugin distribution what it says that it is, in a line, and its README, of those that came with one."""
    found = {}
    for source in installed([]):
        described = importlib.metadata.metadata(source.distribution).json
        if readme := str(described.get("description", "")).strip():
            found[source.distribution] = str(described.get("summary", "")), readme
    return found


def unknown_distributions(names: Sequence[str]) -> Sequence[str]:
    """Those of ``names`` that are no installed plugin distribution."""
    known = {normalised(source.distribution) for source in installed([])} | {"ion-core"}
    return [name for name in names if normalised(name) not in known]


def plugin_packages() -> Mapping[str, str]:
    """Packages that plugins are imported from, each with the distribution that it is of, and its version."""
    return {source.package: f"{source.distribution} {source.version}".rstrip() for source in installed([])}


def not_installed(name: str) -> str:
    """The sentence about a listed plugin that is not there."""
    known = sorted({source.distribution for source in installed([])})
    near = difflib.get_close_matches(normalised(name), known, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return f'no plugin distribution "{name}" is installed.{hint} Installed: {", ".join(known) or "none"}.'
