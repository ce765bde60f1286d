"""A node that lives and confirms nothing: its connection is given up, another address is tried, and it is said."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from on_rabbit import RETRY, SOON, settings, take
from proxy import proxy_to

from ion_core.contracts.settings import Section
from ion_core.errors import TransientError
from ion_rabbitmq.broker import RabbitBroker, open_rabbit_broker
from ion_rabbitmq.link import closed, translated
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.testing import RabbitServer

SILENCE = "has confirmed nothing for"


async def published_at_last(broker: RabbitBroker) -> list[str]:
    """What was said until it was."""
    said: list[str] = []
    async with asyncio.timeout(2 * SOON):
        while True:
            try:
                await broker.publish("work.asked", b"x", headers={})
            except TransientError as error:
                said.append(str(error))
            else:
                return said


async def test_another_address_is_taken_where_one_confirms_nothing(rabbit: RabbitServer) -> None:
    async with proxy_to(rabbit.port) as proxy:
        urls = [f"amqp://guest:guest@127.0.0.1:{proxy.port}/", rabbit.url]
        values = {"urls": urls, "timeout": f"{SOON:g}s", "prefix": "silent-one"}
        found = RabbitSettings.model_validate(values, context={"section": Section(key="messaging")})
        async with open_rabbit_broker(found) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            await broker.declare("other", topics=["other.asked"], retry=RETRY)
            async with broker.subscribe("other", prefetch=1) as deliveries:
                await broker.publish("other.asked", b"1", headers={})
                held = await take(deliveries)
                proxy.confirming = False
                broker._timeout = 1.0
                said = await published_at_last(broker)
                broker._timeout = SOON
                assert [it for it in said if SILENCE in it]
                with pytest.raises(TransientError, match=SILENCE):
                    await take(deliveries)
                again = await take(deliveries)
                assert (again.body, held.lost.is_set()) == (b"1", True), "consumers have left that node too"
                await again.ack()
            assert (await broker.stats("work")).ready >= 1


async def test_where_there_is_no_other_nobody_subscribes_until_something_is_confirmed(rabbit: RabbitServer) -> None:
    async with proxy_to(rabbit.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        async with open_rabbit_broker(settings(url, prefix="silent-only")) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            proxy.confirming = False
            broker._timeout = 1.0
            publishing = asyncio.ensure_future(published_at_last(broker))
            async with asyncio.timeout(SOON):
                while not broker._unproven:
                    await asyncio.wait([publishing], timeout=0.05)
            with pytest.raises(TransientError):
                await broker.declare("work", topics=["work.asked"], retry=RETRY)
            proxy.confirming = True
            assert [it for it in await publishing if SILENCE in it]
            broker._timeout = SOON
            await broker.declare("work", topics=["work.asked"], retry=RETRY)


async def test_what_is_refused_on_one_channel_goes_by_another(
    rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on RabbitMQ 3.10, when the node that led a queue died as it was first published to."""
    monkeypatch.setattr("ion_rabbitmq.broker.REFUSES_AFTER", 0.0)
    async with proxy_to(rabbit.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        async with open_rabbit_broker(settings(url, prefix="refused")) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            await broker.publish("work.asked", b"1", headers={})
            assert broker._channel is not None
            first = broker._channel.channel
            proxy.refusing = {first.number}
            under_way = [asyncio.ensure_future(broker.publish("work.asked", b"%d" % n, headers={})) for n in range(9)]
            for refused in await asyncio.gather(*under_way, return_exceptions=True):
                assert isinstance(refused, TransientError), "each has its answer, by the channel that it was sent on"
                assert "refused a message" in str(refused)

            await broker.publish("work.asked", b"2", headers={})

            async with asyncio.timeout(SOON):
                await first.closed()
            assert broker._channel.channel is not first


async def test_a_queue_is_empty_only_if_its_leader_says_so(
    rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose leader does not answer is told as empty, too."""
    async with proxy_to(rabbit.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        async with open_rabbit_broker(settings(url, prefix="known-empty")) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            assert (await broker.stats("work")).ready == 0
            proxy.knowing = False
            broker._timeout = 1.0
            with pytest.raises(TransientError, match="does not answer"):
                await broker.stats("work")
            assert not [it for it in caplog.records if it.name.startswith("aiormq")], "the error has said it"
            proxy.knowing = True
            broker._timeout = SOON
            await broker.publish("work.asked", b"1", headers={})
            assert (await broker.stats("work")).ready == 1


async def test_what_waits_on_a_channel_that_is_closed_is_told_so(rabbit: RabbitServer) -> None:
    """The client library ends it with an exception that has neither a name nor words."""
    async with proxy_to(rabbit.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        async with open_rabbit_broker(settings(url, prefix="closed-meanwhile")) as broker:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
            proxy.knowing = False
            async with broker.looking.borrowed() as channel:
                queue = await channel.get_queue(broker.topology.queue("work"), ensure=False)
                waiting = asyncio.ensure_future(queue.get(fail=False, timeout=SOON))
                async with asyncio.timeout(SOON):
                    while not proxy.withheld:
                        await asyncio.wait([waiting], timeout=0.05)
                await channel.close()
                with pytest.raises(TransientError), translated(broker.settings):
                    await waiting


async def test_a_channel_that_cannot_be_closed_in_time_is_left_without_a_word(
    rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As while an alarm lasts: whoever gives up has said why."""
    async with proxy_to(rabbit.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/"
        async with open_rabbit_broker(settings(url, prefix="left")) as broker:
            channel = await broker.looking.channel()
            proxy.answerless()
            await closed(channel, broker.settings.model_copy(update={"timeout": timedelta(milliseconds=100)}))
            proxy.speaking()
    assert not [it for it in caplog.records if it.name.startswith("aiormq")]
