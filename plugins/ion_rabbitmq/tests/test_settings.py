"""What can be set, what is wrong or unwise about it, and what never shows."""

from __future__ import annotations

import logging
from datetime import timedelta

import aiormq
import pytest
from on_rabbit import settings
from pydantic import SecretStr, ValidationError

from ion_core.errors import ConfigError, TransientError
from ion_rabbitmq.broker import open_rabbit_broker
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
    ("given", "said"),
    [
        ({"prefix": "Ion"}, "lower-case letters"),
        ({"exchange": "amq.topic"}, "which RabbitMQ keeps for itself"),
        ({"exchange": ""}, "up to 127 letters"),
        ({"exchange": "x" * 128}, "up to 127 letters"),
        ({"retry_suffix": "retry"}, "a dot and up to 16"),
        ({"dead_suffix": ".dead.letters"}, "a dot and up to 16"),
        ({"dead_suffix": ".retry"}, "must differ"),
    ],
)
def test_names_that_cannot_be_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings("amqp://localhost/", **given)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://guest:guest@localhost/", []),
        ("amqp://guest:guest@127.0.1.1/", []),
        ("amqp://guest:guest@[::1]/", []),
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


IN_CONF = "write consumer_timeout = 10800000 (milliseconds) into rabbitmq.conf and restart it"
BY_POLICY = "`ion-core rabbitmq policies --prefix team --hours 3`"


@pytest.mark.parametrize(
    ("version", "said", "not_said"),
    [
        ("3.10.8", IN_CONF, BY_POLICY),
        ("3.11.28", IN_CONF, BY_POLICY),
        ("3.12.0", BY_POLICY, IN_CONF),
        ("4.2.1", BY_POLICY, IN_CONF),
        ("4.3.0", BY_POLICY, IN_CONF),
    ],
)
def test_what_to_do_about_long_jobs_depends_on_the_server(version: str, said: str, not_said: str) -> None:
    limit = settings("amqp://localhost/", prefix="team").max_hold_at(version)
    assert limit is not None
    assert limit.longest == timedelta(minutes=30)
    remedy = limit.remedy(timedelta(hours=2, minutes=59))
    assert said in remedy
    assert not_said not in remedy
    assert "messaging.consumer_timeout: 3h" in remedy


def test_a_server_that_was_not_asked_may_be_of_any_version() -> None:
    limit = settings("amqp://localhost/", prefix="team", consumer_timeout="1h").max_hold()
    assert limit is not None
    assert limit.longest == timedelta(hours=1)
    assert IN_CONF in limit.remedy(timedelta(hours=2))
    assert BY_POLICY in limit.remedy(timedelta(hours=2))


def test_classic_queues_have_no_limit_from_4_3_on() -> None:
    classic = settings("amqp://localhost/", queue_type="classic")
    assert classic.max_hold_at("4.3.0") is None
    assert classic.max_hold_at("4.2.9") is not None
