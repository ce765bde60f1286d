"""What can be set, what is wrong or unwise about it, and what never shows."""

from __future__ import annotations

import logging

import aiormq
import pytest
from on_rabbit import settings
from pydantic import SecretStr, ValidationError

from ion_core.errors import ConfigError, TransientError
from ion_rabbitmq.broker import open_rabbit_broker
from ion_rabbitmq.holding import advice
from ion_rabbitmq.link import Link
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.testing import RabbitServer


async def test_nobody_at_the_address_is_transient_and_credentials_stay_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="ion_rabbitmq")
    with pytest.raises(TransientError) as refused:
        async with open_rabbit_broker(settings("amqp://me:canary-7f3a@127.0.0.1:1/")):
            pass
    assert "amqp://127.0.0.1:1" in str(refused.value)
    assert "canary-7f3a" not in str(refused.value) + caplog.text
    assert "canary-7f3a" not in repr(settings("amqp://me:canary-7f3a@127.0.0.1:1/"))


async def test_wrong_credentials_are_a_matter_of_configuration(rabbit: RabbitServer) -> None:
    with pytest.raises(ConfigError, match=r"messaging\.url"):
        async with open_rabbit_broker(settings(f"amqp://guest:canary@127.0.0.1:{rabbit.port}/")):
            pass


@pytest.mark.parametrize("url", ["http://host/", "amqp://", "host:5672", "amqp://host:port/"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be an address such as"):
        RabbitSettings(url=SecretStr(url))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://guest:guest@localhost/", []),
        ("amqp://guest:guest@10.0.0.1/", ["not encrypted", "as guest"]),
        ("amqps://guest:guest@rabbit.example/", ["as guest"]),
        ("amqps://ion:secret@rabbit.example/", []),
    ],
)
def test_what_is_unwise_is_said(url: str, said: list[str]) -> None:
    worries = settings(url).worries()
    assert len(worries) == len(said)
    for worry, text in zip(worries, said, strict=True):
        assert text in worry
        assert "secret" not in worry


def test_a_silent_peer_is_given_up_within_35_seconds() -> None:
    seconds = Link(settings("amqp://localhost/"), "test")._heartbeat()
    client = aiormq.Connection
    grace = (seconds + 1) * client.HEARTBEAT_GRACE_MULTIPLIER
    assert grace + max(1, seconds // 2) <= 35


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("3.10.8", "in rabbitmq.conf"),
        ("3.12.0", "policies --prefix ion"),
        ("4.1.3", "policies --prefix ion"),
        ("of unknown version", "in rabbitmq.conf"),
    ],
)
def test_what_to_do_about_long_jobs_depends_on_the_server(version: str, said: str) -> None:
    assert said in advice(version, "ion")
