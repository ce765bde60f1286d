"""webdav4's driver as files are kept with it. Safe for threads: each call is an HTTP request of its own.

What is different: a file is moved onto one that is there; nothing is removed or read that is a collection; nothing is
asked twice that we ask again; what goes wrong has the error of the operating system that it means.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from webdav4.client import (
    ClientError,
    HTTPError,
    InsufficientStorage,
    IsACollectionError,
    IsAResourceError,
    ResourceConflict,
    ResourceNotFound,
)
from webdav4.fsspec import WebdavFileSystem

_CONNECT = 5.0
_ANSWER = 30.0
_BLOCK = 1 << 18


class Webdav(WebdavFileSystem):  # type: ignore[misc]
    """Takes ``base_url``, the address of the server, and what httpx's ``Client`` takes.

    ``auth``     ``[user, password]``.
    ``timeout``  seconds until a server that says nothing is given up (30).
    """

    def __init__(self, base_url: str, auth: Any = None, timeout: Any = _ANSWER, **options: Any) -> None:
        if isinstance(timeout, int | float):
            timeout = httpx.Timeout(timeout, connect=min(_CONNECT, timeout))
        if isinstance(auth, list):
            auth = tuple(auth)
        super().__init__(base_url, auth=auth, **{"retry": False, "timeout": timeout, **options})

    def disconnect(self) -> None:
        self.client.http.close()

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Others may make the same ones meanwhile."""
        with _meant(path):
            try:
                self.client.mkdir(path)
            except ResourceConflict:
                parent = path.rpartition("/")[0]
                if not parent:
                    raise
                self.makedirs(parent, exist_ok=True)
                self.makedirs(path, exist_ok=exist_ok)
            except ClientError:
                if not exist_ok or not self.client.isdir(path):
                    raise

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self._store(path, io.BytesIO(value), len(value))

    def put_file(self, lpath: Any, rpath: str, callback: Any = None, **_: Any) -> None:
        with Path(lpath).open("rb") as source:
            self._store(rpath, source, os.fstat(source.fileno()).st_size)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        content = io.BytesIO()
        self._fetch(path, content)
        return content.getvalue()[start:end]

    def get_file(self, rpath: str, lpath: Any, **_: Any) -> None:
        with Path(lpath).open("wb") as target:
            self._fetch(rpath, target)

    def rm_file(self, path: str) -> None:
        """IsADirectoryError for a collection, which a server would remove with all that is in it."""
        with _meant(path):
            if self.client.isdir(path):
                raise IsADirectoryError(path)
            self.client.remove(path)

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        """FileNotFoundError where the collection that it is moved into is missing."""
        with _meant(path2):
            self.client.move(path1, path2, overwrite=True)

    def ls(self, path: str, detail: bool = True, **known: Any) -> Any:
        with _meant(path):
            return super().ls(path, detail, **known)

    def info(self, path: str, **known: Any) -> dict[str, Any]:
        with _meant(path):
            found: dict[str, Any] = super().info(path, **known)
            return found

    def _store(self, path: str, source: BinaryIO, size: int) -> None:
        with _meant(path):
            self.client.upload_fileobj(source, path, overwrite=True, size=size, chunk_size=_BLOCK)

    def _fetch(self, path: str, target: BinaryIO) -> None:
        with _meant(path), self.client.open(path, mode="rb", chunk_size=_BLOCK) as source:
            shutil.copyfileobj(source, target, _BLOCK)


@contextmanager
def _meant(path: str) -> Iterator[None]:
    try:
        yield
    except (ResourceNotFound, ResourceConflict) as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    except HTTPError as error:  # 409: the collection that it is to be in is missing
        if error.status_code in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        raise
    except IsACollectionError as error:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path) from error
    except IsAResourceError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
    except InsufficientStorage as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from error
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        raise
