"""Objects as files of any fsspec filesystem that has directories: written beside, then moved into place."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from ion_core.errors import ProviderError, TransientError
from ion_fsspec_storage.remote import RemoteObjects

log = logging.getLogger(__name__)
T = TypeVar("T")

_ABANDONED = timedelta(days=1)
"""After which an unfinished file is taken for one that nobody finishes."""
_UNFINISHED = "unfinished"
_PARENTS_MADE = 10
"""How often a directory may vanish under a file because somebody else just emptied it."""
_AWAY = (0.02, 0.1, 0.3)
"""Seconds between looks for a file that somebody may be replacing, where that is not one step."""


class DirectoryObjects(RemoteObjects):
    """See ``Objects``.

    The directory ``unfinished`` tells a place that is empty from one that has gone: it is made when the place is
    opened, and never again.
    """

    _made = False

    def opened(self) -> None:
        super().opened()
        self._made = True
        try:
            self._call(_UNFINISHED, self._sweep)
        except ProviderError as error:
            log.warning("what others left unfinished stays: %s", error)

    def read(self, name: str) -> bytes:
        return self._present(lambda: super(DirectoryObjects, self).read(name))

    def download(self, name: str, target: Path) -> None:
        self._present(lambda: super(DirectoryObjects, self).download(name, target))

    def url(self, name: str, *, seconds: int) -> str:
        return f"{self.place}/{quote(name)}"

    def delete(self, name: str) -> None:
        super().delete(name)
        if self._driver.prunes:
            self._call(name, lambda filesystem: self._prune(filesystem, name))

    def _prune(self, filesystem: Any, name: str) -> None:
        """Remove the directories it leaves empty; the first that is not, or that somebody removed, ends it."""
        parents = name.split("/")[:-1]
        while parents:
            try:
                filesystem.rmdir(self._path("/".join(parents)))
            except (ConnectionError, TimeoutError):
                raise
            except OSError:
                return
            parents.pop()

    def _sweep(self, filesystem: Any) -> None:
        """Remove what somebody began to write long ago, where the server says when."""
        before = datetime.now(UTC) - _ABANDONED
        for entry in filesystem.ls(self._path(_UNFINISHED), detail=True):
            written = entry.get("mtime") or entry.get("modified")
            if isinstance(written, datetime) and written.astimezone(UTC) < before:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # another process does the same
                    filesystem.rm_file(self._path(f"{_UNFINISHED}/{entry['name'].rstrip('/').rpartition('/')[2]}"))

    def _present(self, call: Callable[[], T]) -> T:
        for pause in () if self._driver.replaces else _AWAY:
            try:
                return call()
            except FileNotFoundError:
                time.sleep(pause)
        return call()

    def _found(self, filesystem: Any, path: str) -> list[str]:
        """Of the files below. fsspec's own ``find`` passes over directories whose listing fails."""
        found, waiting = [], [path]
        while waiting:
            directory = waiting.pop()
            try:
                entries = filesystem.ls(directory, detail=True)
            except NotADirectoryError:
                continue
            except FileNotFoundError as error:  # none there, or none any more
                self._check_place(filesystem, error)
                continue
            for entry in entries:
                name = entry["name"].rstrip("/")
                if not name.startswith("/"):
                    name = "/" * path.startswith("/") + name
                if entry["type"] != "directory":
                    found.append(name)
                elif name != directory:
                    waiting.append(name)
        return found

    def _write(self, filesystem: Any, name: str, write: Callable[[str], Any]) -> None:
        beside = self._path(f"{_UNFINISHED}/{secrets.token_hex(8)}")
        if not self._made:
            filesystem.makedirs(self._path(_UNFINISHED), exist_ok=True)
        try:
            write(beside)
            self._move(filesystem, beside, self._path(name))
        except BaseException:
            with contextlib.suppress(Exception):  # the connection may be what failed
                filesystem.rm_file(beside)
            raise

    def _move(self, filesystem: Any, beside: str, path: str) -> None:
        for attempt in range(_PARENTS_MADE):
            if attempt or not self._driver.makes_room:
                filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._replace(filesystem, beside, path)
                return
            except FileNotFoundError as error:
                if attempt == _PARENTS_MADE - 1:
                    raise
                self._check_place(filesystem, error)

    def _replace(self, filesystem: Any, beside: str, path: str) -> None:
        try:
            filesystem.mv(beside, path)
        except FileExistsError:  # some cannot move onto what is there
            filesystem.rm_file(path)
            filesystem.mv(beside, path)

    def _check_place(self, filesystem: Any, missing: FileNotFoundError) -> None:
        if not self._made:
            return
        try:
            filesystem.info(self._path(_UNFINISHED))
        except FileNotFoundError as error:
            raise TransientError(f"{self.place}: is not there any more. Bring it back, or start anew.") from error
