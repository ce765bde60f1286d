import asyncio
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from ion_core.contracts.storage import BlobInfo, BlobStore, check_key, check_told
from ion_core.errors import BlobCorrupt, BlobNotFound, ConfigError, PermanentError, StorageFull, TransientError
from ion_sample.settings import SampleSettings


class Sample:
    """A BlobStore. A blob lies in a file named by its key's sha256; the key itself in one beside it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        return await asyncio.to_thread(self._put, check_key(key), source, told)

    async def get(self, key: str, target: Path, *, expect: BlobInfo | None = None, link: bool = False) -> None:
        await asyncio.to_thread(self._get, check_key(key), target, expect)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        for key in await asyncio.to_thread(self._keys, check_key(prefix) if prefix else ""):
            yield key

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._delete, check_key(key))

    async def url(self, key: str) -> str:
        return self._path(check_key(key)).as_uri()

    def _path(self, key: str) -> Path:
        return self._root / hashlib.sha256(key.encode()).hexdigest()

    def _put(self, key: str, source: Path, told: BlobInfo | None) -> BlobInfo:
        with translated(f"blob {key}"), opened(source) as content:
            path = self._path(key)
            with replacing(path.with_suffix(".key")) as file:  # first, so that no blob is without its key
                file.write(key.encode())
            with replacing(path) as file:
                found = copy(content, file)
                check_told(key, found, told)
                return found

    def _get(self, key: str, target: Path, expect: BlobInfo | None) -> None:
        with translated(f"blob {key}"):
            try:
                content = self._path(key).open("rb")
            except FileNotFoundError:
                raise BlobNotFound(f"blob {key}: is not in {self._root}") from None
            with content, replacing(target) as file:
                found = copy(content, file)
                if expect is not None and found != expect:
                    raise BlobCorrupt(f"blob {key}: is {found}, not {expect}. Restore {self._path(key)}.")

    def _keys(self, prefix: str) -> Sequence[str]:
        with translated(f"blobs below {prefix!r}"):
            os.scandir(self._root).close()  # a directory that is gone is an error, not an empty store
            found = (path.read_text() for path in self._root.glob("*.key") if path.with_suffix("").exists())
            return sorted(key for key in found if not prefix or f"{key}/".startswith(f"{prefix}/"))

    def _delete(self, key: str) -> None:
        with translated(f"blob {key}"):
            self._path(key).unlink(missing_ok=True)
            sync(self._root)


def copy(content: IO[bytes], file: IO[bytes]) -> BlobInfo:
    """Copies all of it; what was copied, measured on the way."""
    size, digest = 0, hashlib.sha256()
    while block := content.read(1 << 20):
        size += file.write(block)
        digest.update(block)
    return BlobInfo(size=size, sha256=digest.hexdigest())


@contextmanager
def opened(source: Path) -> Iterator[IO[bytes]]:
    """The regular file ``source``, never what a link leads to, and without waiting for a pipe."""
    try:
        file = os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise PermanentError(f"{source}: cannot be read: {error.strerror}") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise PermanentError(f"{source}: is not a regular file")
        yield file


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that gets the name ``path`` once it is written and flushed, or leaves nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise
    sync(path.parent)


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """The operating system's errors as Ion's."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (StorageFull if full else TransientError)(f"{what}: {error.strerror}: {error.filename}") from error


@asynccontextmanager
async def open_sample(settings: SampleSettings) -> AsyncIterator[BlobStore]:
    try:
        settings.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = settings.section.where("path")
        raise ConfigError(f"{where}: {settings.path} cannot be made: {error.strerror}") from error
    if shutil.disk_usage(settings.path).free == 0:
        raise StorageFull(f"{settings.section.where('path')}: no space is left in {settings.path}. Free some.")
    yield Sample(settings.path.absolute())
