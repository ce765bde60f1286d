"""Images: from what the configuration says to what a container is made of."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ion_core.contracts.runtime import ContainerSpec
from ion_core.errors import ImageUnavailable, TransientError
from ion_podman.build import Builds, Recipe, may_pass
from ion_podman.client import Answer, Client, in_path
from ion_podman.settings import PodmanSettings

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


@dataclass
class Images:
    """Finds the image of a container, pulling or building it first where that is needed; each image once at a time."""

    client: Client
    settings: PodmanSettings
    _locks: dict[Wanted, asyncio.Lock] = field(default_factory=dict)
    _fresh: dict[Wanted, tuple[float, Image]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limit = self.settings.pull_timeout.total_seconds()
        self._builds = Builds(self.client, limit, pull=self.settings.pull)

    async def resolve(self, spec: ContainerSpec) -> Image:
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
                image = self._still_fresh(wanted) or await self._build(wanted)  # others may have built it meanwhile
        self._fresh[wanted] = time.monotonic(), image
        return image

    def forget(self, spec: ContainerSpec) -> None:
        """It is not what it was: look again, and build again what is built here."""
        wanted = _wanted(spec)
        self._fresh.pop(wanted, None)
        if isinstance(wanted, Recipe):
            self._builds.forget(wanted)

    def _still_fresh(self, wanted: Wanted) -> Image | None:
        found_at, image = self._fresh.get(wanted, (0.0, None))
        pulled_each_time = isinstance(wanted, str) and self.settings.pull == "always"
        return None if pulled_each_time or time.monotonic() - found_at >= _FRESH else image

    async def _build(self, recipe: Recipe) -> Image:
        if recipe.image is not None:
            _refuse_short(recipe.image)
        accounts = _accounts(self.settings.authfile, str(recipe.directory))
        name = await self._builds.name(recipe, accounts)
        image = await self._found(name)
        if image is None:  # somebody has removed it since it was built
            self._builds.forget(recipe)
            name = await self._builds.name(recipe, accounts)
            image = await self._found(name)
        return image or _gone(name)

    async def _resolve(self, name: str) -> Image:
        _refuse_short(name)
        if self.settings.pull != "always" and (image := await self._found(name)):
            return image
        if self.settings.pull == "never" or name.startswith("localhost/") or _ID.fullmatch(name):
            raise _unavailable(name, "it is not on this machine and is not pulled. Build or pull it.")
        async with self._lock(name):
            if self.settings.pull == "missing" and (image := await self._found(name)):
                return image  # somebody else has pulled it meanwhile
            await self._pull(name)
        return await self._found(name) or _gone(name)

    async def _found(self, name: str) -> Image | None:
        answer = await self.client.call("GET", f"/images/{in_path(name)}/json")
        if answer.ok:
            return _image(answer.body)
        if answer.status == 404 or no_such_image(answer):
            return None
        raise answer.error(f"image {name}")

    async def _pull(self, name: str) -> None:
        log.info("pulling an image", extra={"image": name})
        query = {"reference": name, "policy": "always", "quiet": True}
        limit = self.settings.pull_timeout.total_seconds()
        headers = _credentials(self.settings.authfile, name)
        answer = await self.client.call("POST", "/images/pull", query=query, headers=headers, timeout=limit)
        if problem := _pull_problem(answer):
            if may_pass(problem):
                raise TransientError(f"image {name}: cannot be pulled now: {problem}")
            raise _unavailable(name, f"{problem}")

    def _lock(self, wanted: Wanted) -> asyncio.Lock:
        return self._locks.setdefault(wanted, asyncio.Lock())


def _wanted(spec: ContainerSpec) -> Wanted:
    if spec.build is not None:
        return Recipe(spec.build, spec.image, spec.module)
    if not spec.image:
        raise ImageUnavailable("image unavailable: none is named. Give the module an image, or a build.")
    return spec.image


def _gone(name: str) -> NoReturn:
    raise TransientError(f"image {name}: was removed just now.")


def no_such_image(answer: Answer) -> bool:
    """4.3 answers some of these with 500."""
    return not answer.ok and ("no such image" in answer.message or "image not known" in answer.message)


def _image(body: Mapping[str, Any]) -> Image:
    config = body.get("Config") or {}
    return Image(
        id=body["Id"],
        digest=body.get("Digest") or f"sha256:{body['Id']}",
        user=config.get("User") or body.get("User") or "",
        labels=body.get("Labels") or {},
        sets_home=any(it.startswith("HOME=") for it in config.get("Env") or ()),
        volumes=tuple(sorted(config.get("Volumes") or ())),
        stop_signal=str(config.get("StopSignal") or ""),
    )


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


def _pull_problem(answer: Answer) -> str:
    """What went wrong: a refusal, or an ``error`` in the report, which is JSON line by line."""
    if not answer.ok:
        return answer.message
    reports = [answer.body] if isinstance(answer.body, dict) else []
    if isinstance(answer.body, str):
        try:
            reports = [json.loads(line) for line in answer.body.splitlines() if line.strip()]
        except ValueError:
            return f"its report cannot be read: {answer.body[:200]}"
    if problems := [str(report["error"]) for report in reports if report.get("error")]:
        return problems[0]
    return "" if any(report.get("id") for report in reports) else "the report of the pull was cut short: unexpected EOF"


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


def _accounts(authfile: Path | None, image: str) -> Mapping[str, tuple[str, str]]:
    try:
        return {} if authfile is None else read_accounts(authfile)
    except ValueError as error:
        raise _unavailable(image, f"authfile: {error}") from error


def _credentials(authfile: Path | None, image: str) -> dict[str, str]:
    """A header with the account for the image's registry, or for the longest path of it."""
    accounts = _accounts(authfile, image)
    places = [place for place in accounts if image.startswith(f"{place}/")]
    if not places:
        return {}
    user, password = accounts[max(places, key=len)]
    secret = base64.urlsafe_b64encode(json.dumps({"username": user, "password": password}).encode())
    return {"X-Registry-Auth": secret.decode()}
