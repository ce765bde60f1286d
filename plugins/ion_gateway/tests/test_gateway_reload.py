"""Secrets that are replaced while the gateway serves."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ion_gateway.gateway_settings import taken_over
from plugins.ion_gateway.tests.gateways import running, settings, until
from plugins.ion_gateway.tests.test_gateway_serve import Serving, serving

OLD, NEW = "old-canary-0123456789", "new-canary-0123456789"
ROUTES: dict[str, dict[str, Any]] = {"hook": {"path": "/hook", "type": "report.asked", "auth": {"bearer": OLD}}}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_tokens_are_taken_over_also_those_of_routes(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"bearer": OLD}, routes=ROUTES) as it:

        async def taken(token: str) -> list[int]:
            how = {"headers": bearer(token)}
            return [(await it.post(**how))[0], (await it.post("/hook", json={}, **how))[0]]

        assert [await taken(token) for token in (OLD, NEW)] == [[202, 202], [401, 401]]
        both = {"bearer": [OLD, NEW]}
        new = settings(auth=both, routes={"hook": ROUTES["hook"] | {"auth": both}}, listen="127.0.0.1:0")
        assert it.gateway.reload(new) == []
        assert [await taken(token) for token in (OLD, NEW)] == [[202, 202], [202, 202]]
        assert it.gateway.reload(settings(auth={"bearer": NEW}, max_files=7)) == ["max_files", "routes.hook"]
        assert [await taken(token) for token in (OLD, NEW)] == [[401, 202], [202, 202]], "the route stays"


async def test_a_request_under_way_keeps_who_might(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"bearer": OLD}) as it:
        body = b'{"a": "b"}'
        more = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:4]
            await more.wait()
            yield body[4:]

        headers = bearer(OLD) | {"Content-Type": "application/json"}
        posting = asyncio.create_task(it.post(data=slowly(), headers=headers))
        await until(lambda: bool(it.gateway._under_way))
        it.gateway.reload(settings(auth={"github": NEW}))
        more.set()
        assert (await posting)[0] == 202
        assert (await it.post(headers=bearer(OLD)))[0] == 401


async def test_nobody_is_let_in_without_a_secret_where_the_new_settings_have_another_address(tmp_path: Path) -> None:
    async with running(tmp_path / "work", auth={"bearer": OLD}, listen="0.0.0.0:0") as it:
        assert it.gateway.reload(settings(auth="none", listen="127.0.0.1:0")) == ["listen", "auth"]
        url = it.gateway.url.replace("0.0.0.0", "127.0.0.1")
        async with it.client.post(f"{url}/events/photo.received", headers=bearer(OLD)) as answer:
            assert answer.status == 202
        async with it.client.post(f"{url}/events/photo.received") as answer:
            assert answer.status == 401


HOOK = ROUTES["hook"]


@pytest.mark.parametrize("moved", [{"path": "/other"}, {"type": "photo.received"}], ids=lambda it: next(iter(it)))
async def test_a_route_is_not_opened_for_what_another_path_or_type_is_open_for(
    tmp_path: Path, moved: dict[str, str]
) -> None:
    async with running(tmp_path / "work", auth={"bearer": OLD}, routes=ROUTES) as it:

        async def taken(*tokens: str) -> list[int]:
            return [(await it.post("/hook", json={}, headers=bearer(token)))[0] for token in tokens]

        opened = settings(auth={"bearer": OLD}, routes={"hook": {**HOOK, **moved, "auth": "none"}})
        assert it.gateway.reload(opened) == ["routes.hook"]
        assert await taken(OLD, "") == [202, 401]
        replaced = settings(auth={"bearer": OLD}, routes={"hook": {**HOOK, **moved, "auth": {"bearer": NEW}}})
        assert it.gateway.reload(replaced) == ["routes.hook"], "the path stays, and a secret that leaked goes"
        assert await taken(OLD, NEW) == [401, 202]
        assert it.gateway.reload(settings(auth={"bearer": OLD}, routes={"hook": {**HOOK, "auth": "none"}})) == []
        assert await taken("") == [202]


def test_names_in_certificates_are_not_taken_over_for_another_authority() -> None:
    tls = {"listen": "0.0.0.0:0", "cert_file": "/tls/cert.pem"}
    old = settings(**tls, client_ca_file="/tls/all.pem", auth={"certificate": "alice"}, routes=ROUTES)
    new = settings(
        **tls, client_ca_file="/tls/few.pem", auth={"certificate": "any"}, routes={"hook": {**HOOK, "auth": None}}
    )
    mixed, left = taken_over(old, new)
    assert (mixed, left) == (old, ["client_ca_file", "auth", "routes.hook"])
    others = settings(**tls, client_ca_file="/tls/all.pem", auth={"certificate": "bob"}, routes=ROUTES)
    assert taken_over(old, others) == (others, [])


MODULES = 'modules: {report: {command: ["true"], source: ., subscribes: [report.asked]}}\n'


def configuration(auth: str, more: str = "") -> str:
    return f'{MODULES}services: {{gateway: {{listen: "127.0.0.1:0", auth: {{bearer: {auth}}}{more}}}}}\n'


@contextmanager
def served(directory: Path) -> Iterator[Serving]:
    (directory / "ion.yaml").write_text(configuration('"${file:token}"'))
    (directory / "token").write_text(f"{OLD}\n")
    with serving(directory, start_new_session=True) as it:
        yield it


def test_a_token_is_replaced_without_a_restart_and_nothing_secret_is_logged(tmp_path: Path) -> None:
    with served(tmp_path) as it:
        log = tmp_path / "serve.log"

        def status(token: str) -> int:
            sent = it.curl("-X", "POST", "-H", f"Authorization: Bearer {token}", f"{it.url}/events/report.asked")
            return int(sent["status"])

        def reloaded(says: str) -> None:
            before = len(re.findall(says, log.read_text()))
            it.process.send_signal(signal.SIGHUP)
            it.until(lambda: len(re.findall(says, log.read_text())) > before)

        assert (status(OLD), status(NEW)) == (202, 401)
        (tmp_path / "new").write_text(NEW)
        (tmp_path / "ion.yaml").write_text(configuration('["${file:token}", "${file:new}"]'))
        reloaded("INFO the configuration was read again")
        assert (status(OLD), status(NEW)) == (202, 202)
        (tmp_path / "token").write_text(NEW)
        (tmp_path / "ion.yaml").write_text(configuration('"${file:token}"', ", max_files: 7"))
        reloaded(r"WARNING what differs here takes a restart: services\.gateway\.max_files")
        assert (status(OLD), status(NEW)) == (401, 202)
        (tmp_path / "token").write_text("canary")
        reloaded(
            r"ERROR the configuration cannot be taken over, and nothing has changed: .*auth.bearer: must have at least"
        )
        assert status(NEW) == 202
        it.process.terminate()
        assert it.process.wait(60) == 128 + signal.SIGTERM
        assert "canary" not in log.read_text()
