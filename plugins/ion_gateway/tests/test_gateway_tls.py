"""The gateway over TLS: what cannot be used is named, and what is renewed is used."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from ion_core.errors import ConfigError
from ion_gateway import tls
from ion_gateway.gateway import Gateway
from plugins.ion_gateway.tests.gateways import running, settings


def made(home: Path, name: str, *more: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, as an operator makes them."""
    certificate, key = home / f"{name}.crt", home / f"{name}.key"
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key), "-out", str(certificate)]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", *new, *subject, *(more or ["-nodes"])], check=True, capture_output=True, timeout=60
    )
    return certificate, key


def trusting(certificate: Path) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(certificate))
    found.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return found


async def test_events_come_in_over_tls(tmp_path: Path) -> None:
    certificate, key = made(tmp_path, "one")
    async with running(tmp_path / "work", cert_file=certificate, key_file=key) as it:
        assert it.gateway.url.startswith("https://127.0.0.1:")
        assert (await it.post(json={"a": "b"}, ssl=trusting(certificate)))[0] == 202
        assert b"HTTP/1.1 202" not in await it.raw(b"POST /events/photo.received HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert len(it.host.taken) == 1


async def test_certificate_and_key_may_be_in_one_file(tmp_path: Path) -> None:
    certificate, key = made(tmp_path, "one")
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    async with running(tmp_path / "work", cert_file=both) as it:
        assert (await it.post(ssl=trusting(certificate)))[0] == 202


async def test_a_certificate_that_is_renewed_is_used_and_one_that_is_none_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "LOOK_EVERY", 0.01)
    caplog.set_level("INFO")
    certificate, key = made(tmp_path, "one")
    first = trusting(certificate)
    async with running(tmp_path / "work", cert_file=certificate, key_file=key) as it:

        async def logged(text: str) -> None:
            async with asyncio.timeout(20):
                while text not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        certificate.write_text("nothing")
        await logged("the certificate of before stays in use")
        assert (await it.post(ssl=first, headers={"Connection": "close"}))[0] == 202
        other, other_key = made(tmp_path, "two")
        other_key.replace(key)
        other.replace(certificate)
        second = trusting(certificate)
        await logged("the certificate was read again")
        assert (await it.post(ssl=second))[0] == 202


async def test_files_that_cannot_be_used_are_named_with_their_key(tmp_path: Path) -> None:
    certificate, key = made(tmp_path, "one")
    _, other = made(tmp_path, "two")
    _, locked = made(tmp_path, "three", "-passout", "pass:sesame")
    (tmp_path / "text").write_text("no PEM")
    for given, says in (
        ({"cert_file": tmp_path / "gone"}, "cert_file: .*gone cannot be read: No such file"),
        ({"cert_file": certificate, "key_file": tmp_path / "gone"}, "key_file: .*gone cannot be read: No such file"),
        ({"cert_file": certificate, "key_file": other}, "key_file: is not the key of the certificate"),
        ({"cert_file": certificate, "key_file": locked}, "key_file: the key is encrypted"),
        ({"cert_file": tmp_path / "text", "key_file": key}, "cert_file: certificate and key cannot be used"),
    ):
        with pytest.raises(ConfigError, match=rf"services\.gateway\.{says}"):
            await Gateway(settings(**given)).run(None, asyncio.Event(), asyncio.Event())  # type: ignore[arg-type]
