"""A folder behind any URL that fsspec knows. It is listed; nothing there says by itself that a file has come."""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ion_core.contracts.provider import Finding
from ion_core.contracts.settings import Section
from ion_core.errors import ConfigError, TransientError
from ion_gateway.watching.entries import FULL, Entry, Gone, Listing, Unreadable, unwritten
from ion_gateway.watching.patterns import Patterns

OBJECTS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Protocols under which a file is there whole or not at all, and a directory is nothing but a part of names."""
_SHARED = tuple(it for it in OBJECTS if it != "memory")
"""Whose drivers are safe for threads; the others are called once at a time."""
_AT_ONCE = 1_000
"""Calls of one that is safe: as many as anybody makes."""
_CONNECT, _ANSWER = 5.0, 30.0
"""Seconds until a server that says nothing is given up."""
_S3: Mapping[str, Any] = {
    "config_kwargs": {"connect_timeout": _CONNECT, "read_timeout": _ANSWER, "retries": {"total_max_attempts": 2}}
}
_GCS: Mapping[str, Any] = {"requests_timeout": _ANSWER}
_AZURE: Mapping[str, Any] = {"connection_timeout": int(_CONNECT), "read_timeout": int(_ANSWER)}
_SFTP: Mapping[str, Any] = {
    **{"timeout": _ANSWER, "banner_timeout": _ANSWER, "auth_timeout": _ANSWER, "channel_timeout": _ANSWER}
}
_TIMEOUTS = {
    **{"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE},
    **{"sftp": _SFTP, "ssh": _SFTP, "webdav": {"timeout": _ANSWER}},
}
"""As far as drivers take one: adlfs listens to none as it lists. ``ANSWERS_WITHIN`` of the folder bounds them all."""
_EXTRAS = {
    **{"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"},
    **{"sftp": "sftp", "ssh": "sftp", "webdav": "webdav"},
}
"""The extra of this distribution that brings the driver of a protocol."""
_STAMPS = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
"""Where drivers say when a file was changed."""
_TAGS = ("generation", "ETag", "etag")
"""Where they say which version it is."""


class RemoteFolder:
    """See ``Source``. ``to`` is the URL below which files are moved."""

    local = False

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        patterns: Patterns,
        section: Section,
        key: str,
        to: str | None = None,
    ) -> None:
        self.place = url
        self._protocol = url.partition("://")[0]
        self._options = options
        self._patterns = patterns
        self._section = section
        self._key = key
        self._to = to
        self._begin()

    def _begin(self) -> None:
        self._made: Any = None
        self._making = threading.Lock()
        self._turn = threading.Semaphore(_AT_ONCE) if self._protocol in _SHARED else threading.RLock()

    def give_up(self) -> None:
        given_up = self._made
        self._begin()
        threading.Thread(target=self._close, args=(given_up,), daemon=True).start()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Unless its driver is safe for threads. Raises TransientError where the server is given up meanwhile."""
        turn = self._turn
        while not turn.acquire(timeout=1.0):
            self._check_not_given_up(turn)
        try:
            self._check_not_given_up(turn)
            yield
        finally:
            turn.release()

    def _check_not_given_up(self, turn: object) -> None:
        if turn is not self._turn:
            raise TransientError(f"{self.place}: gave no answer")

    def close(self) -> None:
        made, self._made = self._made, None
        self._close(made)

    def _close(self, made: Any) -> None:
        if made is not None and self._protocol in _CLOSE:
            with contextlib.suppress(Exception):  # it is done with, whatever its driver says to that
                _CLOSE[self._protocol](made)

    def findings(self) -> Sequence[Finding]:
        where = self._section.where(f"{self._key}.url")
        try:
            server = self._kind()._get_kwargs_from_urls
        except ConfigError as error:
            return [Finding(severity="error", where=where, text=str(error).removeprefix(f"{where}: "))]
        if self._to is None or server(self.place) == server(self._to):
            return []
        text = f"{self._to} is on another server than {self.place}. Files are moved within one: name a place there."
        return [Finding(severity="error", where=self._section.where(f"{self._key}.to"), text=text)]

    def check(self) -> None:
        for finding in self.findings():
            raise ConfigError(str(finding))
        where = self._section.where(f"{self._key}.url")
        try:
            with self._alone(), self._calling(""):
                filesystem = self._filesystem()
                filesystem.ls(self._root(filesystem, self.place), detail=False)
        except Gone as error:
            if self._protocol in OBJECTS and not _no_bucket(error.__cause__):
                return  # a prefix exists once something has it
            raise ConfigError(f"{where}: {self.place} does not exist. Make it, or name another.") from error
        except Unreadable as error:
            raise ConfigError(f"{where}: {self.place} {error}. Check what is under options.") from error
        except TransientError as error:
            if isinstance(error.__cause__, TypeError | ValueError):  # some drivers look at them so late
                raise self._unfit_options(error.__cause__) from error
            return  # it is listed again and again, and what is wrong with it is said then

    def identity(self) -> None:
        return None

    def list(self) -> Listing:
        listing = Listing(whole=True)
        with self._alone():
            try:
                with self._calling(""):
                    filesystem = self._filesystem()
                    root = self._root(filesystem, self.place)
                    if self._protocol in OBJECTS:
                        self._find(filesystem, root, listing)
                    else:
                        self._walk(filesystem, root, listing)
            except Gone as error:
                if self._protocol in OBJECTS and not _no_bucket(error.__cause__):
                    return listing
                raise TransientError(f"{self.place}: is not there") from error
            except Unreadable as error:
                raise TransientError(f"{self.place}: {error}") from error
        return listing

    def look(self, paths: Sequence[str]) -> Listing:
        listing = Listing()
        for path in paths:
            if not self._patterns.wants_all_of(path):
                continue
            try:
                with self._alone(), self._calling(path):
                    filesystem = self._filesystem()
                    self._add(listing, path, filesystem.info(self._path(filesystem, path)))
            except Gone:
                continue
            except Unreadable as error:
                listing.problems[path] = str(error)
        return listing

    def _find(self, filesystem: Any, root: str, listing: Listing) -> None:
        for name, info in filesystem.find(root, detail=True).items():
            path = _below(root, name)
            if info.get("type") == "file" and path and self._patterns.wants_all_of(path):
                self._add(listing, path, info)

    def _walk(self, filesystem: Any, root: str, listing: Listing) -> None:
        """A directory at a time: fsspec's own ``find`` passes over directories whose listing fails."""
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            try:
                found = filesystem.ls(f"{root}/{directory}" if directory else root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                if not directory:
                    raise
                continue
            except PermissionError as error:
                if not directory:
                    raise
                listing.problems[directory] = f"cannot be listed: {_told(error)}"
                listing.whole = False
                continue
            for info in found:
                path = _below(root, info["name"].rstrip("/"))
                if not path or info.get("islink"):
                    continue
                if info["type"] == "directory":
                    if path != directory and self._patterns.enters(path):
                        waiting.append(path)
                elif info["type"] == "file" and self._patterns.wants(path):
                    self._add(listing, path, info)

    def _add(self, listing: Listing, path: str, info: Mapping[str, Any]) -> None:
        if info.get("type") != "file" or info.get("islink"):
            return
        stamp = next((_seconds(info[name]) for name in _STAMPS if info.get(name) is not None), None)
        tag = next((str(info[name]).strip('"') for name in _TAGS if info.get(name)), "")
        size = int(info.get("size") or 0)
        if info.get("generation"):
            version = tag
        elif tag and stamp is not None:  # whole seconds: some servers say more of them in a listing than of one file
            stamp = float(int(stamp))
            version = f"{size}-{int(stamp)}-{tag}"
        elif stamp is not None:
            version = f"{size}-{stamp!r}"
        else:
            listing.problems[path] = "its server does not say when it was changed"
            return
        listing.add(Entry(path=path, version=version, changed=stamp or 0.0, size=size))

    def fetch(self, entry: Entry, target: Path) -> None:
        try:
            target.touch(exist_ok=False)  # what drivers raise does not tell our own disk from what is there
        except OSError as error:
            raise unwritten(error, target) from error
        with self._alone(), self._calling(entry.path):
            filesystem = self._filesystem()
            try:
                filesystem.get_file(self._path(filesystem, entry.path), str(target))
            except OSError as error:
                if error.errno in FULL or not target.parent.is_dir():
                    raise unwritten(error, target) from error
                raise
            if target.stat().st_size != entry.size:
                raise Gone(entry.path)
        self._check_same(entry)

    def _check_same(self, entry: Entry) -> None:
        found = self.look([entry.path]).entries.get(entry.path)
        if found is None or found.version != entry.version:
            raise Gone(entry.path)

    def delete(self, entry: Entry, mark: str | None) -> None:
        with self._settling(entry, mark) as (filesystem, path):
            filesystem.rm_file(path)

    def move(self, entry: Entry, mark: str | None, otherwise: str) -> None:
        assert self._to is not None
        with self._settling(entry, mark) as (filesystem, path):
            root = self._root(filesystem, self._to)
            target = f"{root}/{entry.path}"
            if filesystem.exists(target):
                target = f"{root}/{otherwise}"
            if self._protocol not in OBJECTS:
                filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
            filesystem.mv(path, target)

    @contextlib.contextmanager
    def _settling(self, entry: Entry, mark: str | None) -> Iterator[tuple[Any, str]]:
        """The mark goes first: alone it would complete what comes next."""
        with self._alone():
            self._check_same(entry)
            try:
                with self._calling(entry.path):
                    filesystem = self._filesystem()
                    path = self._path(filesystem, entry.path)
                    if mark is not None:
                        with contextlib.suppress(FileNotFoundError):
                            filesystem.rm_file(path + mark)
                    yield filesystem, path
            except Unreadable as error:
                raise TransientError(f"{self.place}: {entry.path!r}: {error}") from error

    @contextlib.contextmanager
    def _calling(self, path: str) -> Iterator[None]:
        """What drivers raise, whose kinds of errors are without number, as one of ours."""
        turn = self._turn
        try:
            yield
        except (Gone, Unreadable, TransientError, ConfigError):
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise Gone(path) from error
        except PermissionError as error:
            raise Unreadable(f"cannot be read: {_told(error)}") from error
        except Exception as error:
            if self._protocol not in OBJECTS and turn is self._turn:
                self.close()  # its connection may be what failed, and few drivers make another one
            what = f"{self.place}: {path!r}" if path else self.place
            raise TransientError(f"{what}: {_told(error)}. Is it reachable?") from error

    def _filesystem(self) -> Any:
        """Made when it is needed first, and made anew after that failed. Raises ConfigError."""
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        from fsspec.dircache import DirCache

        kind = self._kind()
        given = {**_TIMEOUTS.get(self._protocol, {}), **kind._get_kwargs_from_urls(self.place), **self._options}
        if isinstance(given.get("auth"), list):  # as YAML has what httpx wants as a pair
            given["auth"] = tuple(given["auth"])
        try:
            made = kind(**given, skip_instance_cache=True)
        except (TypeError, ValueError) as error:
            raise self._unfit_options(error) from error
        if hasattr(made, "dircache"):
            made.dircache = DirCache(use_listings_cache=False)
        if self._protocol in ("s3", "s3a"):
            made.retries = 2  # we ask again ourselves
        return made

    def _kind(self) -> Any:
        """The class of its driver. Raises ConfigError that says what brings one that is missing."""
        import fsspec

        where, protocol = self._section.where(f"{self._key}.url"), self._protocol
        try:
            ours = _OURS.get(protocol)
            return ours() if ours is not None else fsspec.get_filesystem_class(protocol)
        except ValueError as error:
            near = difflib.get_close_matches(protocol, fsspec.available_protocols(), n=1)
            hint = f" Did you mean {near[0]}://?" if near else ""
            raise ConfigError(f"{where}: fsspec knows no protocol {protocol}://.{hint}") from error
        except ImportError as error:
            extra = _EXTRAS.get(protocol)
            would = f"pip install 'ion-gateway[{extra}]'" if extra else str(error)
            raise ConfigError(f"{where}: the driver for {protocol}:// is not installed. {would}") from error

    def _unfit_options(self, error: Exception) -> ConfigError:
        """Of what the driver says, which may have a secret in it, only the name of an option."""
        named = next((name for name in sorted(self._options) if f"'{name}'" in str(error)), None)
        told = type(error).__name__ + (f": {named}" if named is not None else "")
        return ConfigError(
            f"{self._section.where(f'{self._key}.options')}: {self._protocol}:// cannot be set up with them ({told}). "
            f"See what its driver takes: {', '.join(sorted(self._options)) or 'none'} given."
        )

    def _root(self, filesystem: Any, url: str) -> str:
        return str(filesystem._strip_protocol(url)).rstrip("/")

    def _path(self, filesystem: Any, path: str) -> str:
        return f"{self._root(filesystem, self.place)}/{path}"


def _gcs_class() -> Any:
    """The one that speaks HTTP alone, unless gcsfs's own variable says that there are zonal buckets.

    The other asks by gRPC what kind of bucket it has, for a minute at each call where the server is not Google's.
    """
    if os.environ.get("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "").lower() in ("true", "1"):
        from gcsfs import GCSFileSystem
    else:
        from gcsfs.core import GCSFileSystem
    return GCSFileSystem


def _sftp_class() -> Any:
    """fsspec's own trusts whatever host answers; this one asks for its key, as ssh does."""
    import paramiko
    from fsspec.implementations.sftp import SFTPFileSystem

    class Refusing(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        def missing_host_key(self, client: object, hostname: str, key: paramiko.PKey) -> None:
            raise PermissionError(
                f"the host key of {hostname} is not known ({key.get_name()} {key.fingerprint}). If that is its key, "
                "add it to ~/.ssh/known_hosts, or name another file as options.known_hosts"
            )

    class Sftp(SFTPFileSystem):  # type: ignore[misc]
        def _connect(self) -> None:
            given = dict(self.ssh_kwargs)
            known_hosts = given.pop("known_hosts", None)
            self.client = paramiko.SSHClient()
            self.client.load_system_host_keys()
            if known_hosts is not None:
                self.client.load_host_keys(known_hosts)
            self.client.set_missing_host_key_policy(Refusing())
            try:
                self.client.connect(self.host, **given)
            except paramiko.AuthenticationException as error:
                raise PermissionError(str(error)) from error
            self.ftp = self.client.open_sftp()
            self.ftp.get_channel().settimeout(_ANSWER)

    return Sftp


_CLOSE: Mapping[str, Callable[[Any], None]] = {
    **dict.fromkeys(("sftp", "ssh"), lambda filesystem: filesystem.client.close()),
    "webdav": lambda filesystem: filesystem.client.http.close(),
}
"""What drivers leave open; those of the others close by themselves."""
_OURS = {"gs": _gcs_class, "gcs": _gcs_class, "sftp": _sftp_class, "ssh": _sftp_class}
"""Where fsspec's own choice will not do."""


def _below(root: str, name: str) -> str:
    """The path below the root, '' for what is none. Some drivers leave the first slash out."""
    root, name = root.lstrip("/"), name.lstrip("/")
    return name[len(root) :].lstrip("/") if not root or name.startswith(f"{root}/") else ""


def _seconds(stamp: Any) -> float:
    """Since 1970: drivers say it as a time, a number or text."""
    if isinstance(stamp, datetime):
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
    if isinstance(stamp, int | float):
        return float(stamp)
    try:
        return datetime.fromisoformat(str(stamp)).timestamp()
    except ValueError:
        from email.utils import parsedate_to_datetime

        return parsedate_to_datetime(str(stamp)).timestamp()


def _no_bucket(error: BaseException | None) -> bool:
    """The place itself is not there, which drivers report like a prefix without objects."""
    codes = ("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "bucket does not exist")
    while error is not None:
        if any(code in str(error) or code in repr(vars(error)) for code in codes):
            return True
        error = error.__cause__
    return False


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
