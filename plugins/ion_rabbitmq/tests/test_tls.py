"""TLS and client certificates, on listeners of a real RabbitMQ."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from on_rabbit import RETRY, settings, take
from pydantic import ValidationError

from ion_core.errors import ConfigError, IonError, TransientError
from ion_rabbitmq.broker import open_rabbit_broker
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.testing import RabbitServer, ServerTls
from tests.acceptance.pipeline import Pipeline
from tests.support.certificates import Authority, encrypted

PASSWORD = "canary-4c1e"


@dataclass(frozen=True, kw_only=True)
class Secured:
    """A server whose TLS listener wants a client certificate, and everybody's files."""

    server: RabbitServer
    ours: Authority
    other: Authority
    client: Mapping[str, Path]
    """``cert_file`` and ``key_file`` that it accepts."""

    def url(self, host: str = "localhost") -> str:
        return f"amqps://ion:{PASSWORD}@{host}:{self.server.tls_port}/"

    def settings(self, host: str = "localhost", **more: object) -> RabbitSettings:
        return settings(self.url(host), prefix="tls", **more)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    home = tmp_path_factory.mktemp("tls")
    ours, other = Authority(home / "ours", "Ours"), Authority(home / "other", "Another")
    certificate, key = ours.issue("server", names="DNS:localhost")
    server = RabbitServer(home / "node")
    server.configure(tls=ServerTls(authority=ours.certificate, certificate=certificate, key=key, asks=True))
    client = dict(zip(("cert_file", "key_file"), ours.issue("client"), strict=True))
    try:
        server.start()
        server.ctl("add_user", "ion", PASSWORD)
        server.ctl("set_permissions", "ion", ".*", ".*", ".*")
        yield Secured(server=server, ours=ours, other=other, client=client)
    finally:
        server.remove()


async def refused(settings: RabbitSettings, error: type[IonError]) -> str:
    with pytest.raises(error) as found:
        async with open_rabbit_broker(settings):
            pass
    return str(found.value)


async def test_events_pass_with_the_right_authority_and_a_client_certificate(secured: Secured) -> None:
    right = secured.settings(ca_file=secured.ours.certificate, **secured.client)
    async with open_rabbit_broker(right) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        async with broker.subscribe("work", prefetch=1) as deliveries:
            await broker.publish("work.asked", b"x", headers={})
            delivery = await take(deliveries)
            assert delivery.body == b"x"
            await delivery.ack()
    connections = secured.server.ctl("list_connections", "ssl")
    assert "false" not in connections


async def test_an_unknown_authority_is_answered_with_ca_file(secured: Secured) -> None:
    said = await refused(secured.settings(**secured.client), ConfigError)
    assert "Set messaging.ca_file to the certificate of the authority that issued it" in said
    wrong = secured.settings(ca_file=secured.other.certificate, **secured.client)
    assert "messaging.ca_file" in await refused(wrong, ConfigError)


async def test_another_host_name_is_answered_with_the_url(secured: Secured) -> None:
    said = await refused(secured.settings("127.0.0.1", ca_file=secured.ours.certificate, **secured.client), ConfigError)
    assert "127.0.0.1" in said
    assert "Use the name that is in the certificate in messaging.url" in said


async def test_a_missing_client_certificate_is_answered_with_its_settings(secured: Secured) -> None:
    said = await refused(secured.settings(ca_file=secured.ours.certificate), ConfigError)
    assert "asks for a client certificate. Set messaging.cert_file and messaging.key_file" in said


async def test_a_client_certificate_of_another_authority_is_refused(secured: Secured) -> None:
    certificate, key = secured.other.issue("stranger")
    stranger = secured.settings(ca_file=secured.ours.certificate, cert_file=certificate, key_file=key)
    said = await refused(stranger, ConfigError)
    assert "refuses our certificate" in said
    assert "messaging.cert_file" in said


async def test_tls_to_a_plain_port_and_plain_to_a_tls_port_say_so(secured: Secured) -> None:
    plain = settings(f"amqps://ion:{PASSWORD}@localhost:{secured.server.port}/")
    said = await refused(plain, ConfigError)
    assert "does not speak TLS" in said
    wrong = settings(f"amqp://ion:{PASSWORD}@localhost:{secured.server.tls_port}/")
    assert "amqps://" in await refused(wrong, TransientError)


async def test_an_expired_certificate_is_the_operators_to_renew(secured: Secured, tmp_path: Path) -> None:
    certificate, key = secured.ours.issue("late", names="DNS:localhost", expired=True)
    server = RabbitServer(tmp_path / "node")
    server.configure(tls=ServerTls(authority=secured.ours.certificate, certificate=certificate, key=key))
    try:
        server.start()
        late = settings(f"amqps://guest:guest@localhost:{server.tls_port}/", ca_file=secured.ours.certificate)
        said = await refused(late, TransientError)
    finally:
        server.remove()
    assert "certificate has expired" in said


@pytest.mark.parametrize("broken", ["missing", "no pem", "another key", "encrypted", "key without certificate"])
async def test_files_that_cannot_be_used_are_named_by_their_setting(
    broken: str, secured: Secured, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    files: dict[str, object] = {"ca_file": secured.ours.certificate, **secured.client}
    key = secured.client["key_file"]
    cases: dict[str, tuple[dict[str, Path], str]] = {
        "missing": (
            {"cert_file": tmp_path / "absent.pem"},
            r"messaging\.cert_file: .*absent.pem cannot be read",
        ),
        "no pem": ({"ca_file": nothing}, r"messaging\.ca_file: holds no certificates"),
        "another key": ({"key_file": secured.ours.issue("other")[1]}, r"messaging\.key_file: is not the key of"),
        "encrypted": ({"key_file": encrypted(key, PASSWORD)}, r"messaging\.key_file: the key is encrypted"),
        "key without certificate": ({"cert_file": key}, r"messaging\.cert_file: certificate and key cannot be used"),
    }
    changed, expected = cases[broken]
    with pytest.raises(ConfigError, match=expected):
        async with open_rabbit_broker(secured.settings(**{**files, **changed})):
            pass


@pytest.mark.parametrize(
    ("url", "files", "said"),
    [
        ("amqp://localhost/", {"ca_file": "ca.pem"}, "begins with amqps://"),
        ("amqp://localhost/", {"cert_file": "c.pem", "key_file": "k.pem"}, "begins with amqps://"),
        ("amqps://localhost/", {"key_file": "k.pem"}, "set both, or neither"),
    ],
)
def test_files_that_would_do_nothing_are_refused(url: str, files: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(url, **files)


CONFIG = """
messaging: {{{{provider: rabbitmq, url: "${{{{env:AMQP_URL}}}}"{files}}}}}
modules:
  work: {{{{command: ["true"], subscribes: [work.asked]}}}}
"""


@pytest.mark.parametrize(
    ("host", "missing", "code", "said"),
    [
        ("localhost", "", 0, ""),
        ("localhost", "ca_file", 78, "Set messaging.ca_file"),
        ("localhost", "cert_file", 78, "Set messaging.cert_file and messaging.key_file"),
        ("127.0.0.1", "", 78, "messaging.url"),
    ],
)
def test_serve_ends_with_78_and_says_which_setting_would_do(
    host: str, missing: str, code: int, said: str, secured: Secured, tmp_path: Path
) -> None:
    given = {"ca_file": secured.ours.certificate, **secured.client}
    if missing:
        del given[missing]
    if missing == "cert_file":
        del given["key_file"]
    files = "".join(f", {key}: {path}" for key, path in given.items())
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG.format(files=files), modules={})

    done = pipeline.ion("serve", "--until-idle", code=code, AMQP_URL=secured.url(host))

    assert said in done.stderr
    assert PASSWORD not in done.stderr
    assert str(secured.client["key_file"]) not in done.stderr
    assert "Traceback" not in done.stderr


async def test_nothing_of_a_failure_shows_credentials(secured: Secured, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = await refused(secured.settings(), ConfigError)
    assert PASSWORD not in said + caplog.text
