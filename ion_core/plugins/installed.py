"""What is installed: the entry points that name plugins."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ion_core.plugins.registry import BrokenPlugin, normalised

GROUP = "ion_core"
BUILTIN = "ion_core.builtin.plugin"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a plugin comes from; ``load`` imports it."""

    distribution: str
    version: str
    entry_point: str
    load: Callable[[], object]

    def broken(self, cause: str) -> BrokenPlugin:
        return BrokenPlugin(
            distribution=self.distribution, entry_point=self.entry_point, version=self.version, cause=cause
        )


def installed(broken: list[BrokenPlugin]) -> Iterator[Source]:
    """Entry points of every distribution, read one distribution at a time: bad metadata spoils its own only."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        text = distribution.read_text("entry_points.txt") or ""
        if f"[{GROUP}]" not in text:
            continue  # before the name is asked for: that reads and parses another file
        name = distribution.name
        if normalised(name) in seen:
            continue  # the first on the path is what would be imported
        seen.add(normalised(name))
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            cause = f"its entry_points.txt cannot be read: {error}"
            broken.append(BrokenPlugin(distribution=name, entry_point="", cause=cause))
            continue
        for point in points:
            if point.value.partition(":")[0].strip() != BUILTIN:
                yield Source(distribution=name, version=distribution.version, entry_point=point.name, load=point.load)


def unknown_distributions(names: Sequence[str]) -> Sequence[str]:
    """Those of ``names`` that are no installed plugin distribution."""
    known = {normalised(source.distribution) for source in installed([])} | {"ion-core"}
    return [name for name in names if normalised(name) not in known]


def not_installed(name: str) -> str:
    """The sentence about a listed plugin that is not there."""
    known = sorted({source.distribution for source in installed([])})
    near = difflib.get_close_matches(normalised(name), known, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return f'no plugin distribution "{name}" is installed.{hint} Installed: {", ".join(known) or "none"}.'
