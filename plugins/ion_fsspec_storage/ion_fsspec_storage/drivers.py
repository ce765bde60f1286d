"""The drivers whose peculiarities we know, and how a filesystem of any driver is made from settings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ion_core.errors import ConfigError
from ion_fsspec_storage.errors import translated
from ion_fsspec_storage.settings import Place

PART = 8 << 20
"""Bytes that are sent at a time of a large file."""
_LAYERS = {"simplecache", "filecache", "blockcache", "cached", "cache", "dir", "reference", "zip", "tar", "libarchive"}
_CONNECT = 5.0
_ANSWER = 30.0
"""Seconds until a server that says nothing is given up."""

Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Driver:
    """How a driver is called so that it streams, sends one request where one does, and retries no longer than we do.

    ``exclusive``  its ``mode="create"`` is a conditional write of the backend.
    ``objects``    an object store: a write is whole by nature, and there are no directories.
    """

    extra: str = ""
    exclusive: bool = False
    objects: bool = False
    read: Mapping[str, Any] = field(default_factory=dict)
    write: Mapping[str, Any] = field(default_factory=dict)
    upload: Mapping[str, Any] = field(default_factory=dict)
    download: Mapping[str, Any] = field(default_factory=dict)
    options: Callable[[Options, int], Options] = lambda options, parallel: options
    retries: int | None = None
    """How often the driver itself tries a request; we try the whole call again, with longer pauses."""


def _s3_options(options: Options, parallel: int) -> Options:
    config = {
        "connect_timeout": _CONNECT,
        "read_timeout": _ANSWER,
        "max_pool_connections": parallel,
        "retries": {"total_max_attempts": 1},
    }
    return {**options, "config_kwargs": {**config, **options.get("config_kwargs", {})}}


def _azure_options(options: Options, parallel: int) -> Options:
    return {"connection_timeout": int(_CONNECT), "read_timeout": int(_ANSWER), "max_concurrency": 4, **options}


def _gcs_options(options: Options, parallel: int) -> Options:
    return {"requests_timeout": _ANSWER, **options}


_S3 = Driver(
    extra="s3",
    exclusive=True,
    objects=True,
    read={"max_concurrency": 1},  # otherwise it asks for the size first
    upload={"chunksize": PART, "max_concurrency": 4},
    download={"max_concurrency": 1},  # one request, so one version of the object
    options=_s3_options,
    retries=2,
)
_GCS = Driver(extra="gcs", exclusive=True, objects=True, upload={"chunksize": PART}, options=_gcs_options)
_AZURE = Driver(
    extra="azure",
    exclusive=True,
    objects=True,
    read={"max_concurrency": 1},
    write={"max_concurrency": 1},
    upload={"max_concurrency": 4},
    download={"max_concurrency": 4},
    options=_azure_options,
)
_DRIVERS = {"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE}


def driver_of(protocol: str) -> Driver:
    return _DRIVERS.get(protocol, Driver())


def is_filesystem(protocol: str) -> bool:
    """Whether fsspec knows it, installed or not, and it is no layer over another one."""
    import fsspec

    return protocol in fsspec.available_protocols() and protocol not in _LAYERS


def make_filesystem(settings: Place, where: str) -> tuple[Any, str]:
    """The filesystem and the path of its root. Raises ConfigError. Connects to nothing yet.

    The URL is text from the configuration, the only one that fsspec ever reads as one.
    """
    protocol = settings.protocol
    kind = _class_of(protocol, where)
    options = driver_of(protocol).options(dict(settings.options), settings.parallel)
    given = {**kind._get_kwargs_from_urls(settings.url), **options}
    try:
        filesystem = kind(**given, skip_instance_cache=True, use_listings_cache=False)
    except OSError as error:  # some connect at once
        raise translated(error, settings.url) from error
    except Exception as error:  # whatever a driver makes of options it does not understand; they may hold secrets
        raise ConfigError(
            f"{where}.options: {protocol}:// cannot be set up with them ({type(error).__name__}). "
            f"See what the driver takes: {', '.join(sorted(settings.options)) or 'none'} given."
        ) from error
    if driver_of(protocol).retries is not None:
        filesystem.retries = 1  # until it is opened
    return filesystem, str(kind._strip_protocol(settings.url)).rstrip("/")


def _class_of(protocol: str, where: str) -> Any:
    import fsspec

    if protocol in _LAYERS:
        raise ConfigError(f"{where}.url: {protocol}:// is a layer over another filesystem. Name that one.")
    try:
        return fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        near = difflib.get_close_matches(protocol, fsspec.available_protocols(), n=1)
        hint = f" Did you mean {near[0]}://?" if near else ""
        raise ConfigError(f"{where}.url: fsspec knows no protocol {protocol}://.{hint}") from error
    except ImportError as error:
        extra = driver_of(protocol).extra
        cure = f"pip install 'ion-fsspec-storage[{extra}]'" if extra else str(error)
        raise ConfigError(f"{where}.url: the driver for {protocol}:// is not installed. {cure}") from error


def close_filesystem(filesystem: Any) -> None:
    """Close its connections, on the loop they were made on; some drivers leave that to the garbage collector."""
    from fsspec.asyn import sync

    creator, client = getattr(filesystem, "_s3creator", None), getattr(filesystem, "_s3", None)
    session, service = getattr(filesystem, "_session", None), getattr(filesystem, "service_client", None)
    if creator is not None and client is not None:
        sync(filesystem.loop, creator.__aexit__, None, None, None, timeout=_CONNECT)
    elif session is not None and hasattr(session, "close"):
        sync(filesystem.loop, session.close, timeout=_CONNECT)
    elif service is not None:
        sync(filesystem.loop, service.close, timeout=_CONNECT)
