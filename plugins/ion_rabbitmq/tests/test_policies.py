"""The policies that are printed: taken by the server as they are, one in force on each queue, whatever others are."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import suppress
from datetime import timedelta

import pytest
from click.testing import CliRunner
from on_rabbit import RETRY, settings, take

from ion_core.errors import TransientError
from ion_rabbitmq.broker import open_rabbit_broker
from ion_rabbitmq.commands import rabbitmq
from ion_rabbitmq.policies import policies_for
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.testing import RabbitServer


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(rabbitmq, ["policies", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def commands(text: str) -> list[list[str]]:
    """As a shell reads them."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [shlex.split(line) for line in lines.splitlines()]


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_each_queue_has_one_policy_with_all_that_is_meant_for_it(rabbit: RabbitServer, queue_type: str) -> None:
    prefix = f"ruled.{queue_type}"
    version = rabbit.ctl("version").strip()
    ours = commands(printed("--prefix", prefix, "--queue-type", queue_type, "--server", version))
    rabbit.ctl("set_policy", "company", ".*", '{"expires": 60000, "max-length": 9}', "--priority", "7")
    try:
        for program, *arguments in ours:
            assert program == "rabbitmqctl"
            rabbit.ctl(*arguments)
        async with open_rabbit_broker(settings(rabbit.url, prefix=prefix, queue_type=queue_type)) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
        listed = json.loads(rabbit.ctl("list_queues", "name", "policy", "--formatter", "json"))
        found = {queue["name"]: queue["policy"] for queue in listed if queue["name"].startswith(f"{prefix}.")}
        assert found.pop(f"{prefix}.q.work") == f"{prefix}-events"
        assert f"{prefix}.queues" in found
        assert f"{prefix}.q.work.dead" in found
        assert len(found) > 3
        assert set(found.values()) == {f"{prefix}-kept"}
    finally:
        for policy in json.loads(rabbit.ctl("list_policies", "--formatter", "json")):
            rabbit.ctl("clear_policy", policy["name"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_a_retry_that_comes_back_to_a_full_queue_is_not_lost(rabbit: RabbitServer, queue_type: str) -> None:
    """Beside a policy of the company's that would lose it; the length that is printed is made small."""
    prefix, version = f"full.{queue_type}", rabbit.ctl("version").strip()
    ours = commands(printed("--prefix", prefix, "--queue-type", queue_type, "--server", version))
    rabbit.ctl("set_policy", "company", ".*", '{"max-length": 2, "overflow": "reject-publish"}', "--priority", "7")
    try:
        for _, *arguments in ours:
            rabbit.ctl(*(re.sub(r'"max-length": \d+', '"max-length": 2', it) for it in arguments))
        await _retry_into_a_full_queue(settings(rabbit.url, prefix=prefix, queue_type=queue_type))
    finally:
        for policy in json.loads(rabbit.ctl("list_policies", "--formatter", "json")):
            rabbit.ctl("clear_policy", policy["name"])


async def _retry_into_a_full_queue(ours: RabbitSettings) -> None:
    async with open_rabbit_broker(ours) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        await broker.publish("work.asked", b"first", headers={})
        accepted = {b"first"}
        async with broker.subscribe("work", prefetch=1) as deliveries:
            first = await take(deliveries)
            for n in range(8):
                with suppress(TransientError):  # a full quorum queue takes no more from outside
                    await broker.publish("work.asked", b"%d" % n, headers={})
                    accepted.add(b"%d" % n)
            await first.retry(delay=RETRY.initial)
            second = await take(deliveries)
            while (await broker.stats("work")).delayed:
                pass  # until its delay is over: it is back, or waits for room
            found = {second.body: second.attempt}
            await second.ack()
            while b"first" not in found or len(found) < len(accepted):
                delivery = await take(deliveries)
                found[delivery.body] = delivery.attempt
                await delivery.ack()
    assert found == dict.fromkeys(accepted, 1) | {b"first": 2}
    assert len(accepted) > 2


@pytest.mark.parametrize(
    ("version", "queue_type", "timeout"),
    [
        ("3.10.8", "quorum", False),
        ("3.11.28", "classic", False),
        ("3.12.0", "classic", True),
        ("4.2.1", "quorum", True),
        ("4.3.6", "quorum", True),
        ("4.3.6", "classic", False),
    ],
)
def test_only_what_the_version_knows_is_printed(version: str, queue_type: str, timeout: bool) -> None:
    events, _ = policies_for(version, queue_type=queue_type, prefix="ion", hold=timedelta(hours=2))
    assert events.keys.get("consumer-timeout") == (7_200_000 if timeout else None)
    said = printed("--server", version, "--queue-type", queue_type)
    assert ("write consumer_timeout = 43200000 (milliseconds) into" in said) is version.startswith(("3.10", "3.11"))


def test_no_length_is_printed_for_classic_queues_which_would_lose_a_retry() -> None:
    assert "max-length" in printed()
    [events, kept] = commands(printed("--queue-type", "classic"))
    assert not any("max-length" in word for word in [*events, *kept])


def test_a_version_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(rabbitmq, ["policies", "--server", "latest"])
    assert done.exit_code == 2
    assert "must be a version such as 4.3" in done.output
