"""What a rehearsal would commit beside what was committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ion_core.commits import Commit
from ion_core.events import Event, Pairs, pairs_to_json
from ion_core.rehearsal.step import FileLeft, Rehearsal


@dataclass(frozen=True, kw_only=True)
class FileDifference:
    """One file: ``before`` is None for one that was not committed, ``after`` for one that is not there any more."""

    name: str
    before: FileLeft | None
    after: FileLeft | None

    def to_json(self) -> dict[str, Any]:
        sides = {"before": self.before, "after": self.after}
        return {"name": self.name} | {
            side: None if file is None else {"size": file.size, "sha256": file.sha256} for side, file in sides.items()
        }


@dataclass(frozen=True, kw_only=True)
class PairsDifference:
    """Pairs on one side only, each as often as there are more of it. ``reordered`` if it is but the order."""

    removed: Pairs = ()
    added: Pairs = ()
    reordered: bool = False

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.reordered)

    def to_json(self) -> dict[str, Any]:
        return {
            "removed": pairs_to_json(self.removed),
            "added": pairs_to_json(self.added),
            "reordered": self.reordered,
        }


@dataclass(frozen=True, kw_only=True)
class EventDifference:
    """One event by its id, which stands for the name of its file. ``data`` and ``files`` where both sides have it."""

    id: str
    before: Event | None
    after: Event | None
    data: PairsDifference = PairsDifference()
    files: PairsDifference = PairsDifference()

    def to_json(self) -> dict[str, Any]:
        sides = {"before": self.before, "after": self.after}
        types = {side: None if event is None else event.type for side, event in sides.items()}
        files = {"removed": [name for name, _ in self.files.removed], "added": [name for name, _ in self.files.added]}
        return {
            "eventId": self.id,
            "type": types,
            "data": self.data.to_json(),
            "files": files | {"reordered": self.files.reordered},
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Between a commit and a rehearsal of the same job; false if there is none."""

    files: tuple[FileDifference, ...]
    insights: PairsDifference
    events: tuple[EventDifference, ...]

    def __bool__(self) -> bool:
        return bool(self.files or self.insights or self.events)

    def to_json(self) -> dict[str, Any]:
        return {
            "files": [it.to_json() for it in self.files],
            "insights": self.insights.to_json(),
            "events": [it.to_json() for it in self.events],
        }


def compare(commit: Commit, rehearsal: Rehearsal) -> Difference:
    """By content: names, sizes and sha256 of files; insights and events pair by pair. Times and images do not count."""
    before = {it.name: FileLeft(name=it.name, size=it.size, sha256=it.sha256) for it in commit.files}
    after = {it.name: it for it in rehearsal.files}
    return Difference(
        files=tuple(
            FileDifference(name=name, before=before.get(name), after=after.get(name))
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ),
        insights=_pairs(commit.insights, rehearsal.insights),
        events=tuple(_events(_by_id(commit.events), _by_id(rehearsal.events))),
    )


def _pairs(before: Pairs, after: Pairs) -> PairsDifference:
    had, has = Counter(before), Counter(after)
    removed, added = tuple((had - has).elements()), tuple((has - had).elements())
    return PairsDifference(removed=removed, added=added, reordered=had == has and before != after)


def _by_id(events: Iterable[Event]) -> Mapping[str, Event]:
    return {event.context.event_id: event for event in events}


def _events(before: Mapping[str, Event], after: Mapping[str, Event]) -> Iterable[EventDifference]:
    for id in {**before, **after}:
        had, has = before.get(id), after.get(id)
        if had is None or has is None:
            yield EventDifference(id=id, before=had, after=has)
            continue
        data, files = _pairs(had.data, has.data), _pairs(_names(had), _names(has))
        if had.type != has.type or data or files:
            yield EventDifference(id=id, before=had, after=has, data=data, files=files)


def _names(event: Event) -> Pairs:
    return tuple((name, "") for name in event.files)
