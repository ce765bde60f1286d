"""Images built from directories: each once, and again when something in its directory has changed."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import json
import logging
import os
import re
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ion_core.errors import ImageUnavailable, ProviderError, StorageFull, TransientError
from ion_podman.client import Answer, Client
from ion_podman.library import post

log = logging.getLogger(__name__)

FILES = ("Containerfile", "Dockerfile")
_LAST_LINES = 5
_AGAIN_AFTER = 60.0
"""Seconds for which the failure of a build stands, while nothing in its directory changes."""
_PASSING = re.compile(
    r"toomanyrequests|too many requests|status ?(code)?( from registry)?:? 5\d\d|i/o timeout|tls handshake timeout"
    r"|connection reset|(?<!53: )(?<!53: read: )connection refused|unexpected eof",
    re.IGNORECASE,
)
"""What a registry's answer has in it when it is worth asking again; a name server that is not there is not."""


def may_pass(problem: str) -> bool:
    """Whether a registry that said so may be back soon."""
    return _PASSING.search(problem) is not None


@dataclass(frozen=True)
class Recipe:
    """What an image is built from, and the name it gets; without one, its module's and that of its content."""

    directory: Path
    image: str | None = None
    module: str | None = None

    def name(self, content: str) -> str:
        return self.image or f"localhost/ion/{self.module or 'module'}:{content[:16]}"


@dataclass(frozen=True)
class _Failed:
    content: str
    until: float
    why: str


@dataclass
class Builds:
    """Builds by Podman's service, which takes from its cache what it has built before.

    ``timeout`` in seconds is for one build, ``pull`` is when the images it begins with are pulled.
    """

    client: Client
    timeout: float
    pull: str = "missing"
    _seen: dict[Path, tuple[str, str]] = field(default_factory=dict)
    _built: dict[Recipe, str] = field(default_factory=dict)
    _failed: dict[Recipe, _Failed] = field(default_factory=dict)

    async def name(self, recipe: Recipe, accounts: Mapping[str, tuple[str, str]]) -> str:
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
        try:
            await self._build(name, recipe.directory, accounts)
        except ImageUnavailable as error:
            self._failed[recipe] = _Failed(content, time.monotonic() + _AGAIN_AFTER, str(error))
            raise
        self._built[recipe] = content
        return name

    def forget(self, recipe: Recipe) -> None:
        """It was removed: build it again."""
        self._built.pop(recipe, None)

    def _content(self, directory: Path) -> str:
        """Files are read again only where one looks other than last time."""
        try:
            looks = _looks(directory)
            seen = self._seen.get(directory)
            if seen is None or seen[0] != looks:
                seen = self._seen[directory] = looks, _content(directory)
        except OSError as error:
            raise ImageUnavailable(f"image unavailable: {directory} cannot be read: {error}") from error
        return seen[1]

    async def _build(self, name: str, directory: Path, accounts: Mapping[str, tuple[str, str]]) -> None:
        file = next((file for file in FILES if (directory / file).is_file()), None)
        if file is None:
            raise ImageUnavailable(f"image unavailable: {name}: there is no {' or '.join(FILES)} in {directory}.")
        query = {"t": name, "dockerfile": file, "pullpolicy": self.pull, "rm": True, "forcerm": True, "layers": True}
        packed = tempfile.TemporaryFile(prefix="ion-build-")  # noqa: SIM115 - the library's thread closes it
        try:
            await asyncio.to_thread(_pack, directory, packed)
        except BaseException as error:
            packed.close()
            if not isinstance(error, OSError):
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"image {name}: {directory} cannot be packed: {error}. Free some space.") from error
            raise ImageUnavailable(f"image unavailable: {name}: {directory} cannot be read: {error}") from error
        try:
            async with asyncio.timeout(self.timeout):
                answer = await post(
                    self.client.socket, "/build", packed, query=query, headers=_account_header(accounts)
                )
        except TimeoutError as error:
            raise TransientError(f"image {name}: was not built within {self.timeout:g} s.") from error
        if problem := _problem(answer):
            raise _failure(name, directory / file, problem)


def _failure(name: str, file: Path, problem: str) -> ProviderError:
    """What it means for a job; told by the error alone, since a step may print anything."""
    error = problem.splitlines()[0]
    said = f"{file} cannot be built: {problem}"
    if "no space left" in error or "disk quota exceeded" in error:
        return StorageFull(f"image {name}: {said}. Free some space where Podman keeps its images.")
    if may_pass(error):
        return TransientError(f"image {name}: {said}")
    return ImageUnavailable(f"image unavailable: {name}: {said}")


def _entries(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """What is below it, in a fixed order, by its name from there; links are not followed."""
    for root, directories, files in os.walk(directory, onerror=_raise):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = Path(root, name)
            yield str(path.relative_to(directory)), path.lstat()


def _raise(error: OSError) -> None:
    raise error


def _looks(directory: Path) -> str:
    digest = hashlib.sha256()
    for name, found in _entries(directory):
        digest.update(f"{name}\0{found.st_mode} {found.st_size} {found.st_mtime_ns} {found.st_ino}\0".encode())
    return digest.hexdigest()


def _content(directory: Path) -> str:
    """The same for the same names, modes and contents, wherever and whenever they were written."""
    digest = hashlib.sha256()
    for name, found in _entries(directory):
        path = directory / name
        digest.update(f"{name}\0{found.st_mode:o}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISLNK(found.st_mode):
            digest.update(os.fsencode(path.readlink()))
        elif stat.S_ISREG(found.st_mode):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _pack(directory: Path, into: IO[bytes]) -> None:
    """What it is built from, as one file; Podman itself leaves out what its ignore file says."""

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isfile() or entry.isdir() or entry.issym() or entry.islnk()):
            return None  # a socket or the like
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    with tarfile.open(fileobj=into, mode="w") as tar:
        tar.add(directory, arcname=".", filter=kept)
    into.seek(0)


def _account_header(accounts: Mapping[str, tuple[str, str]]) -> Mapping[str, str]:
    if not accounts:
        return {}
    given = {place: {"username": user, "password": password} for place, (user, password) in accounts.items()}
    return {"X-Registry-Config": base64.urlsafe_b64encode(json.dumps(given).encode()).decode()}


def _problem(answer: Answer) -> str:
    """Why there is no image: the error on the first line, and what the build printed last below it; empty if none."""
    if not answer.ok:
        return " ".join(answer.message.split())
    printed: list[str] = []
    reports = [answer.body] if isinstance(answer.body, dict) else str(answer.body or "").splitlines()
    for report in reports:
        try:
            said = report if isinstance(report, dict) else json.loads(report)
        except ValueError:
            return f"its report cannot be read: {report[:200]}"
        if error := said.get("error"):
            last = [line.rstrip() for line in "".join(printed).splitlines() if line.strip()][-_LAST_LINES:]
            return "\n".join([" ".join(str(error).split()), *last])
        printed.append(str(said.get("stream", "")))
    return "" if printed else "the report of the build was cut short: unexpected EOF"
