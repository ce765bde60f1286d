"""Properties and frames without a server: what RabbitMQ itself would not take is looked at here."""

from __future__ import annotations

import asyncio
import struct
from datetime import UTC, datetime
from unittest.mock import Mock

import aio_pika
import pamqp.frame
import pytest
from aiormq.connection import FrameReceiver
from foreign import CASES, encoded, long, short, table, text
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from ion_rabbitmq import envelope
from ion_rabbitmq.closed_frames import Kept, Reader, closed, opened
from ion_rabbitmq.envelope import Envelope
from ion_rabbitmq.properties import Properties, Unreadable

DELIVER = struct.pack(">HH", 60, 60)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def header(raw: bytes) -> bytes:
    return struct.pack(">HHQ", 60, 0, 5) + raw


def received(raw: bytes, body: bytes = b"hello") -> Mock:
    """A message with these properties, as the client library hands it out."""
    found = pamqp.frame.unmarshal(frame(2, 1, closed(header(raw))))[2]
    assert isinstance(found, ContentHeader)
    return Mock(spec=aio_pika.IncomingMessage, headers=found.properties.headers, body=body)


async def test_frames_are_read_in_order_and_whole_however_they_arrive() -> None:
    sent = [
        frame(1, 1, DELIVER + short(b"tag") + b"\0" * 7 + b"\xff" + b"\0" + short(b"caf\xe9") + short("é".encode())),
        frame(2, 1, header(encoded(CASES["message id that is no UTF-8"]))),
        frame(3, 1, b"hello"),
        frame(8, 0, b""),
        frame(3, 2, b"x" * 200_000),
    ]
    reader = Reader(loop=asyncio.get_running_loop())
    frames = FrameReceiver(reader)
    stream = b"".join(sent)

    async def arrive() -> None:
        for at in range(0, 300):
            reader.feed_data(stream[at : at + 1])
            await asyncio.sleep(0)
        reader.feed_data(stream[300:])
        reader.feed_eof()

    arriving = asyncio.create_task(arrive())
    got = [(channel, found) async for _, channel, found in frames]
    await arriving
    assert [channel for channel, _ in got] == [1, 1, 1, 0, 2]
    deliver = got[0][1]
    assert isinstance(deliver, Basic.Deliver)
    assert (deliver.consumer_tag, deliver.delivery_tag) == ("tag", 255)
    assert (deliver.exchange, deliver.routing_key) == ("caf?", "é"), "text stays as it is"


@pytest.mark.parametrize("case", CASES)
def test_properties_are_written_as_they_were_read(case: str) -> None:
    raw = encoded(CASES[case])
    assert Properties.parsed(raw).encoded() == raw
    assert opened(received(raw)) == raw


UNREADABLE = {
    "cut short": b"\x80",
    "a value cut short": struct.pack(">H", 1 << 15) + b"\x09text",
    "an unknown flag": b"\x00\x02",
    "more flags": b"\x00\x01\x00\x00",
    "an unknown type of header": encoded({"headers": table({b"odd": b"Z1234"})}),
    "a header longer than its table": encoded({"headers": table({b"odd": b"S\x00\x00\xff\xff"})}),
    "a table longer than the frame": struct.pack(">H", 1 << 13) + b"\x00\x00\xff\xff",
    "a table that ends within a name": encoded({"headers": long(b"\x09na")}),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_kept_as_bytes_through_retries_and_dead_letters(case: str) -> None:
    raw = UNREADABLE[case]
    with pytest.raises(Unreadable):
        Properties.parsed(raw)
    first = Envelope.of(received(raw))
    assert "cannot be read" in first.unreadable
    assert (first.body, first.ours.attempt) == (b"hello", 1)
    second = Envelope.of(received(envelope.written(first, attempt=2).raw))
    assert (second.ours.attempt, second.ours.properties) == (2, raw)
    assert "cannot be read" in second.unreadable
    buried = received(envelope.written(second, **envelope.death("odd", ["a line"])).raw)
    letter = envelope.dead_letter(buried, "work")
    assert (letter.body, letter.reason, letter.attempts) == (b"hello", "odd", 2)
    assert Envelope.of(received(envelope.moved(buried).raw)).ours.properties == raw


NOT_OURS = {
    "a text": text(b"x"),
    "no attempt": b"F" + table({b"headers": text(b"{}")}),
    "attempt 0": b"F" + table({b"attempt": b"b\0", b"headers": text(b"{}")}),
    "an attempt that is text": b"F" + table({b"attempt": text(b"1"), b"headers": text(b"{}")}),
    "no headers": b"F" + table({b"attempt": b"b\1"}),
    "headers that are no JSON": b"F" + table({b"attempt": b"b\1", b"headers": text(b"tenant=acme")}),
    "headers that are no object": b"F" + table({b"attempt": b"b\1", b"headers": text(b'["a"]')}),
    "headers that are no text": b"F" + table({b"attempt": b"b\1", b"headers": text(b'{"a": 1}')}),
    "headers nested too deeply": b"F" + table({b"attempt": b"b\1", b"headers": text(b"[" * 100_000)}),
    "a log that is a text": b"F" + table({b"attempt": b"b\1", b"headers": text(b"{}"), b"log_tail": text(b'"ab"')}),
    "a time without a zone": b"F"
    + table({b"attempt": b"b\1", b"headers": text(b"{}"), b"died_at": text(b"2026-01-01T00:00:00")}),
    "a table cut short": b"F" + long(b"\x07attemp"),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_a_table_of_our_name_that_is_not_ours_stays_beside_ours(case: str) -> None:
    theirs = {b"ion": NOT_OURS[case], b"ion.1": text(b"also taken")}
    found = Envelope.of(received(encoded({"headers": table(theirs)})))
    assert (found.ours.attempt, dict(found.ours.headers)) == (1, {})
    again = received(envelope.written(found, attempt=7).raw)
    assert Envelope.of(again).ours.attempt == 7
    for name, value in theirs.items():
        assert Properties.parsed(opened(again)).header(name) == value


def test_ours_is_read_of_any_width() -> None:
    for number in (b"b\5", b"B\5", b"s\0\5", b"u\0\5", b"I\0\0\0\5", b"i\0\0\0\5", b"l" + b"\0" * 7 + b"\5"):
        ours = b"F" + table({b"attempt": number, b"headers": text(b'{"a": "b"}')})
        found = Envelope.of(received(encoded({"headers": table({b"ion": ours})}))).ours
        assert (found.attempt, dict(found.headers)) == (5, {"a": "b"})


def test_an_attempt_as_large_as_can_be_goes_no_further() -> None:
    ours = b"F" + table({b"attempt": b"l" + struct.pack(">q", 2**63 - 1), b"headers": text(b"{}")})
    found = Envelope.of(received(encoded({"headers": table({b"ion": ours})})))
    again = Envelope.of(received(envelope.written(found, attempt=found.ours.attempt + 1).raw))
    assert again.ours.attempt == envelope.MOST_ATTEMPTS


@pytest.mark.parametrize("most", [4_076, 20_000, 131_052])
def test_a_message_fits_into_the_frames_of_the_server_that_it_is_for(most: int) -> None:
    large = {b"h%d" % n: text(b"x" * 900) for n in range(140)}
    found = Envelope.of(received(encoded({"headers": table(large)})))
    message = envelope.written(found, **envelope.death("r" * 50_000, [100 * "l"] * 900))
    assert isinstance(message, Kept)
    assert message.fit(most)
    assert len(message.raw) <= most
    letter = envelope.dead_letter(received(message.raw), "work")
    assert letter.reason.startswith("rrr")
    assert letter.died_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("rejected", "Ion could not write"),
        ("expired", "time to live"),
        ("maxlen", "was full"),
        ("else", "too often"),
    ],
)
def test_what_rabbitmq_made_a_dead_letter_says_why(why: str, said: str) -> None:
    newest = b"F" + table({b"reason": text(why.encode()), b"count": b"l" + b"\0" * 7 + b"\1"})
    oldest = b"F" + table({b"reason": text(b"expired")})
    raw = encoded({"headers": table({b"x-death": b"A" + long(newest + oldest)})})
    assert said in envelope.dead_letter(received(raw), "work").reason
