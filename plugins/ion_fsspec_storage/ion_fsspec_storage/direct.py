"""Objects in S3 and Azure through obstore's own API: what concerns one object. Listings are left to s3fs and adlfs.

obstore's listing cannot tell ``name/`` from ``name``, and one foreign key with ``//`` makes it fail for all that lie
beside it. So what lists is asked of those, which are imported when something is listed for the first time.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, S3Store

from ion_core.contracts.storage import BlobInfo
from ion_core.errors import PermanentError, TransientError
from ion_core.words import counted
from ion_fsspec_storage.errors import is_gone, translated
from ion_fsspec_storage.objects import Objects
from ion_fsspec_storage.retries import Retries
from ion_fsspec_storage.ways import Direct

T = TypeVar("T")

PART = 8 << 20
"""Bytes that are sent at a time of a large file."""
_PARTS_AT_ONCE = 4
_LARGE_AT_ONCE = 2
"""Large files on their way at a time: each has a few parts in memory."""
_BLOCK = 1 << 20
_MUCH = 64 << 10
"""Bytes from which on sending them may take a while."""

_TWO_AT_ONCE = 409
"""HTTP status of a conditional write while another is under way: nothing may be there in the end."""
_TAKEN = "BlobAlreadyExists"
"""What Azure says with that status of one that found something."""

_STATUS = re.compile(r"(?:status code: |\(code: )(\d{3})\b")
"""Of an answer, and of one deletion in an answer to several."""
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,200})")
_REASONS = (
    (r'(?:message|error): "([^"]{1,200})"', "{}"),
    (r"InvalidCertificate\(\s*(?:\w+\(\s*)*(\w+)", "its certificate is not trusted: {}"),
    (r"kind: (Timeout),", "no answer in time"),
    (r"error: (IncompleteBody)", "cut off in the middle"),
)
"""Why no answer came, as far as the error's source tells, and in which words."""
_RUST = "pyo3_runtime"
"""Where the exception of a panic comes from, which is no ``Exception`` and has no public name."""
_MOVED = 301
_ELSEWHERE = "incorrectly configured region"
"""What stands for a 301 without an address."""


class StoreError(Exception):
    """What the server, or the way there, said instead of doing it.

    ``status_code`` and ``error_code`` are HTTP's and the service's, None where nothing came.
    """

    def __init__(self, error: BaseException) -> None:
        text, _, source = str(error).partition("\n\nDebug source:")
        status, code, message = (it.search(text) for it in (_STATUS, _CODE, _MESSAGE))
        self.status_code = int(status[1]) if status else _MOVED if _ELSEWHERE in text else None
        self.error_code = code[1] if code else None
        said = " ".join(text.rpartition(" - ")[2].split())
        if code:
            said = f"{code[1]}: {message[1]}" if message else code[1]
        elif why := next((words.format(it[1]) for it, words in _found(source)), ""):
            said = f"{said}: {why}"
        if "ETag Header missing" in text:
            said += ". obstore needs one, set driver: fsspec"
        super().__init__(said)


def _found(source: str) -> Iterator[tuple[re.Match[str], str]]:
    for pattern, words in _REASONS:
        if found := re.search(pattern, source):
            yield found, words


class DirectObjects:
    """See ``Objects``. ``listing`` makes what lists the same place; asked once, when something is to be listed."""

    def __init__(self, where: Direct, place: str, listing: Callable[[], Objects]) -> None:
        self.place = place
        self._prefix = f"{where.prefix}/" if where.prefix else ""
        self._where = where
        self._retries = Retries(place)
        self._large = threading.BoundedSemaphore(_LARGE_AT_ONCE)
        self._make_lister = listing
        self._lister: Objects | None = None
        self._making = threading.Lock()

    @cached_property
    def _store(self) -> S3Store | AzureStore:
        return _store(self._where, self._where.client, self.place)

    @cached_property
    def _slow(self) -> S3Store | AzureStore:
        return _store(self._where, self._where.slow, self.place)

    def opened(self) -> None:
        self._retries.opened()

    def write(self, name: str, data: bytes) -> None:
        self._call(name, lambda path: obstore.put(self._for(data), path, data, use_multipart=False))

    def create(self, name: str, data: bytes) -> bool:
        def create(path: str) -> bool:
            try:
                obstore.put(self._for(data), path, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                said = StoreError(error)
                if said.status_code == _TWO_AT_ONCE and said.error_code != _TAKEN:
                    raise
                return False
            return True

        return self._call(name, create)

    def upload(self, name: str, source: int, size: int) -> None:
        file = Path(f"/dev/fd/{source}")
        with self._large:
            self._call(
                name,
                lambda path: obstore.put(self._slow, path, file, chunk_size=PART, max_concurrency=_PARTS_AT_ONCE),
            )
            stored = self._call(name, lambda path: obstore.head(self._store, path))["size"]
        if stored != size:
            raise TransientError(
                f"{self.place}: {name} has {counted(stored, 'byte')}, {size:,} were sent. Store it again."
            )

    def read(self, name: str) -> bytes:
        return self._call(name, lambda path: bytes(obstore.get(self._store, path).bytes()))

    def download(self, name: str, target: Path) -> BlobInfo:
        def download(path: str) -> BlobInfo:
            found, size, sha256 = obstore.get(self._store, path), 0, hashlib.sha256()
            with target.open("wb") as file:
                for block in found.stream(min_chunk_size=_BLOCK):
                    file.write(block)
                    sha256.update(block)
                    size += len(block)
            return BlobInfo(size=size, sha256=sha256.hexdigest())

        return self._call(name, download)

    def names(self, prefix: str) -> list[str]:
        return self._listing().names(prefix)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._call(name, lambda path: obstore.delete(self._store, path))

    def url(self, name: str, *, seconds: int) -> str:
        try:
            return obstore.sign(self._store, "GET", self._prefix + name, timedelta(seconds=seconds))
        except BaseError:  # nothing to sign with
            return f"{self.place}/{quote(name)}"

    def close(self) -> None:
        with self._making:
            if self._lister is not None:
                self._lister.close()

    def _for(self, data: bytes) -> S3Store | AzureStore:
        return self._store if len(data) < _MUCH else self._slow

    def _listing(self) -> Objects:
        with self._making:
            if self._lister is None:
                self._lister = self._make_lister()
                self._lister.opened()
            return self._lister

    def _call(self, name: str, call: Callable[[str], T]) -> T:
        """Its result of the whole path. Raises FileNotFoundError and, of anything else, what it means."""

        def once() -> T:
            with _answers():
                try:
                    return call(self._prefix + name)
                except FileNotFoundError as error:
                    if is_gone(error):
                        raise translated(StoreError(error), self.place) from error
                    raise FileNotFoundError(name) from error

        return self._retries.call(name, once)


@contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        raise StoreError(error) from error
    except BaseException as error:
        if type(error).__module__ != _RUST:
            raise
        raise ValueError(f"obstore fell over it: {error}") from error  # which would end the process


def _store(where: Direct, client: Any, place: str) -> S3Store | AzureStore:
    """Made when it is needed: that takes longer than importing obstore does. Raises PermanentError."""
    kind: Any = {"s3": S3Store, "azure": AzureStore}[where.service]
    keys = where.keys
    try:
        store: S3Store | AzureStore = kind(
            where.bucket,
            config=dict(where.config),
            client_options=client,
            retry_config={"max_retries": 0},  # the whole call is tried again, with longer pauses
            credential_provider=None if keys is None else lambda: dict(keys),
        )
        return store
    except (BaseError, ValueError) as error:
        raise PermanentError(f"{place}: obstore cannot be set up with these options: {StoreError(error)}.") from error
