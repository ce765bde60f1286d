"""Images built from directories: each once, and again when something in its directory has changed."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from ion_core.containers.content import FILES, Recipe, content, looks
from ion_core.containers.passing import may_pass
from ion_core.errors import ImageUnavailable, ProviderError, StorageFull, TransientError

log = logging.getLogger(__name__)

_AGAIN_AFTER = 60.0
"""Seconds for which the failure of a build stands, while nothing in its directory changes."""

Build = Callable[[str, Path, str], Awaitable[str]]
"""Given a name, a directory and the file in it that says how: why there is no such image, empty if there is one.

The error is on the first line, and what was printed last below it. What it raises is no matter of the directory.
"""


@dataclass(frozen=True)
class _Failed:
    content: str
    until: float
    why: str


@dataclass
class Builds:
    """Builds by ``build``, which takes from its cache what it has built before. ``timeout`` in seconds is for one."""

    build: Build
    timeout: float
    _seen: dict[Path, tuple[str, str]] = field(default_factory=dict)
    _built: dict[Recipe, str] = field(default_factory=dict)
    _failed: dict[Recipe, _Failed] = field(default_factory=dict)

    async def name(self, recipe: Recipe) -> str:
        """The name of an image of what is in the directory now, built before this returns, if it was not yet.

        Raises ImageUnavailable when it cannot be built, TransientError when that may be a matter of time.
        """
        content = await asyncio.to_thread(self._content, recipe.directory)
        name = recipe.name(content)
        if self._built.get(recipe) == content:
            return name
        failed = self._failed.get(recipe)
        if failed is not None and failed.content == content and time.monotonic() < failed.until:
            raise ImageUnavailable(failed.why)
        log.info("building an image", extra={"image": name, "directory": str(recipe.directory)})
        if error := await self._build(name, recipe.directory):
            if isinstance(error, ImageUnavailable):
                self._failed[recipe] = _Failed(content, time.monotonic() + _AGAIN_AFTER, str(error))
            raise error
        self._built[recipe] = content
        return name

    def forget(self, recipe: Recipe) -> None:
        """It was removed: build it again."""
        self._built.pop(recipe, None)

    def _content(self, directory: Path) -> str:
        """Files are read again only where one looks other than last time."""
        try:
            seen_now = looks(directory)
            seen = self._seen.get(directory)
            if seen is None or seen[0] != seen_now:
                seen = self._seen[directory] = seen_now, content(directory)
        except OSError as error:
            raise ImageUnavailable(f"image unavailable: {directory} cannot be read: {error}") from error
        return seen[1]

    async def _build(self, name: str, directory: Path) -> ProviderError | None:
        file = next((file for file in FILES if (directory / file).is_file()), None)
        if file is None:
            return ImageUnavailable(f"image unavailable: {name}: there is no {' or '.join(FILES)} in {directory}.")
        try:
            async with asyncio.timeout(self.timeout):
                problem = await self.build(name, directory, file)
        except TimeoutError as error:
            raise TransientError(f"image {name}: was not built within {self.timeout:g} s.") from error
        return failure(name, directory / file, problem) if problem else None


def failure(name: str, file: Path, problem: str) -> ProviderError:
    """What it means for a job; told by the error alone, since a step may print anything."""
    error = problem.splitlines()[0]
    said = f"{file} cannot be built: {problem}"
    if "no space left" in error or "disk quota exceeded" in error:
        return StorageFull(f"image {name}: {said}. Free some space where Podman keeps its images.")
    if may_pass(error):
        if local := re.search(r"docker://(localhost/\S+?):\s", error):  # what it begins with, which no registry has
            said = f"{said}. Build {local[1]} on this machine first: `podman build -t {local[1]} …`."
        return TransientError(f"image {name}: {said}")
    return ImageUnavailable(f"image unavailable: {name}: {said}")
