"""Which files of a folder are meant: by the patterns of its settings, and never what others are still at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TEMPORARY = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".swp", "~")
"""Endings, in any case, of names under which programs write what they rename later."""


def pattern_problem(pattern: str) -> str:
    """What is wrong with it, or ''."""
    if not pattern or pattern.startswith("/") or "\\" in pattern or "\0" in pattern:
        return f"must be relative to the folder, with / between directories, such as **/*.jpg (got {pattern!r})"
    if any(part in (".", "..", "") for part in pattern.split("/")):
        return f"must not have an empty part, . or .. in it (got {pattern!r})"
    try:
        _compiled([pattern])
    except Exception as error:  # the library raises several of its own: too many alternatives first of all
        return f"is no pattern: {error} (got {pattern!r})"
    return ""


def is_passed_over(name: str) -> bool:
    """Hidden, or temporary by its name."""
    return name.startswith(".") or name.lower().endswith(TEMPORARY)


class Patterns:
    """``*``, ``?``, ``[…]`` within a name, ``**`` across directories, ``{a,b}``. Capitals count.

    ``mark`` is the ending of marks: ``photo.jpg.done`` is listed where ``photo.jpg`` is.
    """

    def __init__(self, patterns: Sequence[str], mark: str | None) -> None:
        self._compiled = _compiled(patterns)
        self._mark = mark
        parts = [pattern.split("/") for pattern in patterns]
        braced = any("{" in pattern for pattern in patterns)
        self._depth = None if braced or any("**" in it for it in parts) else max(len(it) for it in parts)

    @property
    def deep(self) -> bool:
        """Whether what lies in directories of the folder may be meant."""
        return self._depth is None or self._depth > 1

    def enters(self, directory: str) -> bool:
        """Whether what lies in this one may be meant. '' is the folder itself; those above it are not asked of."""
        if not directory:
            return True
        name = directory.rpartition("/")[2]
        return not name.startswith(".") and (self._depth is None or directory.count("/") + 2 <= self._depth)

    def wants(self, path: str) -> bool:
        """Whether this file is meant, or a mark of one. Directories above it are not asked of."""
        if self._mark is not None and path.endswith(self._mark):
            path = path[: -len(self._mark)]
        return not is_passed_over(path.rpartition("/")[2]) and bool(self._compiled.match(path))

    def wants_all_of(self, path: str) -> bool:
        """The same of a path of which nothing is known yet."""
        parents = path.split("/")[:-1]
        entered = all(self.enters("/".join(parents[: n + 1])) for n in range(len(parents)))
        return entered and self.wants(path)


def _compiled(patterns: Sequence[str]) -> Any:
    from wcmatch import glob

    flags = glob.GLOBSTAR | glob.DOTGLOB | glob.BRACE | glob.CASE | glob.FORCEUNIX
    return glob.compile(list(patterns), flags=flags)
