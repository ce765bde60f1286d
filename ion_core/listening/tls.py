"""TLS: our certificate, and the authorities of whom clients must have one, read again when their files have changed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ion_core.contracts.provider import Finding
from ion_core.errors import ConfigError
from ion_core.listening.handshakes import Failures, Handshakes

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


class _Current(ssl.SSLContext):
    """What the server is given once and for all: each connection is taken with what is ``used`` by then."""

    used: Handshakes

    def wrap_bio(self, *given: Any, **how: Any) -> ssl.SSLObject:
        return self.used.wrap_bio(*given, **how)


class Certificate:
    """``context`` is that of the server, which goes on to use what ``look`` finds. Raises Unusable."""

    def __init__(self, settings: Files) -> None:
        assert settings.cert_file is not None
        self._settings = settings
        self._certificate = settings.cert_file
        self._key = settings.key_file or settings.cert_file
        self._failures = Failures()
        self._seen = self._used = self._stamps()
        self._authorities = self._read_authorities()
        self.context = _Current(ssl.PROTOCOL_TLS_SERVER)
        self.context.used = self._made()

    def look(self, *, again: bool = False) -> None:
        """Have connections from then on use files that have changed.

        Raises Unusable, once for each change, or each time where asked ``again``: all that was in use stays so.
        """
        stamps = self._stamps()
        if stamps == (self._used if again else self._seen):
            return
        self._seen = stamps
        authorities = self._read_authorities()
        if authorities == self._authorities:
            self._load(self.context.used)
            log.info("the certificate was read again")
        else:  # nothing can be taken out of a context; and sessions of this one are resumed without asking
            self.context.used = self._made()
            log.info("the certificate and the authorities of clients were read again")
        self._authorities, self._used = authorities, stamps

    def trusts(self, connection: ssl.SSLObject) -> bool:
        """Whether it was taken under the authorities that are in use."""
        return connection.context is self.context.used

    def _made(self) -> Handshakes:
        found = Handshakes(ssl.PROTOCOL_TLS_SERVER)
        found.failures = self._failures
        self._load(found)
        if self._settings.client_ca_file is not None:
            found.verify_mode = ssl.CERT_REQUIRED
            self._trust(found, self._settings.client_ca_file)
        return found

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = []
        for key in ("cert_file", "key_file", "client_ca_file"):
            path = getattr(self._settings, key)
            if path is None:
                continue
            try:
                status = path.stat()
                with path.open("rb"):
                    pass
            except OSError as error:
                raise self._unreadable(key, path, error) from error
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return found

    def _read_authorities(self) -> bytes:
        path = self._settings.client_ca_file
        try:
            return b"" if path is None else path.read_bytes()
        except OSError as error:
            raise self._unreadable("client_ca_file", path, error) from error

    def _unreadable(self, key: str, path: Path | None, error: OSError) -> Unusable:
        return Unusable(self._settings, key, f"{path} cannot be read: {error.strerror}")

    def _trust(self, context: ssl.SSLContext, authorities: Path) -> None:
        try:
            context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            text = f"{authorities} has no certificates of authorities in PEM."
            raise Unusable(self._settings, "client_ca_file", text) from error
        except OSError as error:
            raise self._unreadable("client_ca_file", authorities, error) from error

    def _load(self, context: ssl.SSLContext) -> None:
        asked: list[bool] = []

        def no_passphrase() -> str:
            asked.append(True)  # without this OpenSSL would ask on the terminal, and wait
            return ""

        try:
            _trial(self._certificate, self._key, no_passphrase)
            context.load_cert_chain(self._certificate, self._key, password=no_passphrase)
        except ssl.SSLError as error:
            place = "cert_file" if self._settings.key_file is None else "key_file"
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


def findings(settings: Files, not_valid_today: Callable[[bytes], Iterable[str]]) -> Iterator[Finding]:
    """What is wrong with the files, and which certificates in them are not valid today, by what is said of some PEM."""
    if settings.cert_file is None:
        return
    try:
        Certificate(settings)
    except Unusable as error:
        yield Finding(severity="error", where=settings.section.where(error.key), text=error.text)
        return
    for key, path in (("cert_file", settings.cert_file), ("client_ca_file", settings.client_ca_file)):
        for text in () if path is None else not_valid_today(path.read_bytes()):
            yield Finding(severity="warning", where=settings.section.where(key), text=text)


def _trial(certificate: Path, key: Path, password: object) -> None:
    """In a context that nobody uses: one that fails half way may have taken the certificate without its key."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=password)  # type: ignore[arg-type]
