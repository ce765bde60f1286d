"""The gateway over TLS: what cannot be used is named, and what is renewed is used."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from ion_core.errors import ConfigError
from ion_core.listening import handshakes, sockets, tls
from ion_gateway.gateway import Gateway
from plugins.ion_gateway.tests.gateways import running, settings, until
from plugins.ion_gateway.tests.test_gateway_serve import ENVIRONMENT
from tests.support import commands
from tests.support.certificates import Authority


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


async def test_connections_that_never_speak_tls_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sockets, "CONNECTIONS", 3)
    certificate, key = made(tmp_path, "first")
    async with running(tmp_path / "work", cert_file=certificate, key_file=key, max_requests=1) as it:
        silent = [await asyncio.open_connection(*it.address) for _ in range(3)]
        reader, writer = await asyncio.open_connection(*it.address)
        with suppress(ConnectionError):
            async with asyncio.timeout(30):
                assert await reader.read() == b""
        assert caplog.text.count("there are 3 connections already") == 1
        for _, other in [*silent, (reader, writer)]:
            other.close()

        async def is_taken() -> bool:
            try:
                return (await it.post(ssl=trusting(certificate)))[0] == 202
            except aiohttp.ClientConnectionError:  # those that left are counted until that is seen
                return False

        async with asyncio.timeout(30):
            while not await is_taken():
                pass


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
        await logged("the certificates of before stay in use")
        assert (await it.post(ssl=first, headers={"Connection": "close"}))[0] == 202
        other, other_key = made(tmp_path, "two")
        other_key.replace(key)
        other.replace(certificate)
        second = trusting(certificate)
        await logged("the certificate was read again")
        assert (await it.post(ssl=second))[0] == 202


class Clients:
    """Certificates of clients, and a gateway's settings that ask for them."""

    def __init__(self, home: Path) -> None:
        self.ours, self.others = Authority(home / "ours", "ours"), Authority(home / "others", "others")
        self._server, key = made(home, "server")
        self.settings = {"cert_file": self._server, "key_file": key, "client_ca_file": self.ours.certificate}

    def of(self, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
        found = trusting(self._server)
        if certificate is not None:
            found.load_cert_chain(*certificate)
        return found


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path / "certificates")


async def test_who_has_no_certificate_of_the_authority_reaches_nothing(tmp_path: Path, clients: Clients) -> None:
    async with running(tmp_path / "work", **clients.settings, auth={"certificate": "any"}) as it:
        for certificate in (
            None,
            clients.others.issue("robot", names="DNS:robot.example"),
            clients.ours.issue("late", expired=True),
        ):
            with pytest.raises(aiohttp.ClientError):
                await it.post(ssl=clients.of(certificate))
        assert it.host.taken == []
        assert (await it.post(ssl=clients.of(clients.ours.issue("robot"))))[0] == 202


NAMES = [
    ("robot", "", "robot", 202),
    ("robot", "IP:127.0.0.1", "robot", 202),
    ("x", "DNS:Robot.example,DNS:other", "robot.example", 202),
    ("x", "DNS:robot.example", "Robot.EXAMPLE", 202),
    ("Robot", "", "robot", 403),
    ("x", "email:Robot@example.org", "robot@example.org", 403),
    ("x", "URI:spiffe://example/robot", "spiffe://example/robot", 202),
    ("x", "email:robot@example.org", "robot@example.org", 202),
    ("robot", "DNS:other.example", "robot", 403),
    ("robot", "", "robo", 403),
    ("robot.example.evil", "", "robot.example", 403),
    ("x", "DNS:*.example", "robot.example", 403),
    ("x", "URI:spiffe://example/ROBOT", "spiffe://example/robot", 403),
]


@pytest.mark.parametrize(("common", "names", "holder", "status"), NAMES)
async def test_a_certificate_says_who_by_its_alternative_names_or_else_its_common_one(
    tmp_path: Path,
    clients: Clients,
    caplog: pytest.LogCaptureFixture,
    common: str,
    names: str,
    holder: str,
    status: int,
) -> None:
    caplog.set_level("INFO")
    auth = {"certificate": ["nobody", holder]}
    async with running(tmp_path / "work", **clients.settings, auth=auth) as it:
        certificate = clients.of(clients.ours.issue(common, names=names))
        assert (await it.post(ssl=certificate))[0] == status
        assert (await it.ask("GET", "/events/x", ssl=certificate))[0] == (404 if status == 202 else 403)
        assert len(it.host.taken) == (status == 202)
        assert ("a client has a certificate of nobody who may" in caplog.text) == (status == 403)


async def test_a_token_may_be_asked_for_beside_a_certificate(tmp_path: Path, clients: Clients) -> None:
    token = "t" * 16
    async with running(tmp_path / "work", **clients.settings, auth={"bearer": token}) as it:
        certificate = clients.of(clients.ours.issue("robot"))
        assert (await it.post(ssl=certificate))[0] == 401
        assert (await it.post(ssl=certificate, headers={"Authorization": f"Bearer {token}"}))[0] == 202


async def test_authorities_are_read_again_and_who_has_none_of_them_is_out(
    tmp_path: Path, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ours = clients.of(clients.ours.issue("alice", names="DNS:alice.example"))
    others = clients.of(clients.others.issue("bob", names="DNS:bob.example"))
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(clients.ours.certificate.read_bytes())
    given = {**clients.settings, "client_ca_file": authorities}
    alice, anyone = settings(**given, auth={"certificate": "alice.example"}), {"certificate": "any"}
    async with running(tmp_path / "work", **given, auth={"certificate": "alice.example"}) as it:
        assert (await it.post(ssl=ours))[0] == 202
        with pytest.raises(aiohttp.ClientError):
            await it.post(ssl=others)

        authorities.write_text("nothing")
        for _ in range(2):  # also where that it is of no use was seen before
            assert it.gateway.reload(settings(**given, auth=anyone)) == ["auth"]
        assert caplog.text.count(f"{authorities} has no certificates of authorities in PEM") == 2
        assert (await it.post(ssl=ours))[0] == 202

        authorities.write_bytes(clients.others.certificate.read_bytes())
        assert it.gateway.reload(settings(**given, auth=anyone)) == []
        assert "the certificate and the authorities of clients were read again" in caplog.text
        status, said, headers = await it.post(ssl=ours)  # on the connection of before, which is kept alive
        assert (status, headers["Connection"]) == (503, "close")
        assert "on a new connection" in said["detail"]
        with pytest.raises(aiohttp.ClientError):
            await it.post(ssl=ours)  # nor is its session resumed
        assert (await it.post(ssl=others))[0] == 202
        assert it.gateway.reload(alice) == []
        assert (await it.post(ssl=others))[0] == 403
        assert len(it.host.taken) == 3


async def test_a_handshake_that_fails_is_in_the_log_with_who_and_why(
    tmp_path: Path, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(tmp_path / "work", **clients.settings, auth={"certificate": "any"}) as it:

        async def failed(why: str, certificate: ssl.SSLContext | None) -> None:
            if certificate is None:
                await it.raw(b"GET /events/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            else:
                with pytest.raises(aiohttp.ClientError):
                    await it.post(ssl=certificate)
            await until(lambda: why in caplog.text)
            (record,) = [it for it in caplog.records if why in it.getMessage()]
            assert (record.levelname, record.__dict__["remote"]) == ("INFO", "127.0.0.1")

        await failed("the client has no certificate, which client_ca_file asks for", clients.of(None))
        late = clients.of(clients.ours.issue("late", expired=True))
        await failed("the client's certificate is not taken: certificate has expired", late)
        await failed("it was plain HTTP. The URL begins with https://", None)
        curl = await asyncio.create_subprocess_exec("curl", "-s", it.gateway.url)  # asyncio leaves without a word
        assert await curl.wait() == 60
        why = "the client gave up, perhaps as it does not trust our certificate: unknown ca"
        await until(lambda: why in caplog.text)
        before = len(caplog.records)
        assert await it.raw(b"GET /events/x HTTP/1.1\r\nHost: localhost\r\n\r\n") is not None
        assert (await it.post(ssl=clients.of(clients.ours.issue("robot"))))[0] == 202
        assert len(caplog.records) == before, "said once"


def test_failures_are_said_once_in_a_while_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    now = [0.0]
    failures = handshakes.Failures(clock=lambda: now[0])

    def told(*remotes: str) -> list[str]:
        caplog.clear()
        for remote in remotes:
            failures.tell(remote, "why")
        return [f"{getattr(it, 'remote', '')} {it.getMessage()}".strip() for it in caplog.records]

    why = "a TLS handshake failed: why"
    assert told("a", "a", "b") == [f"a {why}", f"b {why}"]
    assert told("a", "b", "a") == []
    now[0] = handshakes.EVERY
    assert told("a") == ["4 more TLS handshakes failed like those that were told", f"a {why}"]
    scan = told(*(f"host{n}" for n in range(10_000)))
    assert len(scan) == handshakes.MOST - 1
    now[0] *= 3
    said = f"{10_001 - handshakes.MOST:,} more TLS handshakes failed like those that were told"
    assert told("a") == [said, f"a {why}"]


def test_check_finds_what_cannot_be_used_and_what_has_expired(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "ours")
    certificate, key = authority.issue("server", names="IP:127.0.0.1")
    expired, its_key = authority.issue("late", expired=True)

    def found(certificate: Path, key: Path, *more: str) -> str:
        (tmp_path / "ion.yaml").write_text(
            'modules: {m: {command: ["true"], source: ., subscribes: [a]}}\n'
            f"services:\n  gateway: {{auth: none, cert_file: {certificate}, key_file: {key}{''.join(more)}}}\n"
        )
        done = commands.run("check", cwd=tmp_path, environ=ENVIRONMENT)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    both = certificate.with_name("both.pem")
    both.write_text(certificate.read_text() + expired.read_text())
    assert found(certificate, key).endswith("ok: 1 module, 1 event type, 1 runtime, 1 service\n")
    assert "certificate" not in found(certificate, key, f", client_ca_file: {authority.certificate}")
    for given, code, says in (
        ((certificate, its_key), 78, "services.gateway.key_file: is not the key of the certificate in cert_file"),
        ((certificate, tmp_path / "gone"), 78, f"services.gateway.key_file: {tmp_path}/gone cannot be read: No such"),
        ((expired, its_key), 0, "services.gateway.cert_file: warning: the certificate of CN=late has expired, on 2020"),
        ((both, key), 0, "services.gateway.cert_file: warning: the certificate of CN=late has expired, on 2020-01-02"),
        ((certificate, key, ", client_ca_file: gone"), 78, "client_ca_file: "),
        ((certificate, key, f", client_ca_file: {expired}"), 0, "client_ca_file: warning: the certificate of CN=late"),
    ):
        said = found(*given)
        assert said.startswith(f"{code} "), said
        assert says in said


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
        (
            {"cert_file": certificate, "key_file": key, "client_ca_file": tmp_path / "gone"},
            "client_ca_file: .*gone cannot be read: No such file",
        ),
        (
            {"cert_file": certificate, "key_file": key, "client_ca_file": tmp_path / "text"},
            "client_ca_file: .*text has no certificates of authorities",
        ),
    ):
        with pytest.raises(ConfigError, match=rf"services\.gateway\.{says}"):
            await Gateway(settings(**given)).run(None, asyncio.Event(), asyncio.Event())  # type: ignore[arg-type]
