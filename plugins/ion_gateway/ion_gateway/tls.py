"""TLS: our certificate, read again when its file has changed, and whose clients must have one."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ion_core.contracts.provider import Finding
from ion_core.errors import ConfigError

if TYPE_CHECKING:
    from ion_core.contracts.settings import Section

log = logging.getLogger(__name__)

LOOK_EVERY = 60.0
"""Seconds between looks at the files: certificates are renewed while we serve."""


class Files(Protocol):
    """What the settings say of TLS, and where they stand."""

    @property
    def section(self) -> Section: ...
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def client_ca_file(self) -> Path | None: ...


class Unusable(ConfigError):
    """A file that cannot be used: ``text`` says why, ``key`` which."""

    def __init__(self, settings: Files, key: str, text: str) -> None:
        super().__init__(f"{settings.section.where(key)}: {text}")
        self.key, self.text = key, text


class Certificate:
    """``context`` is that of the server. Raises Unusable."""

    def __init__(self, settings: Files) -> None:
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
                raise Unusable(self._settings, key, f"{path} cannot be read: {error.strerror}") from error
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return found

    def _trust(self, authorities: Path) -> None:
        try:
            self.context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            text = f"{authorities} has no certificates of authorities in PEM."
            raise Unusable(self._settings, "client_ca_file", text) from error
        except OSError as error:
            text = f"{authorities} cannot be read: {error.strerror}"
            raise Unusable(self._settings, "client_ca_file", text) from error

    def _load(self) -> None:
        asked: list[bool] = []

        def no_passphrase() -> str:
            asked.append(True)  # without this OpenSSL would ask on the terminal, and wait
            return ""

        certificate, key = self._files[0], self._files[-1]
        try:
            _trial(certificate, key, no_passphrase)
            self.context.load_cert_chain(certificate, key, password=no_passphrase)
        except ssl.SSLError as error:
            place = "key_file" if len(self._files) > 1 else "cert_file"
            if asked:
                text = "the key is encrypted. Give it without a passphrase, for Ion's user only."
            elif error.reason == "KEY_VALUES_MISMATCH":
                text = "is not the key of the certificate in cert_file"
            else:
                place = "cert_file"
                text = (
                    f"certificate and key cannot be used: {error.reason or 'they are no PEM'}. cert_file holds the "
                    "certificate with those of its authorities, key_file its key, all in PEM."
                )
            raise Unusable(self._settings, place, text) from error


def findings(settings: Files) -> Iterator[Finding]:
    """What is wrong with the files, and which certificates in them are not valid today."""
    if settings.cert_file is None:
        return
    try:
        Certificate(settings)
    except Unusable as error:
        yield Finding(severity="error", where=settings.section.where(error.key), text=error.text)
        return
    for key, path in (("cert_file", settings.cert_file), ("client_ca_file", settings.client_ca_file)):
        for text in () if path is None else _not_valid_today(path.read_bytes()):
            yield Finding(severity="warning", where=settings.section.where(key), text=text)


def _not_valid_today(pem: bytes) -> Iterator[str]:
    from cryptography.x509 import load_pem_x509_certificates

    now = datetime.now(UTC)
    try:
        certificates = load_pem_x509_certificates(pem)
    except ValueError as error:  # stricter than OpenSSL, which has taken it
        yield f"whether it is valid today cannot be told: {error}"
        return
    for it in certificates:
        named = f"the certificate of {it.subject.rfc4514_string()}"
        if it.not_valid_after_utc < now:
            yield f"{named} has expired, on {it.not_valid_after_utc:%Y-%m-%d}, and is refused. Renew it."
        elif it.not_valid_before_utc > now:
            yield f"{named} is not valid before {it.not_valid_before_utc:%Y-%m-%d}. Is the clock right?"


def _trial(certificate: Path, key: Path, password: object) -> None:
    """In a context that nobody uses: one that fails half way may have taken the certificate without its key."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=password)  # type: ignore[arg-type]
