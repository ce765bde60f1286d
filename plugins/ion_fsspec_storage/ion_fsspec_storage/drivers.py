"""The drivers whose peculiarities we know, and how a filesystem of any driver is made from settings."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsspec.dircache import DirCache

from ion_core.contracts.provider import Section
from ion_core.errors import ConfigError, IonError
from ion_fsspec_storage.connections import Filesystems, Pooled, Shared
from ion_fsspec_storage.protocols import missing_driver

if TYPE_CHECKING:
    from ion_fsspec_storage.settings import Place

PART = 8 << 20
"""Bytes that are sent at a time of a large file."""
_CONNECT = 5.0
_ANSWER = 30.0
"""Seconds until a server that says nothing is given up."""

_UNCACHED = {"use_listings_cache": False}
_ZONAL = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"

Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Driver:
    """How a driver is called so that it streams, sends one request where one does, and retries no longer than we do.

    ``load``       the class, where it is not the one that fsspec names.
    ``exclusive``  its ``mode="create"`` is a conditional write of the backend.
    ``objects``    an object store: a write is whole by nature, and there are no directories.
    ``shared``     one filesystem is safe for threads; else each call has one to itself.
    ``bounded``    it gives up a server that says nothing, by the timeouts that it is given here or has.
    ``makes_room`` moving a file into a directory that is missing is FileNotFoundError, and nothing else.
    ``replaces``   a file is moved onto another one in one step.
    ``prunes``     a directory that is empty can be removed, and no other is.
    """

    load: Callable[[], Any] | None = None
    exclusive: bool = False
    objects: bool = False
    shared: bool = False
    bounded: bool = False
    makes_room: bool = False
    replaces: bool = False
    prunes: bool = False
    read: Mapping[str, Any] = field(default_factory=dict)
    write: Mapping[str, Any] = field(default_factory=dict)
    upload: Mapping[str, Any] = field(default_factory=dict)
    download: Mapping[str, Any] = field(default_factory=dict)
    options: Callable[[Options, int], Options] = lambda options, parallel: options
    retries: int | None = None
    """How often the driver itself tries a request; we try the whole call again, with longer pauses."""
    patient: Callable[[Any], None] = lambda filesystem: None
    """Has a filesystem that was made leave trying again to us, where that is no option of it."""


def _s3_options(options: Options, parallel: int) -> Options:
    config = {
        "connect_timeout": _CONNECT,
        "read_timeout": _ANSWER,
        "max_pool_connections": parallel,
        "retries": {"total_max_attempts": 1},
    }
    return {**options, **_UNCACHED, "config_kwargs": {**config, **options.get("config_kwargs", {})}}


def _azure_options(options: Options, parallel: int) -> Options:
    return {
        **_UNCACHED,
        "connection_timeout": int(_CONNECT),
        "read_timeout": int(_ANSWER),
        "max_concurrency": 4,
        **options,
    }


def _azure_once(filesystem: Any) -> None:
    """adlfs hands nothing of it on; the client itself would try for 80 seconds where nobody answers."""
    filesystem.service_client._config.retry_policy.total_retries = 0


def _gcs_options(options: Options, parallel: int) -> Options:
    return {"requests_timeout": _ANSWER, **options, **_UNCACHED}


def _gcs_class() -> Any:
    """The one that speaks HTTP alone.

    The other asks by gRPC what kind of bucket it has, for a minute at each call where the server is not Google's. Only
    zonal buckets need it: who has one sets gcsfs's own variable.
    """
    if os.environ.get(_ZONAL, "").lower() in ("true", "1"):
        import gcsfs

        return gcsfs.GCSFileSystem
    from gcsfs.core import GCSFileSystem

    return GCSFileSystem


def _sftp_class() -> Any:
    from ion_fsspec_storage.sftp import Sftp

    return Sftp


def _webdav_class() -> Any:
    from ion_fsspec_storage.webdav import Webdav

    return Webdav


_S3 = Driver(
    exclusive=True,
    objects=True,
    shared=True,
    bounded=True,
    read={"max_concurrency": 1},  # otherwise it asks for the size first
    upload={"chunksize": PART, "max_concurrency": 4},
    download={"max_concurrency": 1},  # one request, so one version of the object
    options=_s3_options,
    retries=2,
)
_GCS = Driver(
    load=_gcs_class,
    exclusive=True,
    objects=True,
    shared=True,
    bounded=True,
    upload={"chunksize": PART},
    options=_gcs_options,
)
_AZURE = Driver(
    exclusive=True,
    objects=True,
    shared=True,
    bounded=True,
    read={"max_concurrency": 1},
    write={"max_concurrency": 1},
    upload={"max_concurrency": 4},
    download={"max_concurrency": 4},
    options=_azure_options,
    patient=_azure_once,
)
_SFTP = Driver(load=_sftp_class, bounded=True, makes_room=True, replaces=True, prunes=True)
_WEBDAV = Driver(load=_webdav_class, shared=True, bounded=True, makes_room=True)
_DRIVERS = {
    "memory": Driver(objects=True, shared=True, bounded=True),
    **dict.fromkeys(("s3", "s3a"), _S3),
    **dict.fromkeys(("gs", "gcs"), _GCS),
    **dict.fromkeys(("az", "abfs", "abfss"), _AZURE),
    **dict.fromkeys(("sftp", "ssh"), _SFTP),
    **dict.fromkeys(("webdav", "dav"), _WEBDAV),
}


def driver_of(protocol: str) -> Driver:
    return _DRIVERS.get(protocol, Driver())


def open_filesystems(settings: Place, options: Mapping[str, Any]) -> tuple[Filesystems, str]:
    """What to call, and the path of its root. Raises ConfigError; some connect at once, which raises as a call does."""
    driver = driver_of(settings.protocol)
    kind = _class_of(settings.protocol, settings.section)
    root = str(kind._strip_protocol(settings.url)).rstrip("/")

    def make() -> Any:
        return _made(kind, driver, settings, options)

    return Shared(make(), close_filesystem) if driver.shared else Pooled(make, close_filesystem), root


def _made(kind: Any, driver: Driver, settings: Place, wanted: Mapping[str, Any]) -> Any:
    """A filesystem. The URL is text from the configuration, the only one that fsspec ever reads as one.

    Given are options that were given to us or that the driver is known to take: many hand others on to their client,
    which takes them for a mistake.
    """
    options = driver.options(dict(wanted), settings.at_once)
    given = {**kind._get_kwargs_from_urls(settings.url), **options}
    try:
        filesystem = kind(**given, skip_instance_cache=True)
    except (OSError, IonError):
        raise
    except Exception as error:  # whatever a driver makes of options it does not understand; they may hold secrets
        raise ConfigError(
            f"{settings.section.where('options')}: {settings.protocol}:// cannot be set up with them "
            f"({_told(error, settings.options)}). "
            f"See what the driver takes: {', '.join(sorted(settings.options)) or 'none'} given."
        ) from error
    driver.patient(filesystem)
    if hasattr(filesystem, "dircache"):
        filesystem.dircache = DirCache(use_listings_cache=False)
    if driver.retries is not None:
        filesystem.retries = 1  # until it is opened
    return filesystem


def _told(error: Exception, options: Mapping[str, Any]) -> str:
    """What it is, and of its text only the name of an option: values may be secret."""
    named = next((name for name in sorted(options) if f"'{name}'" in str(error)), None)
    return type(error).__name__ + (f": {named}" if named is not None and isinstance(error, TypeError) else "")


def _class_of(protocol: str, section: Section) -> Any:
    import fsspec

    load = driver_of(protocol).load or (lambda: fsspec.get_filesystem_class(protocol))
    try:
        return load()
    except ValueError as error:
        near = difflib.get_close_matches(protocol, fsspec.available_protocols(), n=1)
        hint = f" Did you mean {near[0]}://?" if near else ""
        raise ConfigError(f"{section.where('url')}: fsspec knows no protocol {protocol}://.{hint}") from error
    except ImportError as error:
        raise ConfigError(missing_driver(protocol, section, str(error))) from error


def close_filesystem(filesystem: Any) -> None:
    """Close its connections, on the loop they were made on; some drivers leave that to the garbage collector."""
    from fsspec.asyn import sync

    if hasattr(filesystem, "disconnect"):
        filesystem.disconnect()
        return
    creator, client = getattr(filesystem, "_s3creator", None), getattr(filesystem, "_s3", None)
    session, service = getattr(filesystem, "_session", None), getattr(filesystem, "service_client", None)
    if creator is not None and client is not None:
        sync(filesystem.loop, creator.__aexit__, None, None, None, timeout=_CONNECT)
    elif session is not None and hasattr(session, "close"):
        sync(filesystem.loop, session.close, timeout=_CONNECT)
    elif service is not None:
        sync(filesystem.loop, service.close, timeout=_CONNECT)
