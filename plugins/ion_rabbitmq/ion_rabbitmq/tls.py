"""TLS for ``amqps://``: our certificates, and what a handshake that fails says of the settings."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

from ion_core.errors import ConfigError, IonError, TransientError
from ion_rabbitmq.settings import RabbitSettings

OUT_OF_DATE = {9, 10}
OF_ANOTHER_NAME = {62, 64}
"""Codes of X509_verify_cert: not yet valid, expired; of another host name, of another address."""

OF_AN_AUTHORITY = {
    86: "subjectKeyIdentifier=hash",
    89: "basicConstraints=critical,CA:TRUE",
    92: "keyUsage=critical,keyCertSign,cRLSign",
}
OF_ANY = {85: "authorityKeyIdentifier=keyid"}
"""Codes for an extension that RFC 5280 asks for, and how openssl is told to add it; to an authority's certificate, to
any. Python looks for these from 3.13 on: a certificate of plain ``openssl req -x509`` lacks the last."""

SAYS_WITHIN = 2.0
"""Seconds that a server gets to refuse our certificate."""


def context(settings: RabbitSettings) -> ssl.SSLContext | None:
    """None for plain ``amqp://``. Read anew for each connection, so that renewed files count. Raises ConfigError."""
    if not settings.encrypted:
        return None
    for key in ("ca_file", "cert_file", "key_file"):
        _check_readable(settings.section.where(key), getattr(settings, key))
    try:
        found = ssl.create_default_context(cafile=settings.ca_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{settings.section.where('ca_file')}: holds no certificates in PEM: {error.reason or error}"
        ) from error
    if settings.cert_file is not None:
        _load_ours(found, settings)
    return found


def _check_readable(where: str, path: Path | None) -> None:
    if path is None:
        return
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}") from error


def _load_ours(found: ssl.SSLContext, settings: RabbitSettings) -> None:
    assert settings.cert_file is not None
    asked: list[bool] = []

    def no_passphrase() -> str:
        asked.append(True)  # without this OpenSSL would ask on the terminal, and wait
        return ""

    where = settings.section.where("cert_file" if settings.key_file is None else "key_file")
    try:
        found.load_cert_chain(settings.cert_file, settings.key_file, password=no_passphrase)
    except ssl.SSLError as error:
        if asked:
            text = f"{where}: the key is encrypted. Give it without a passphrase, for Ion's user only."
        elif error.reason == "KEY_VALUES_MISMATCH":
            text = f"{where}: is not the key of the certificate in cert_file"
        else:
            text = (
                f"{settings.section.where('cert_file')}: certificate and key cannot be used: "
                f"{error.reason or 'they are no PEM'}. cert_file holds the certificate, key_file its key, both in PEM."
            )
        raise ConfigError(text) from error


async def refusal(settings: RabbitSettings, error: BaseException) -> IonError | None:
    """What connecting with ``error`` came of, as an error that says which setting would do; None if that is not TLS.

    A server of TLS 1.3 looks at our certificate once the handshake is over for us: then AMQP's first bytes cross with
    its answer, and it resets the connection, which may cost us the answer. So we ask again, and say nothing.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, ConnectionResetError | BrokenPipeError | EOFError) for cause in causes):
        if not settings.encrypted:
            text = "RabbitMQ closed the connection before it was made. Where it listens for TLS, use amqps://."
            return TransientError(f"{settings.place()}: {text}")
        causes += await _said_to_silence(settings)
    found = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    return None if found is None else _translated(settings, found)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


async def _said_to_silence(settings: RabbitSettings) -> list[BaseException]:
    host, port = settings.host_and_port()
    try:
        async with asyncio.timeout(min(settings.timeout.total_seconds() / 2, SAYS_WITHIN)):
            reader, writer = await asyncio.open_connection(host, port, ssl=context(settings))
            try:
                await reader.read(1)
            finally:
                writer.close()
    except OSError as error:  # TimeoutError too: it has nothing against us
        return [error]
    return []


def _translated(settings: RabbitSettings, found: ssl.SSLError) -> IonError:
    if isinstance(found, ssl.SSLCertVerificationError):
        return _unverified(settings, found)
    reason = (found.reason or "").upper()
    ours = settings.cert_file is not None
    section = settings.section
    if "WRONG_VERSION_NUMBER" in reason:
        return ConfigError(
            f"{settings.place()}: does not speak TLS. "
            f"Give {section.dotted('url')} the port of its TLS listener, or amqp://."
        )
    if not ours and ("CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason):
        return ConfigError(
            f"{settings.place()}: asks for a client certificate. "
            f"Set {section.dotted('cert_file')} and {section.dotted('key_file')}."
        )
    if ours and "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "HANDSHAKE" in reason):
        return ConfigError(
            f"{settings.place()}: refuses our certificate: {found.reason}. "
            f"Set {section.dotted('cert_file')} to one of an authority that it trusts."
        )
    return TransientError(f"{settings.place()}: TLS failed: {found.reason or found}")


def _unverified(settings: RabbitSettings, error: ssl.SSLCertVerificationError) -> IonError:
    said = f"{settings.place()}: its certificate cannot be trusted: {error.verify_message}"
    if error.verify_code in OUT_OF_DATE:
        return TransientError(f"{said}. Renew it at the broker, or set the clock of this machine.")
    if error.verify_code in OF_ANOTHER_NAME:
        return ConfigError(f"{said}. Use the name that is in the certificate in {settings.section.dotted('url')}.")
    ca_file = settings.section.dotted("ca_file")
    if lacks := OF_AN_AUTHORITY.get(error.verify_code):
        where = f" in {ca_file} ({settings.ca_file})" if settings.ca_file else ""
        return ConfigError(
            f"{said}. Python asks for it from 3.13 on. Issue the authority's certificate{where} anew with its key and "
            f"{lacks}: what it has issued stays valid. The README of ion-rabbitmq has the command."
        )
    if lacks := OF_ANY.get(error.verify_code):
        return ConfigError(
            f"{said}. Python asks for it from 3.13 on. Issue the broker's certificate anew with {lacks}. The README of "
            "ion-rabbitmq has the command."
        )
    return ConfigError(f"{said}. Set {ca_file} to the certificate of the authority that issued it.")
