"""Images as Podman's own command keeps, pulls and builds them: asked when one is looked for, and for no container."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ion_core.containers import images
from ion_core.containers.images import accounts_for
from ion_core.errors import StorageFull, TransientError
from ion_oci.programs import Ended, run
from ion_oci.settings import OciSettings

_LAST_LINES = 5
_NONE_SUCH = re.compile(r"no such (image|object)|image not known|failed to find image", re.IGNORECASE)
_LOGGED = re.compile(r'^time="[^"]*" level=\w+ msg="?|"$')


class ImageGone(TransientError):
    """It was there when its name was looked up, and was removed since."""


@dataclass(frozen=True, kw_only=True)
class Image(images.Image):
    """What a name stands for now, with all that it says of its program."""

    env: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    directory: str = "/"


class Images(images.Images[Image]):
    """Finds the image of a container, pulling or building it first where that is needed; each image once at a time."""

    def __init__(self, podman: str, settings: OciSettings) -> None:
        super().__init__(pull=settings.pull, build_timeout=settings.pull_timeout.total_seconds())
        self._podman = podman
        self._settings = settings

    async def found(self, name: str) -> Image | None:
        said = await self._said("image", "inspect", "--", name)
        if said.code == 0:
            return _image(json.loads(said.stdout)[0])
        if _NONE_SUCH.search(said.stderr):
            return None
        raise trouble(f"image {name}", said)

    async def pull(self, name: str) -> str:
        accounts = self._account_file(name)
        said = await self._said("pull", "--quiet", *accounts, "--", name, long=True)
        return "" if said.code == 0 else last_of(said.stderr)

    async def build(self, name: str, directory: Path, file: str) -> str:
        """Podman takes from its cache what it has built before."""
        given = ["--tag", name, "--file", str(directory / file), f"--pull={self._settings.pull}", "--layers"]
        given += ["--rm", "--force-rm", *self._account_file(str(directory))]
        said = await self._said("build", *given, "--", str(directory), long=True)
        if said.code == 0:
            return ""
        printed = [line.rstrip() for line in said.stdout.splitlines() if line.strip()][-_LAST_LINES:]
        return "\n".join([last_of(said.stderr), *printed])

    async def mounted(self, image: Image) -> Path:
        """Where its files are to be seen, until ``unmount``. Raises ImageGone."""
        said = await self._said("image", "mount", "--", image.id)
        if said.code:
            if _NONE_SUCH.search(said.stderr):
                raise ImageGone(f"image {image.id}: was removed just now.")
            raise trouble(f"image {image.id}", said)
        return Path(said.stdout.strip())

    async def unmount(self, id: str) -> None:
        """Fine if it is gone, or is not mounted."""
        await self._said("image", "unmount", "--", id)

    def _account_file(self, name: str) -> Sequence[str]:
        authfile = self._settings.authfile
        accounts_for(authfile, name)  # refuses what cannot be read, without a word of what is in it
        return () if authfile is None else (f"--authfile={authfile}",)

    async def _said(self, *arguments: str, long: bool = False) -> Ended:
        limit = self._settings.pull_timeout if long else self._settings.timeout
        seconds = limit.total_seconds()
        return await run([self._podman, *arguments], timeout=seconds, env=os.environ, where="podman")


def last_of(stderr: str) -> str:
    """What went wrong, of all that the command said: its last line."""
    lines = [_LOGGED.sub("", line.strip()) for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else "it said nothing of why"


def trouble(where: str, said: Ended) -> StorageFull | TransientError:
    """What it means for a job that Podman's storage does not work."""
    problem = last_of(said.stderr)
    if "no space left" in problem or "disk quota exceeded" in problem:
        return StorageFull(f"{where}: {problem}. Free some space where Podman keeps its images.")
    return TransientError(f"{where}: Podman's storage cannot be used: {problem}")


def _image(body: Mapping[str, Any]) -> Image:
    config = body.get("Config") or {}
    env = tuple(config.get("Env") or ())
    return Image(
        id=body["Id"],
        digest=body.get("Digest") or f"sha256:{body['Id']}",
        user=config.get("User") or body.get("User") or "",
        labels=body.get("Labels") or {},
        sets_home=any(it.startswith("HOME=") for it in env),
        volumes=tuple(sorted(config.get("Volumes") or ())),
        stop_signal=str(config.get("StopSignal") or ""),
        env=env,
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        directory=config.get("WorkingDir") or "/",
    )
