"""Images: from what the configuration says to what a container is made of."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, NoReturn, TypeVar

from ion_core.containers.builds import Builds
from ion_core.containers.content import Recipe
from ion_core.containers.passing import may_pass
from ion_core.contracts.runtime import ContainerSpec
from ion_core.errors import ImageUnavailable, TransientError

log = logging.getLogger(__name__)

_FRESH = 5.0
"""Seconds for which an image found is taken for the one its name stands for."""
_ID = re.compile(r"(sha256:)?[0-9a-f]{64}")

Wanted = str | Recipe
"""An image by its name, or what it is built from."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a name stands for now. ``digest`` is that of its manifest."""

    id: str
    digest: str
    user: str
    labels: Mapping[str, str]
    sets_home: bool = False
    volumes: Sequence[str] = ()
    stop_signal: str = ""


_Image = TypeVar("_Image", bound=Image)


class Images(ABC, Generic[_Image]):
    """Finds the image of a container, pulling or building it first where that is needed; each image once at a time.

    ``pull`` is when images are pulled, ``build_timeout`` in seconds is for one build.
    """

    def __init__(self, *, pull: Literal["missing", "always", "never"], build_timeout: float) -> None:
        self._pull_when = pull
        self._builds = Builds(self.build, build_timeout)
        self._locks: dict[Wanted, asyncio.Lock] = {}
        self._fresh: dict[Wanted, tuple[float, _Image]] = {}

    @abstractmethod
    async def found(self, name: str) -> _Image | None:
        """The image of that name on this machine."""

    @abstractmethod
    async def pull(self, name: str) -> str:
        """Pull it; why that failed, empty if it did not."""

    @abstractmethod
    async def build(self, name: str, directory: Path, file: str) -> str:
        """Build it; see ``ion_core.containers.builds.Build``."""

    async def resolve(self, spec: ContainerSpec) -> _Image:
        """The image for that container; which one its name or directory stands for was seen some seconds ago at most.

        Raises ImageUnavailable; TransientError when a registry may be back soon.
        """
        wanted = _wanted(spec)
        if (image := self._still_fresh(wanted)) is not None:
            return image
        if isinstance(wanted, str):
            image = await self._resolve(wanted)
        else:
            async with self._lock(wanted):
                image = self._still_fresh(wanted) or await self._built(wanted)  # others may have built it meanwhile
        self._fresh[wanted] = time.monotonic(), image
        return image

    def forget(self, spec: ContainerSpec) -> None:
        """It is not what it was: look again, and build again what is built here."""
        wanted = _wanted(spec)
        self._fresh.pop(wanted, None)
        if isinstance(wanted, Recipe):
            self._builds.forget(wanted)

    def _still_fresh(self, wanted: Wanted) -> _Image | None:
        found_at, image = self._fresh.get(wanted, (0.0, None))
        pulled_each_time = isinstance(wanted, str) and self._pull_when == "always"
        return None if pulled_each_time or time.monotonic() - found_at >= _FRESH else image

    async def _built(self, recipe: Recipe) -> _Image:
        if recipe.image is not None:
            _refuse_short(recipe.image)
        name = await self._builds.name(recipe)
        image = await self.found(name)
        if image is None:  # somebody has removed it since it was built
            self._builds.forget(recipe)
            name = await self._builds.name(recipe)
            image = await self.found(name)
        return image or _gone(name)

    async def _resolve(self, name: str) -> _Image:
        _refuse_short(name)
        if self._pull_when != "always" and (image := await self.found(name)):
            return image
        if self._pull_when == "never" or name.startswith("localhost/") or _ID.fullmatch(name):
            raise _unavailable(name, "it is not on this machine and is not pulled. Build or pull it.")
        async with self._lock(name):
            if self._pull_when == "missing" and (image := await self.found(name)):
                return image  # somebody else has pulled it meanwhile
            log.info("pulling an image", extra={"image": name})
            if problem := await self.pull(name):
                if may_pass(problem):
                    raise TransientError(f"image {name}: cannot be pulled now: {problem}")
                raise _unavailable(name, problem)
        return await self.found(name) or _gone(name)

    def _lock(self, wanted: Wanted) -> asyncio.Lock:
        return self._locks.setdefault(wanted, asyncio.Lock())


def _gone(name: str) -> NoReturn:
    raise TransientError(f"image {name}: was removed just now.")


def _wanted(spec: ContainerSpec) -> Wanted:
    if spec.build is not None:
        return Recipe(spec.build, spec.image, spec.module)
    if not spec.image:
        raise ImageUnavailable("image unavailable: none is named. Give the module an image, or a build.")
    return spec.image


def _unavailable(name: str, why: str) -> ImageUnavailable:
    return ImageUnavailable(f"image unavailable: {name}: {why}")


def _refuse_short(name: str) -> None:
    """Which registry a short name comes from is up to the machine: somebody else's image may be run."""
    registry, slash, _ = name.partition("/")
    if _ID.fullmatch(name) or (slash and (registry == "localhost" or "." in registry or ":" in registry)):
        return
    full = name if slash else f"library/{name}"
    raise _unavailable(
        name,
        f"a short name may come from any registry. Write it in full, such as docker.io/{full}, or localhost/{name}.",
    )


def read_accounts(authfile: Path) -> Mapping[str, tuple[str, str]]:
    """User and password by registry, or path of one. Raises ValueError, without what is in the file."""
    try:
        entries = json.loads(authfile.read_text(encoding="utf-8"))["auths"]
        accounts: dict[str, tuple[str, str]] = {}
        for place, entry in entries.items():
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            accounts[place.rstrip("/")] = user, password
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{authfile}: cannot be read as accounts ({type(error).__name__}). "
            f"Write it by `podman login --authfile {authfile}`."
        ) from error
    return accounts


def accounts_for(authfile: Path | None, image: str) -> Mapping[str, tuple[str, str]]:
    """Those of a file that may have changed since it was checked. Raises ImageUnavailable."""
    try:
        return {} if authfile is None else read_accounts(authfile)
    except ValueError as error:
        raise _unavailable(image, f"authfile: {error}") from error
