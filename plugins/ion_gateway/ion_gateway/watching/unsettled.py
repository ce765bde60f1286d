"""Files that are there and may not be complete yet: how long each has been as it is."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ion_gateway.watching.entries import Entry


class Unsettled:
    """A file is settled once it was seen as it is for ``stable`` seconds. Times are of a clock that is never set.

    What its server says of when it was changed does not count: clocks differ, and copies bring times of their own.
    """

    def __init__(self, stable: float) -> None:
        self._stable = stable
        self._since: dict[str, tuple[str, float]] = {}
        """Version, and when it was seen first; those that were seen first come first."""

    def settled(self, entry: Entry, now: float) -> bool:
        """Whether it is. Then it is forgotten: whoever asks takes it."""
        version, since = self._since.get(entry.path, ("", now))
        if version != entry.version:
            self._since.pop(entry.path, None)
            if self._stable > 0:
                self._since[entry.path] = (entry.version, now)
            return self._stable <= 0
        if now - since < self._stable:
            return False
        del self._since[entry.path]
        return True

    def due(self, now: float) -> list[str]:
        """What is to be looked at again."""
        found = []
        for path, (_, since) in self._since.items():
            if now - since < self._stable:
                break
            found.append(path)
        return found

    def next(self) -> float | None:
        """When something is due, if anything ever is."""
        return next((since + self._stable for _, since in self._since.values()), None)

    def forget(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._since.pop(path, None)

    def keep(self, paths: Container[str]) -> None:
        """Forget all others."""
        self.forget([path for path in self._since if path not in paths])
