"""TLS: our certificate, read again when its file has changed, and whose clients must have one."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from ion_core.errors import ConfigError

if TYPE_CHECKING:
    from ion_gateway.gateway_settings import GatewaySettings

log = logging.getLogger(__name__)

LOOK_EVERY = 60.0
"""Seconds between looks at the files: certificates are renewed while we serve."""


class Certificate:
    """``context`` is that of the server. Raises ConfigError where the files cannot be used."""

    def __init__(self, settings: GatewaySettings) -> None:
        assert settings.cert_file is not None
        self._settings = settings
        self._files = [settings.cert_file] + ([settings.key_file] if settings.key_file is not None else [])
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._seen = self._stamps()
        self._load()
        if settings.client_ca_file is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self._trust(settings.client_ca_file)

    async def keep(self) -> None:
        """Have connections from then on use files that have changed; what cannot be used is said, and passed over."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                stamps = self._stamps()
                if stamps != self._seen:
                    self._seen = stamps
                    self._load()
                    log.info("the certificate was read again")
            except ConfigError as error:
                log.error("the certificate of before stays in use: %s", error)

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = []
        for key, path in zip(("cert_file", "key_file"), self._files, strict=False):
            try:
                status = path.stat()
                with path.open("rb"):
                    pass
            except OSError as error:
                where = self._settings.section.where(key)
                raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}") from error
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return found

    def _trust(self, authorities: Path) -> None:
        where = self._settings.section.where("client_ca_file")
        try:
            self.context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            raise ConfigError(f"{where}: {authorities} has no certificates of authorities in PEM.") from error
        except OSError as error:
            raise ConfigError(f"{where}: {authorities} cannot be read: {error.strerror}") from error

    def _load(self) -> None:
        where = self._settings.section.where
        asked: list[bool] = []

        def no_passphrase() -> str:
            asked.append(True)  # without this OpenSSL would ask on the terminal, and wait
            return ""

        certificate, key = self._files[0], self._files[-1]
        try:
            _trial(certificate, key, no_passphrase)
            self.context.load_cert_chain(certificate, key, password=no_passphrase)
        except ssl.SSLError as error:
            place = where("key_file" if len(self._files) > 1 else "cert_file")
            if asked:
                text = f"{place}: the key is encrypted. Give it without a passphrase, for Ion's user only."
            elif error.reason == "KEY_VALUES_MISMATCH":
                text = f"{place}: is not the key of the certificate in cert_file"
            else:
                text = (
                    f"{where('cert_file')}: certificate and key cannot be used: {error.reason or 'they are no PEM'}. "
                    "cert_file holds the certificate with those of its authorities, key_file its key, all in PEM."
                )
            raise ConfigError(text) from error


def _trial(certificate: Path, key: Path, password: object) -> None:
    """In a context that nobody uses: one that fails half way may have taken the certificate without its key."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=password)  # type: ignore[arg-type]
