"""Root file systems: of each image one, read-only, that all its containers share.

An image's own files are the lower layer of an overlay. What a container has mounted on it must be there, and no image
has ``/ion``: so the overlay is furnished once (``furnish.py``) and then only read.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ion_core.errors import PermanentError, StorageFull, TransientError
from ion_oci import furnish
from ion_oci.host import Tools
from ion_oci.images import Image, ImageGone, Images
from ion_oci.programs import Ended, failure_of, run, to_the_end

NAME = "ion"
"""What every container calls its machine: so ``/etc/hosts`` is the same in all."""

_HOSTS = f"127.0.0.1\tlocalhost {NAME}\n::1\tlocalhost {NAME}\n"
_WITHIN = 30.0
_SOURCE, _OPTIONS = "ion-oci", "nodev"
_NOT_IN_OPTIONS = ":,\\"
_HELD = "image"
"""A file with the id of an image that Podman has been asked to mount, until it is unmounted."""
_MOUNTED = "merged"
"""How Podman names the place where it has mounted one; an image of some storages is a directory as it is."""


@dataclass(frozen=True, kw_only=True)
class Root:
    """``path`` is where it is mounted, ``layer`` what disappears when the image is removed from under it.

    ``number`` is the file system's: after somebody has unmounted it, another is to be seen there.
    """

    path: Path
    uid: int
    gid: int
    groups: Sequence[int]
    home: str
    number: int
    layer: tuple[Path, int]

    def is_there(self) -> bool:
        layer, number = self.layer
        try:
            return layer.stat().st_ino == number and self.path.stat().st_dev == self.number
        except OSError:
            return False


@dataclass(frozen=True, kw_only=True)
class Furnished:
    """What is wanted of a root: ``user`` as images name one, directories and files that something is mounted on.

    ``scratch`` are directories that are to be written to.
    """

    image: Image
    user: str
    directories: Sequence[str]
    scratch: Sequence[str]
    files: Sequence[str] = ()

    @property
    def key(self) -> str:
        text = json.dumps(
            [self.image.id, self.user, *(sorted(it) for it in (self.directories, self.scratch, self.files))]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Roots:
    """Those of this process, below ``directory``; what processes that are gone have left there is removed."""

    def __init__(self, directory: Path, tools: Tools, images: Images) -> None:
        self._tools = tools
        self._images = images
        self._all = directory / "roots"
        self.ours = self._all / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        """For what is unfinished too: whatever becomes of us, the next one removes it."""
        self._lock = -1
        self._made: dict[str, Root] = {}
        self._making: dict[str, asyncio.Lock] = {}

    async def open(self) -> None:
        """Raises OSError."""
        self._all.mkdir(parents=True, exist_ok=True)
        for left in self._all.iterdir():
            await self._remove_if_left(left)
        self.ours.mkdir(mode=0o700)
        self._lock = os.open(self.ours / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    async def close(self) -> None:
        """Containers that still run keep what they see."""
        if self._lock >= 0:
            await self._remove(self.ours)
            os.close(self._lock)
            self._lock = -1

    async def of(self, wanted: Furnished) -> Root:
        """The root for that image and user, made if it is not there (any more).

        Raises PermanentError where the image cannot be furnished so, TransientError where that may pass, of which
        ImageGone is one.
        """
        root = self._made.get(wanted.key)
        if root is not None and root.is_there():
            return root
        async with self._making.setdefault(wanted.key, asyncio.Lock()):
            root = self._made.get(wanted.key)
            if root is None or not root.is_there():
                root = self._made[wanted.key] = await self._make(wanted)
        return root

    async def _make(self, wanted: Furnished) -> Root:
        place = self.ours / f"{wanted.key}-{uuid.uuid4().hex[:8]}"
        try:
            for name in ("upper", "work", "merged"):
                (place / name).mkdir(parents=True)
            (place / _HELD).write_text(wanted.image.id, encoding="ascii")  # for whoever finds it, should we be killed
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise failure_of(error, f"image {wanted.image.id}: {place}") from error
        merged = place / "merged"
        layer = await self._over_image(wanted, place)
        try:
            who = await self._furnish(wanted, merged)
            # Given the target alone, mount would repeat all options, and an overlay may not be told its layers again.
            await self._did(wanted, [self._tools.mount, "-o", f"remount,ro,{_OPTIONS}", _SOURCE, str(merged)])
        except BaseException:
            await self._unmount(merged)
            shutil.rmtree(place, ignore_errors=True)
            raise
        return Root(path=merged, number=merged.stat().st_dev, layer=layer, **who)

    async def _over_image(self, wanted: Furnished, place: Path) -> tuple[Path, int]:
        """Mounts the overlay; what is to be looked at to know that the image is still there."""
        try:
            # A podman that is killed in the midst of it may have mounted what it has not noted.
            lower = await to_the_end(self._images.mounted(wanted.image))
            layer = lower.parent if lower.name == _MOUNTED else lower
            number = layer.stat().st_ino
            try:
                await self._mount(wanted, lower, place)
            finally:
                if lower.name == _MOUNTED and not lower.is_mount():
                    await self._unmount(place / "merged")
                    raise ImageGone(f"image {wanted.image.id}: was unmounted just now.")
            return layer, number
        except OSError as error:
            raise ImageGone(f"image {wanted.image.id}: was removed just now: {error}") from error
        finally:
            await to_the_end(self._images.unmount(wanted.image.id))  # the overlay keeps what it needs of it
            (place / _HELD).unlink()

    async def _mount(self, wanted: Furnished, lower: Path, place: Path) -> None:
        where = {"lowerdir": lower, "upperdir": place / "upper", "workdir": place / "work"}
        for path in where.values():
            if any(sign in str(path) for sign in _NOT_IN_OPTIONS):
                raise PermanentError(f"image {wanted.image.id}: {path} has a sign that no overlay can be mounted with.")
        options = ",".join([_OPTIONS, *(f"{name}={path}" for name, path in where.items())])
        await self._did(wanted, [self._tools.mount, "-t", "overlay", "-o", options, _SOURCE, str(place / "merged")])

    async def _furnish(self, wanted: Furnished, merged: Path) -> dict[str, Any]:
        asked = {
            "root": str(merged),
            "directories": list(wanted.directories),
            "scratch": list(wanted.scratch),
            "files": list(wanted.files),
            "written": {"/etc/hosts": _HOSTS, "/etc/hostname": f"{NAME}\n"},
            "user": wanted.user,
        }
        program = [sys.executable, "-I", "-S", str(furnish.__file__)]
        said = await run(program, timeout=_WITHIN, stdin=json.dumps(asked), env={}, where=f"image {wanted.image.id}")
        if said.code == 0:
            found: dict[str, Any] = json.loads(said.stdout)
            return found
        why = said.stderr.strip().splitlines()[-1] if said.stderr.strip() else f"exit code {said.code}"
        if why.startswith("refused: "):
            raise PermanentError(f"image {wanted.image.id}: {why.removeprefix('refused: ')}. Name it by its number.")
        if "No space left" in why:
            raise StorageFull(f"image {wanted.image.id}: {why}. Free some space below {self._all}.")
        raise PermanentError(f"image {wanted.image.id}: nothing can be mounted on it: {why}")

    async def _did(self, wanted: Furnished, argv: Sequence[str]) -> Ended:
        said = await run(argv, timeout=_WITHIN, where=f"image {wanted.image.id}")
        if said.code:
            why = " ".join(said.stderr.split()) or f"exit code {said.code}"
            raise TransientError(f"image {wanted.image.id}: its root cannot be mounted: {why}")
        return said

    async def _remove_if_left(self, directory: Path) -> None:
        """If nobody holds it."""
        try:
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # being made this moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            await self._remove(directory)
        finally:
            os.close(lock)

    async def _remove(self, directory: Path) -> None:
        for place in [*directory.glob("*/merged")]:  # noqa: ASYNC240 - a handful, in memory
            await self._unmount(place)
        for held in [*directory.glob(f"*/{_HELD}")]:  # noqa: ASYNC240 - of one that was killed in the midst of it
            await self._images.unmount(held.read_text(encoding="ascii"))
        shutil.rmtree(directory, ignore_errors=True)

    async def _unmount(self, place: Path) -> None:
        """Lazily: what still runs in it keeps it. Fine where nothing is mounted."""
        with suppress(TransientError):
            await run([self._tools.umount, "--lazy", str(place)], timeout=_WITHIN)
