"""Which driver an object store gets: obstore where the settings mean the same to it as to fsspec's own."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from ion_core.errors import ConfigError
from ion_fsspec_storage import azure, s3
from ion_fsspec_storage.protocols import EXTRAS
from ion_fsspec_storage.ways import Direct, Wanted

log = logging.getLogger(__name__)


class _Service(Protocol):
    """What a module knows of one: see ``s3``."""

    DRIVER: str

    def misfit(self, url: str, options: Mapping[str, Any]) -> tuple[str, str] | None: ...
    def elsewhere(self, options: Mapping[str, Any], environ: Mapping[str, str]) -> str: ...
    def made(self, settings: Wanted, environ: Mapping[str, str]) -> Direct: ...
    def garbled(self, made: Direct) -> str: ...
    def listing_options(
        self, where: Direct, options: Mapping[str, Any], environ: Mapping[str, str]
    ) -> dict[str, Any]: ...


_SERVICES: Mapping[str, _Service] = {**dict.fromkeys(s3.PROTOCOLS, s3), **dict.fromkeys(azure.PROTOCOLS, azure)}
PROTOCOLS = tuple(_SERVICES)
"""Those that obstore may be the driver of."""


def misfit(protocol: str, url: str, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first key of the settings that obstore has nothing for, with a sentence about it; None if there is none.

    Nothing is looked at but these settings. The sentence shows no value.
    """
    return _SERVICES[protocol].misfit(url, options)


def direct(settings: Wanted, environ: Mapping[str, str] | None = None) -> Direct | None:
    """How obstore gets there; None where it is not the driver. Raises ConfigError where it must be and cannot.

    With ``driver: auto`` it is wherever it means the same as fsspec's, and is installed.
    """
    environ = os.environ if environ is None else environ
    service = _SERVICES.get(settings.protocol)
    if service is None or settings.driver == "fsspec":
        return None
    if find_spec("obstore") is None:
        if settings.driver == "auto":
            return None
        raise ConfigError(
            f"{settings.section.where('driver')}: obstore is not installed. "
            f"pip install 'ion-fsspec-storage[{EXTRAS[settings.protocol]}]'"
        )
    if settings.driver == "auto":
        found = service.misfit(settings.url, settings.options)
        if why := ": ".join(found) if found is not None else service.elsewhere(settings.options, environ):
            log.debug("%s makes the requests, not obstore: %s", service.DRIVER, why)
            return None
    made = service.made(settings, environ)
    if not (why := service.garbled(made)):
        return made
    if settings.driver == "auto":
        log.debug("%s makes the requests, not obstore: %s", service.DRIVER, why)
        return None
    raise ConfigError(f"{settings.section.where('options')}: with what the environment says, {why}")


def lister(settings: Wanted) -> str:
    """The package that lists where obstore does the rest."""
    return _SERVICES[settings.protocol].DRIVER


def listing_options(settings: Wanted, where: Direct) -> dict[str, Any]:
    """The options for that."""
    return _SERVICES[settings.protocol].listing_options(where, settings.options, os.environ)
