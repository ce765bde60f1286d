"""As whom the API server is spoken to: kubeconfigs, tokens that change, plugins, certificates."""

from __future__ import annotations

import base64
import json
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ion_core.errors import ConfigError, TransientError
from ion_kubernetes import credentials
from ion_kubernetes.api import PODS, Api, open_api
from ion_kubernetes.credentials import LoadedCredentials, open_credentials
from ion_kubernetes.refusals import ApiUnavailable
from ion_kubernetes.settings import KubernetesSettings
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes
from tests.support.certificates import Authority

# Of the official client's loader, since Python 3.12.
pytestmark = pytest.mark.filterwarnings("ignore:.*utcnow:DeprecationWarning")


@dataclass
class Clock:
    """Seconds, which a test lets go by."""

    seconds: float = 0

    def __call__(self) -> float:
        return self.seconds


def serving(authority: Authority, *, of_users: bool = False, names: str = "IP:127.0.0.1") -> ssl.SSLContext:
    """For a server; ``of_users``: which wants a certificate of whoever comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", names=names))
    if of_users:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.certificate)
    return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority", "cluster")


@pytest.fixture(autouse=True)
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine of the tests has of its own is not looked at."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


def kubeconfig(path: Path, server: str, user: dict[str, Any], **cluster: Any) -> Path:
    """JSON is YAML too."""
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(found))
    return path


def plugin(path: Path, code: str) -> dict[str, Any]:
    """An exec plugin: a program that prints credentials, as those of clouds do."""
    path.write_text(f"#!{sys.executable}\nimport json, os, pathlib, sys\nhere = pathlib.Path(__file__).parent\n{code}")
    path.chmod(0o755)
    kind = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": kind, "command": str(path), "interactiveMode": "Never"}}


TELLING = """
(here / "runs").open("a").write("x")
status = {"token": (here / "token").read_text(), "expirationTimestamp": (here / "until").read_text()}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


@asynccontextmanager
async def speaking(
    settings: KubernetesSettings, clock: Clock | None = None
) -> AsyncIterator[tuple[LoadedCredentials, Api]]:
    async with (
        open_credentials(settings, clock=clock or Clock()) as loaded,
        open_api(loaded, settings.namespace) as api,
    ):
        yield loaded, api


def settings(**given: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({"handler_image": "registry.example/ion:1", **given})


def sent(cluster: FakeKubernetes) -> list[str | None]:
    return [it.authorization for it in cluster.calls]


async def test_a_kubeconfig_says_where_and_as_whom(tmp_path: Path, authority: Authority) -> None:
    async with fake_kubernetes(tls=serving(authority)) as cluster:
        cluster.tokens = {"secret"}
        ca = base64.b64encode(authority.certificate.read_bytes()).decode()
        data = {"certificate-authority-data": ca}
        path = kubeconfig(tmp_path / "config", cluster.url, {"token": "secret"}, **data)
        async with speaking(settings(kubeconfig=path)) as (_, api):
            assert (await api.list(PODS))["items"] == []
        assert sent(cluster) == ["Bearer secret"]


async def test_a_kubeconfig_is_found_where_it_usually_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    async with fake_kubernetes() as cluster:
        (tmp_path / ".kube").mkdir()
        kubeconfig(tmp_path / ".kube/config", cluster.url, {"token": "usual"})
        async with speaking(settings()) as (_, api):
            await api.list(PODS)
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "other", cluster.url, {"token": "named"})))
        async with speaking(settings()) as (_, api):
            await api.list(PODS)
        assert sent(cluster) == ["Bearer usual", "Bearer named"]


async def test_a_server_with_another_certificate_is_not_spoken_to(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path / "other", "other")
    async with fake_kubernetes(tls=serving(authority)) as cluster:
        ca = {"certificate-authority": str(other.certificate)}
        path = kubeconfig(tmp_path / "config", cluster.url, {"token": "secret"}, **ca)
        async with speaking(settings(kubeconfig=path)) as (_, api):
            with pytest.raises(ApiUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await api.list(PODS)
        assert sent(cluster) == []
        path = kubeconfig(tmp_path / "config", cluster.url, {"token": "a"}, **{"insecure-skip-tls-verify": True})
        async with speaking(settings(kubeconfig=path)) as (_, api):
            await api.list(PODS)
        assert sent(cluster) == ["Bearer a"]


async def test_a_server_may_have_another_name_in_its_certificate(tmp_path: Path, authority: Authority) -> None:
    async with fake_kubernetes(tls=serving(authority, names="DNS:cluster.example")) as cluster:
        tls = {"certificate-authority": str(authority.certificate), "tls-server-name": "cluster.example"}
        path = kubeconfig(tmp_path / "config", cluster.url, {"token": "a"}, **tls)
        async with speaking(settings(kubeconfig=path)) as (_, api):
            await api.list(PODS)
        assert sent(cluster) == ["Bearer a"]


async def test_a_client_certificate_is_shown(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.issue("ion")
    async with fake_kubernetes(tls=serving(authority, of_users=True)) as cluster:
        ca = {"certificate-authority": str(authority.certificate)}
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        path = kubeconfig(tmp_path / "config", cluster.url, user, **ca)
        async with speaking(settings(kubeconfig=path)) as (_, api):
            await api.list(PODS)
        path = kubeconfig(tmp_path / "config", cluster.url, {}, **ca)
        async with speaking(settings(kubeconfig=path)) as (_, api):
            with pytest.raises(ApiUnavailable):
                await api.list(PODS)
        assert sent(cluster) == [None]


@contextmanager
def service_account(
    home: Path, cluster: FakeKubernetes, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """As in a pod. Yields the file of the token."""
    (home / "token").write_text("first\n")
    (home / "ca.crt").write_bytes(authority.certificate.read_bytes())
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", home)
    host, _, port = cluster.url.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    yield home / "token"


async def test_the_token_of_a_service_account_is_read_again(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with fake_kubernetes(tls=serving(authority)) as cluster:
        with service_account(tmp_path, cluster, authority, monkeypatch) as token:
            async with speaking(settings(), clock) as (_, api):
                await api.list(PODS)
                token.write_text("second")
                await api.list(PODS)
                clock.seconds += 61
                await api.list(PODS)
                cluster.tokens = {"third"}
                token.write_text("third")
                await api.list(PODS)
    assert sent(cluster) == [f"Bearer {it}" for it in ("first", "first", "second", "second", "third")]


async def test_who_is_known_no_more_is_told_and_tried_again(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_kubernetes(tls=serving(authority)) as cluster:
        with service_account(tmp_path, cluster, authority, monkeypatch) as token:
            async with speaking(settings()) as (_, api):
                cluster.tokens = {"second"}
                with pytest.raises(ApiUnavailable, match="look at the credentials") as raised:
                    await api.list(PODS)
                assert raised.value.status == 401
                assert len(cluster.calls) == 2, "asked once more, with what is there now"
                token.unlink()
                with pytest.raises(TransientError, match="could not be renewed"):
                    await api.list(PODS)
                token.write_text("second")
                await api.list(PODS)


async def test_a_plugin_is_asked_again_when_its_token_is_old_or_unknown(tmp_path: Path) -> None:
    clock = Clock()
    async with fake_kubernetes() as cluster:
        path = kubeconfig(tmp_path / "config", cluster.url, plugin(tmp_path / "plugin", TELLING))
        (tmp_path / "token").write_text("first")
        (tmp_path / "until").write_text("2999-01-01T00:00:00Z")
        async with speaking(settings(kubeconfig=path), clock) as (_, api):
            await api.list(PODS)
            clock.seconds += 61
            await api.list(PODS)
            assert (tmp_path / "runs").read_text() == "x", "it said until when"
            cluster.tokens = {"second"}
            (tmp_path / "token").write_text("second")
            (tmp_path / "until").write_text("2001-01-01T00:00:00Z")
            await api.list(PODS)
            clock.seconds += 61
            (tmp_path / "token").write_text("third")
            cluster.tokens = {"third"}
            await api.list(PODS)
    assert sent(cluster) == [f"Bearer {it}" for it in ("first", "first", "first", "second", "third")]


async def test_a_plugin_that_fails_is_quoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with fake_kubernetes() as cluster:
        failing = plugin(tmp_path / "plugin", "sys.exit('please log in')")
        path = kubeconfig(tmp_path / "config", cluster.url, failing)
        with pytest.raises(ConfigError, match=r"process returned 1.*please log in"):
            async with speaking(settings(kubeconfig=path)):
                pass
        clock = Clock()
        path = kubeconfig(tmp_path / "config", cluster.url, plugin(tmp_path / "plugin", TELLING))
        (tmp_path / "token").write_text("first")
        (tmp_path / "until").write_text("2001-01-01T00:00:00Z")
        async with speaking(settings(kubeconfig=path), clock) as (_, api):
            plugin(tmp_path / "plugin", "sys.exit('please log in')")
            clock.seconds += 61
            with caplog.at_level(logging.WARNING, "ion_kubernetes"):
                await api.list(PODS)  # which it may do for some time yet
            assert "credentials could not be renewed" in caplog.text
            cluster.tokens = {"second"}
            with pytest.raises(TransientError, match="please log in"):
                await api.list(PODS)


async def test_a_certificate_of_a_plugin_is_shown_and_renewed(tmp_path: Path, authority: Authority) -> None:
    code = """
status = {"clientCertificateData": (here / "crt").read_text(), "clientKeyData": (here / "key").read_text()}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""

    def has(name: str) -> None:
        certificate, key = authority.issue(name)
        (tmp_path / "crt").write_text(certificate.read_text())
        (tmp_path / "key").write_text(key.read_text())

    clock = Clock()
    has("ion")
    async with fake_kubernetes(tls=serving(authority, of_users=True)) as cluster:
        ca = {"certificate-authority": str(authority.certificate)}
        path = kubeconfig(tmp_path / "config", cluster.url, plugin(tmp_path / "plugin", code), **ca)
        async with speaking(settings(kubeconfig=path), clock) as (loaded, api):
            await api.list(PODS)
            before = loaded.connecting()["ssl"]
            clock.seconds += 61
            await api.list(PODS)
            assert loaded.connecting()["ssl"] is before, "connections are kept"
            has("renewed")
            clock.seconds += 61
            await api.list(PODS)
            assert loaded.connecting()["ssl"] is not before
        assert len(cluster.calls) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("a: [", "credentials cannot be used"),
        ("{}", "current-context"),
        ('{"current-context": "x", "contexts": [], "clusters": [], "users": []}', "name x in"),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_a_matter_of_configuration(
    tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        async with speaking(settings(kubeconfig=path)):
            pass


async def test_a_context_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "https://127.0.0.1:1", {"token": "a"})
    with pytest.raises(ConfigError, match=r'context: .*/config has no context "prod"\. There are: here\.'):
        async with speaking(settings(kubeconfig=path, context="prod")):
            pass


async def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    ca = {"certificate-authority": str(tmp_path / "ca.crt")}
    path = kubeconfig(tmp_path / "config", "https://127.0.0.1:1", {"token": "a"}, **ca)
    with pytest.raises(ConfigError, match=r"ca\.crt"):
        async with speaking(settings(kubeconfig=path)):
            pass


async def test_where_nothing_says_where_the_server_is_the_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\$KUBECONFIG, none at .*/\.kube/config, and this does not run in a pod"):
        async with speaking(settings()):
            pass


def test_the_official_client_is_not_imported_before_credentials_are_opened() -> None:
    code = "import sys, ion_kubernetes.plugin, ion_kubernetes.credentials; sys.exit('kubernetes' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
