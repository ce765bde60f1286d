"""What other programs publish: whatever stands in their properties, the event runs, and comes back as it was."""

from __future__ import annotations

import gzip
import struct
from datetime import timedelta

import pytest
from foreign import CASES, event, foreigner, long, seconds, short, table, text
from on_rabbit import EVENT, RETRY, take

from ion_core.errors import PermanentError
from ion_rabbitmq.broker import RabbitBroker
from ion_rabbitmq.testing import RabbitServer

AT_ONCE = timedelta(0)


@pytest.mark.parametrize("case", CASES)
async def test_it_is_delivered_retried_put_aside_redriven_moved_and_purged(
    rabbit: RabbitServer, broker: RabbitBroker, case: str
) -> None:
    body = event()
    async with foreigner(rabbit.port) as them:
        await them.publish(broker.topology.exchange, b"work.asked", body, CASES[case])
    assert [message.body for message in await broker.peek("work", limit=5)] == [body]
    async with broker.subscribe("work", prefetch=1) as deliveries:
        first = await take(deliveries)
        assert (first.body, first.attempt, dict(first.headers)) == (body, 1, {})
        await first.retry(delay=AT_ONCE)
        second = await take(deliveries)
        assert (second.body, second.attempt) == (body, 2)
        await second.postpone(delay=timedelta(milliseconds=1))
        third = await take(deliveries)
        assert (third.body, third.attempt) == (body, 2)
        await third.dead_letter("does not work", log_tail=["its last line"])
        [letter] = await broker.dead_letters("work")
        assert (letter.body, letter.reason, letter.log_tail) == (body, "does not work", ("its last line",))
        assert (letter.attempts, dict(letter.headers)) == (2, {})
        await broker.redrive("work", [letter.id])
        again = await take(deliveries)
        assert (again.body, again.attempt) == (body, 1)
        await again.dead_letter("still not")
        [letter] = await broker.dead_letters("work")
        await broker.purge("work", [letter.id])
        stats = await broker.stats("work")
        assert (stats.ready, stats.unsettled, stats.dead) == (0, 0, 0)


async def test_an_honest_event_behind_odd_ones_is_delivered_on_the_same_channel(
    rabbit: RabbitServer, broker: RabbitBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with broker.subscribe("work", prefetch=50) as deliveries:
        async with foreigner(rabbit.port) as them:
            for case in CASES.values():
                await them.publish(broker.topology.exchange, b"work.asked", event(), case)
        await broker.publish("work.asked", EVENT, headers={"of": "ours"})
        taken = [await take(deliveries) for _ in range(len(CASES) + 1)]
        assert (taken[-1].body, dict(taken[-1].headers)) == (EVENT, {"of": "ours"})
        assert not any(delivery.lost.is_set() for delivery in taken)
        for delivery in taken:
            await delivery.ack()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_a_routing_key_that_is_no_text_harms_nobody(rabbit: RabbitServer, broker: RabbitBroker) -> None:
    async with foreigner(rabbit.port) as them:
        await them.bind_exchange(b"their.bus", broker.topology.queue("work"))
        await them.publish("their.bus", b"caf\xe9", event())
    assert len(await broker.peek("work", limit=5)) == 1
    async with broker.subscribe("work", prefetch=1) as deliveries:
        await (await take(deliveries)).ack()


PROPERTIES = {
    "content_type": short(b"application/vnd.acme+json"),
    "content_encoding": short(b"utf-8"),
    "priority": b"\3",
    "correlation_id": short(b"order-7"),
    "reply_to": short(b"acme.replies"),
    "message_id": short(b"m-1"),
    "timestamp": seconds(1_790_000_000_000_000),
    "type": short(b"order"),
    "app_id": short(b"acme"),
}
HEADERS = {
    b"x-tenant": text(b"acme"),
    b"ratio": b"d" + struct.pack(">d", 1.1),
    b"who": text(b"caf\xe9"),
    b"n" * 200: text(b"a long name"),
    b"ion": b"F" + table({b"headers": text(b"tenant=acme")}),
}


async def test_a_retry_and_a_dead_letter_keep_the_publishers_properties_byte_for_byte(
    rabbit: RabbitServer, broker: RabbitBroker
) -> None:
    theirs = {**PROPERTIES, "headers": table(HEADERS), "user_id": short(b"guest"), "expiration": short(b"600000")}
    async with foreigner(rabbit.port) as them:
        await them.publish(broker.topology.exchange, b"work.asked", event(), theirs)
        async with broker.subscribe("work", prefetch=1) as deliveries:
            await (await take(deliveries)).retry(delay=timedelta(milliseconds=100))
            await (await take(deliveries)).dead_letter("does not work")
        kept, _ = await them.get(broker.topology.dead("work"))
    headers = kept.pop("headers")
    assert kept == {**PROPERTIES, "delivery_mode": b"\2"}
    for name, value in HEADERS.items():
        assert short(name) + value in headers
    for gone in (b"x-death", b"x-first-death-queue"):
        assert gone not in headers, "RabbitMQ's own notes, which would be taken for those of this journey"


async def test_whom_else_rabbitmq_was_to_give_a_message_is_not_told_again(
    rabbit: RabbitServer, broker: RabbitBroker
) -> None:
    await broker.declare("other", topics=[], retry=RETRY)
    copies = {"headers": table({b"CC": b"A" + long(text(broker.topology.queue("other").encode()))})}
    async with foreigner(rabbit.port) as them:
        await them.publish("", broker.topology.queue("work").encode(), event(), copies)
    assert (await broker.stats("other")).ready == 1
    async with broker.subscribe("work", prefetch=1) as deliveries:
        await (await take(deliveries)).retry(delay=AT_ONCE)
        await (await take(deliveries)).ack()
    assert (await broker.stats("other")).ready == 1


@pytest.mark.parametrize("size", [1_000, 60_000, 120_000, 130_900])
async def test_headers_of_any_size_a_long_reason_and_a_long_log_fit_into_a_dead_letter(
    rabbit: RabbitServer, broker: RabbitBroker, size: int
) -> None:
    headers = {"headers": table({b"small": text(b"kept"), b"large": text(b"x" * size)})}
    body = event()
    async with foreigner(rabbit.port) as them:
        await them.publish(broker.topology.exchange, b"work.asked", body, headers)
        async with broker.subscribe("work", prefetch=1) as deliveries:
            await (await take(deliveries)).retry(delay=timedelta(milliseconds=100))
            again = await take(deliveries)
            assert again.attempt == 2
            log = [f"{n} " + "\x00" * 1000 for n in range(100)]
            await again.dead_letter("because " + "🙂" * 40_000, log_tail=[*log, "last"])
        [letter] = await broker.dead_letters("work")
        assert (letter.body, letter.attempts) == (body, 2)
        assert letter.reason.startswith("because 🙂")
        assert ("no room was left for the headers 'large'" in letter.reason) == (size > 130_000)
        assert not letter.log_tail or letter.log_tail[-1] == "last"
        assert bool(letter.log_tail) == (size != 120_000), "where a large header is kept, there is no room"
        raw, _ = await them.get(broker.topology.dead("work"))
        assert text(b"kept") in raw["headers"]
        assert (text(b"x" * size) in raw["headers"]) == (size < 130_000)


async def test_a_dead_letter_of_somebody_elses_dead_letter_has_its_own_reason(
    rabbit: RabbitServer, broker: RabbitBroker
) -> None:
    theirs = b"F" + table({b"attempt": b"I\0\0\0\1", b"headers": text(b"{}"), b"died_at": text(b"yesterday")})
    async with foreigner(rabbit.port) as them:
        await them.publish("", broker.topology.dead("work").encode(), event(), {"headers": table({b"ion": theirs})})
    [letter] = await broker.dead_letters("work")
    assert letter.reason == "put among the dead letters by somebody else than Ion, without a reason"


# Content encodings


@pytest.mark.parametrize("name", [b"gzip", b"GZIP", b"x-gzip"])
async def test_a_gzip_body_is_read_and_kept_as_it_came(rabbit: RabbitServer, broker: RabbitBroker, name: bytes) -> None:
    plain = event()
    packed = gzip.compress(plain[:50]) + gzip.compress(plain[50:])  # of two members, as files may be
    async with foreigner(rabbit.port) as them:
        await them.publish(broker.topology.exchange, b"work.asked", packed, {"content_encoding": short(name)})
        assert [message.body for message in await broker.peek("work", limit=1)] == [plain]
        async with broker.subscribe("work", prefetch=1) as deliveries:
            await (await take(deliveries)).retry(delay=AT_ONCE)
            again = await take(deliveries)
            assert again.body == plain
            await again.dead_letter("does not work")
        [letter] = await broker.dead_letters("work")
        assert letter.body == plain
        properties, body = await them.get(broker.topology.dead("work"))
        assert (properties["content_encoding"], body) == (short(name), packed)


@pytest.mark.parametrize("name", [b"utf-8", b"UTF-8", b"identity", b"binary", b"caf\xe9"])
async def test_text_is_read_whatever_encoding_it_says(rabbit: RabbitServer, broker: RabbitBroker, name: bytes) -> None:
    body = event()
    async with foreigner(rabbit.port) as them:
        await them.publish(broker.topology.exchange, b"work.asked", body, {"content_encoding": short(name)})
    async with broker.subscribe("work", prefetch=1) as deliveries:
        delivery = await take(deliveries)
        assert delivery.body == body
        await delivery.ack()


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        (b"br", b"\x0b\x02\x80\xff", "content encoding is 'br', which Ion does not read"),
        (b"gzip", b"{}", "content encoding is 'gzip', and its body is none"),
        (b"gzip", gzip.compress(b"{}" * 99)[:-5], "is cut short"),
        (b"gzip", gzip.compress(b" " * (17 << 20)), "is more than 16,777,216 bytes long"),
    ],
    ids=["unknown", "not packed", "cut short", "too long"],
)
async def test_a_body_that_cannot_be_read_says_why_and_can_be_put_aside(
    rabbit: RabbitServer, broker: RabbitBroker, name: bytes, body: bytes, said: str
) -> None:
    async with foreigner(rabbit.port) as them:
        await them.publish(broker.topology.exchange, b"work.asked", body, {"content_encoding": short(name)})
    async with broker.subscribe("work", prefetch=1) as deliveries:
        delivery = await take(deliveries)
        with pytest.raises(PermanentError, match=said):
            delivery.body  # noqa: B018 - reading it is what fails
        await delivery.dead_letter("put aside")
    [letter] = await broker.dead_letters("work")
    assert (letter.body, letter.reason) == (body, "put aside")
