"""From settings to open objects, tried out: what cannot work is said at the start, not by the first job."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ion_core.errors import ConfigError, PermanentError, StorageFull, TransientError
from ion_fsspec_storage.choosing import direct, lister, listing_options
from ion_fsspec_storage.errors import is_denied, is_elsewhere, is_gone, translated
from ion_fsspec_storage.objects import Objects
from ion_fsspec_storage.protocols import INSTEAD, missing_driver
from ion_fsspec_storage.ways import Direct

if TYPE_CHECKING:
    from ion_fsspec_storage.settings import Place


def open_objects(settings: Place, *, exclusive: bool, tried: bool = False) -> Objects:
    """The objects at ``settings.url``, after one was written, read and deleted there. Blocking.

    With ``exclusive`` only where of many that create one object exactly one succeeds: known to be so of the driver, and
    seen to be so of this backend, since some accept the condition and ignore it. With ``tried`` all that was seen
    elsewhere, and nothing is asked now. Raises ConfigError, TransientError.
    """
    where = settings.section.where("url")
    try:
        objects = _made(settings)
        try:
            if not tried:
                _try_out(objects, settings, exclusive=exclusive)
        except BaseException:
            objects.close()
            raise
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: {settings.url} does not exist. Make the bucket or container first.") from error
    except PermanentError as error:
        raise ConfigError(f"{settings.section.where()}: cannot be used: {error}") from error
    except StorageFull:
        raise
    except TransientError as error:
        _refuse_what_stays(error, settings)
    objects.opened()
    return objects


def _made(settings: Place) -> Objects:
    if settings.protocol in ("file", "local"):
        return _local(settings)
    if (where := direct(settings)) is not None:
        return _direct(settings, where)
    return _behind_fsspec(settings)


def _direct(settings: Place, where: Direct) -> Objects:
    from ion_fsspec_storage.direct import DirectObjects

    if find_spec(lister(settings)) is None:  # it lists, and is imported only then
        raise ConfigError(missing_driver(settings.protocol, settings.section))
    listing = listing_options(settings, where)
    return DirectObjects(where, settings.url, lambda: _behind_fsspec(settings, listing))


def _behind_fsspec(settings: Place, options: Mapping[str, Any] | None = None) -> Objects:
    """``options`` in place of the settings'."""
    from ion_fsspec_storage.directories import DirectoryObjects
    from ion_fsspec_storage.drivers import driver_of, open_filesystems
    from ion_fsspec_storage.remote import MemoryObjects, RemoteObjects

    driver = driver_of(settings.protocol)
    try:
        filesystems, root = open_filesystems(settings, settings.options if options is None else options)
    except OSError as error:
        raise translated(error, settings.url) from error
    if settings.protocol == "memory":
        return MemoryObjects(filesystems, root, settings.url)
    kind = RemoteObjects if driver.objects else DirectoryObjects
    return kind(filesystems, root, settings.url, driver)


def _local(settings: Place) -> Objects:
    from ion_fsspec_storage.local import LocalObjects

    if settings.options:
        raise ConfigError(f"{settings.section.where('options')}: file:// takes none. Remove them.")
    path = Path(settings.url.partition("://")[2])
    try:
        return LocalObjects(path, settings.url)
    except OSError as error:
        raise ConfigError(
            f"{settings.section.where('url')}: cannot keep anything in {path}: {error.strerror}. "
            "Name a directory that can be written."
        ) from error


def _try_out(objects: Objects, settings: Place, *, exclusive: bool) -> None:
    where = settings.section.where("url")
    name = f"probe/{os.getpid()}-{os.urandom(16).hex()}"
    with _removing(objects.delete, name):
        if not exclusive:
            objects.write(name, b"first")
        elif not objects.create(name, b"first") and objects.read(name) != b"first":
            raise ConfigError(f"{where}: {objects.place} found an object under a new name. {INSTEAD}")
        elif objects.create(name, b"second"):
            raise ConfigError(
                f"{where}: {objects.place} does not create exclusively: it replaced an object that it was asked "
                f"not to, so two dispatchers could commit one job. {INSTEAD}"
            )
        if objects.read(name) != b"first":
            raise ConfigError(f"{where}: {objects.place} does not give back what was stored there.")


@contextlib.contextmanager
def _removing(delete: Callable[[str], None], name: str) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(TransientError, PermanentError):
            delete(name)


def _refuse_what_stays(error: TransientError, settings: Place) -> NoReturn:
    """At the start a wrong password or a missing bucket is a mistake in the configuration."""
    cause = error.__cause__
    where = settings.section.where("url")
    if cause is not None and is_gone(cause):
        raise ConfigError(f"{where}: {settings.url} does not exist. Make the bucket or container first.") from error
    if cause is not None and is_elsewhere(cause):
        where = settings.section.where("options.client_kwargs.region_name")
        raise ConfigError(f"{where}: the bucket is in another region. Name that one.") from error
    if cause is not None and is_denied(cause):
        raise ConfigError(f"{settings.section.where()}: {error}") from error
    raise error
