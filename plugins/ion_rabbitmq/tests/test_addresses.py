"""Several addresses of one cluster, and names that have several: one that is frozen costs its share of the time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from on_rabbit import RETRY, settings
from pydantic import ValidationError

from ion_core.contracts.settings import Section
from ion_core.errors import ConfigError, TransientError
from ion_rabbitmq.broker import open_rabbit_broker
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.testing import RabbitServer

NOBODY = "amqp://guest:canary-1@127.0.0.1:1/"


def of(*urls: str, **more: object) -> RabbitSettings:
    values = {"urls": urls, "timeout": "30s", **more}
    return RabbitSettings.model_validate(values, context={"section": Section(key="messaging")})


@asynccontextmanager
async def frozen(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Takes connections, as the kernel does for a process that is stopped, and says nothing."""
    over = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(silent, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()


async def test_the_next_address_is_tried_where_one_refuses_or_is_frozen(rabbit: RabbitServer) -> None:
    async with frozen() as port:
        addresses = [NOBODY, f"amqp://guest:guest@127.0.0.1:{port}/", rabbit.url]
        async with open_rabbit_broker(of(*addresses, prefix="several", timeout="9s")) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            await broker.publish("work.asked", b"x", headers={})
            assert (await broker.stats("work")).ready == 1


async def test_a_name_with_several_addresses_is_tried_at_each(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = socket.getaddrinfo

    def resolved(host: Any, port: Any, *how: Any, **more: Any) -> Any:
        if host != "rabbit.example":
            return known(host, port, *how, **more)
        return [known(address, port, *how, **more)[0] for address in ("127.0.0.3", "127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    async with frozen("127.0.0.2", rabbit.port):
        url = f"amqp://guest:guest@rabbit.example:{rabbit.port}/"
        async with open_rabbit_broker(settings(url, prefix="named", timeout="9s")) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            await broker.publish("work.asked", b"x", headers={})


async def test_where_none_answers_all_are_named_and_no_password() -> None:
    with pytest.raises(TransientError) as refused:
        async with open_rabbit_broker(of(NOBODY, "amqp://me:canary-2@127.0.0.1:2/")):
            pass
    said = str(refused.value)
    assert "none of 2 addresses answers: amqp://127.0.0.1:1: " in said
    assert "; amqp://127.0.0.1:2: " in said
    assert "canary" not in said


async def test_wrong_credentials_are_told_though_other_addresses_do_not_answer(rabbit: RabbitServer) -> None:
    with pytest.raises(ConfigError, match="refuses user, password"):
        async with open_rabbit_broker(of(NOBODY, f"amqp://guest:wrong@127.0.0.1:{rabbit.port}/")):
            pass


async def test_connections_say_whose_they_are(rabbit: RabbitServer) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="named-ours")) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        listed = await asyncio.to_thread(rabbit.ctl, "list_connections", "client_properties")
    host = socket.gethostname()
    for role in ("publish", "consume"):
        assert f"ion named-ours {host} " in listed
        assert f" {role}" in listed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "amqp://a:5672,b:5672/"}, "give several as a list, in urls"),
        ({"url": "amqp://a,b/"}, "give several as a list, in urls"),
        ({"urls": ["amqp://a/", "amqp://b,c/"]}, "give several as a list, in urls"),
        ({"urls": ["amqp://a/", "amqps://b/"]}, "must all begin with"),
        ({"urls": ["amqp://a/", "http://b/"]}, "must be an address such as"),
        ({"urls": ["amqp://a/"], "url": "amqp://b/"}, "give url or urls, not both"),
    ],
)
def test_addresses_that_cannot_be_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RabbitSettings.model_validate(given)


def test_a_password_may_hold_a_comma() -> None:
    assert settings("amqp://me:a%2Cb,c@host/").place() == "amqp://host:5672"


def test_each_address_is_worried_about() -> None:
    assert len(of("amqps://me:x@there/", "amqps://guest:guest@other/").worries()) == 1
