"""What proxies say of whom they forward for: who is believed, and whom the log names."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from ion_core.listening.proxies import Proxies
from plugins.ion_gateway.tests.gateways import running

OURS = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]
CLIENTS = [
    ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),  # not one of ours: what it says is nothing
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
    ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # what comes before anybody may have written
    ("10.0.0.1", ["198.51.100.1, 192.0.2.7,10.2.3.4"], "198.51.100.1"),
    ("10.0.0.1", ["198.51.100.1", "192.0.2.7"], "198.51.100.1"),
    ("10.0.0.1", ["10.0.0.9, 192.0.2.7"], "10.0.0.9"),  # all are ours
    ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
    ("10.0.0.1", ["198.51.100.1, unknown, 192.0.2.7"], "192.0.2.7"),
    ("10.0.0.1", [""], "10.0.0.1"),
    ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
    ("2001:db8::1", ["[2001:db9::2]:4711"], "2001:db9::2"),
    ("::ffff:10.0.0.1", ["2001:db9::2"], "2001:db9::2"),
    ("", ["198.51.100.1"], ""),
]


@pytest.mark.parametrize(("peer", "forwarded", "client"), CLIENTS)
def test_the_client_is_the_last_in_the_row_that_is_no_proxy_of_ours(
    peer: str, forwarded: list[str], client: str
) -> None:
    headers = CIMultiDict([("X-Forwarded-For", line) for line in forwarded])
    request = make_mocked_request("POST", "/", headers).clone(remote=peer)
    assert Proxies(OURS).client(request) == client


@pytest.mark.parametrize(
    ("trusted", "headers", "status"),
    [
        (["127.0.0.1"], {}, 202),
        (["127.0.0.1"], {"X-Forwarded-Host": "localhost:8080"}, 202),
        (["127.0.0.1"], {"X-Forwarded-Host": "gate.example"}, 403),
        (["127.0.0.1"], {"X-Forwarded-Host": "localhost, gate.example"}, 403),
        (["127.0.0.1"], {"X-Forwarded-Host": "localhost", "Host": "gate.example"}, 403),
        (["10.0.0.0/8"], {"X-Forwarded-Host": "gate.example"}, 202),
        ([], {"X-Forwarded-Host": "localhost", "Host": "gate.example"}, 403),
    ],
)
async def test_pages_of_other_hosts_are_refused_through_a_proxy_too(
    tmp_path: Path, trusted: list[str], headers: dict[str, str], status: int
) -> None:
    async with running(tmp_path / "work", trusted_proxies=trusted) as it:
        assert (await it.post(headers=headers))[0] == status


@pytest.mark.parametrize(("trusted", "shown"), [(["127.0.0.0/8"], "198.51.100.1"), ([], "127.0.0.1")])
async def test_the_log_names_the_client_and_not_the_proxy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trusted: list[str], shown: str
) -> None:
    async with running(tmp_path / "work", trusted_proxies=trusted) as it:
        it.host.raising.append(RuntimeError("kaputt"))
        assert (await it.post(headers={"X-Forwarded-For": "198.51.100.1"}))[0] == 500
    (record,) = [it for it in caplog.records if it.getMessage() == "a request failed"]
    assert record.__dict__["remote"] == shown
