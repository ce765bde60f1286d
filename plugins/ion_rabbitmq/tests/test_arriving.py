"""Deliveries that are taken from the connection before the client library sees them."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import pytest
from aio_pika.exceptions import ChannelInvalidStateError

from ion_rabbitmq import closed_frames
from ion_rabbitmq.arriving import ConsumingChannel
from ion_rabbitmq.closed_frames import Incoming, Reader, frame
from ion_rabbitmq.gathered import Writer
from ion_rabbitmq.properties import encoded, short

NUMBER = 7
RAW = encoded({"message_id": short("an id")})
OTHER = frame(1, NUMBER, struct.pack(">HH", 60, 21) + short("tag"))
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class Opened:
    """A channel that consumes, over a connection that is fed by hand."""

    def __init__(self) -> None:
        self.reader = Reader(loop=asyncio.get_running_loop())
        self.writer = Mock(spec=Writer)
        self.writer.is_closing.return_value = False
        self.underlay: Any = SimpleNamespace(
            number=NUMBER, is_closed=False, connection=SimpleNamespace(channels=dict[int, object]())
        )
        self.underlay.connection.channels[NUMBER] = self.underlay
        self.channel = ConsumingChannel(Mock(), self.underlay, self.reader, cast("Writer", self.writer))
        self.delivered: list[Incoming] = []

    async def consume(self, deliver: Callable[[Incoming], None] | None = None) -> None:
        await self.channel.consume(Mock(consume=AsyncMock()), deliver or self.delivered.append, within=1.0)

    @property
    def passed_on(self) -> bytes:
        """What the library is given to read."""
        return bytes(cast("Any", self.reader)._buffer)


@pytest.fixture
async def opened() -> Opened:
    return Opened()


def delivery(tag: int, *bodies: bytes, consumer: str = "tag") -> bytes:
    """The frames of a message, with its body in as many of them."""
    method = struct.pack(">HH", 60, 60) + short(consumer) + struct.pack(">QB", tag, 0) + short("") + short("work")
    header = struct.pack(">HHQ", 60, 0, sum(map(len, bodies))) + RAW
    return b"".join([frame(1, NUMBER, method), frame(2, NUMBER, header), *(frame(3, NUMBER, it) for it in bodies)])


@pytest.mark.parametrize("piece", [1, 3, 1000])
async def test_messages_are_handed_on_whole_and_in_order_however_they_arrive(opened: Opened, piece: int) -> None:
    await opened.consume()
    stream = delivery(1, b"one") + delivery(2) + OTHER + delivery(3, b"a", b"", b"b")
    for at in range(0, len(stream), piece):
        opened.reader.feed_data(stream[at : at + piece])
    assert opened.delivered == [Incoming(b"one", RAW, 1), Incoming(b"", RAW, 2), Incoming(b"ab", RAW, 3)]
    assert opened.passed_on.replace(HEARTBEAT, b"") == OTHER


async def test_what_others_are_given_on_their_channels_stays_the_library_s(opened: Opened) -> None:
    await opened.consume()
    theirs = frame(1, NUMBER + 1, struct.pack(">HH", 60, 60) + short("tag") + bytes(9) + short("") + short("work"))
    opened.reader.feed_data(theirs)
    assert opened.delivered == []
    assert opened.passed_on == theirs


async def test_a_message_that_was_asked_for_stays_the_library_s(opened: Opened) -> None:
    await opened.consume()
    got = frame(1, NUMBER, struct.pack(">HH", 60, 71) + bytes(9) + short("") + short("work") + bytes(4))
    opened.reader.feed_data(got + frame(2, NUMBER, struct.pack(">HHQ", 60, 0, 1) + RAW) + frame(3, NUMBER, b"x"))
    assert opened.delivered == []
    assert opened.passed_on.startswith(got)
    assert opened.passed_on.endswith(frame(3, NUMBER, b"x"))


async def test_nothing_is_taken_once_it_has_ended(opened: Opened) -> None:
    await opened.consume()
    opened.channel.end()
    opened.channel.end()
    opened.reader.feed_data(delivery(1, b"late"))
    assert opened.delivered == []
    assert frame(3, NUMBER, b"late") in opened.passed_on


async def test_nothing_is_taken_from_another_channel_that_has_the_number_by_now(opened: Opened) -> None:
    await opened.consume()
    opened.underlay.connection.channels[NUMBER] = object()
    opened.reader.feed_data(delivery(1, b"theirs"))
    assert opened.delivered == []
    assert frame(3, NUMBER, b"theirs") in opened.passed_on


async def test_one_that_cannot_be_taken_is_told_and_costs_no_other(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    def deliver(message: Incoming) -> None:
        if message.tag == 1:
            raise ValueError("a bug")
        opened.delivered.append(message)

    await opened.consume(deliver)
    with caplog.at_level(logging.ERROR):
        opened.reader.feed_data(delivery(1, b"odd") + delivery(2, b"even"))
    assert [it.tag for it in opened.delivered] == [2]
    assert "a bug" in caplog.text


async def test_the_library_hears_that_the_connection_lives_where_all_is_taken(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened.consume()
    monkeypatch.setattr(closed_frames, "_TELLS_EVERY", -1.0)
    opened.reader.feed_data(delivery(1, b"one"))
    assert opened.passed_on == HEARTBEAT
    opened.reader.feed_data(OTHER)
    assert opened.passed_on == HEARTBEAT + OTHER


async def test_answers_are_frames_of_their_channel(opened: Opened) -> None:
    message = Incoming(b"", RAW, 258)
    opened.channel.ack(message)
    opened.channel.nack(message, requeue=True)
    opened.channel.nack(message, requeue=False)
    assert [call.args[0] for call in opened.writer.write.call_args_list] == [
        frame(1, NUMBER, struct.pack(">HHQB", 60, 80, 258, 0)),
        frame(1, NUMBER, struct.pack(">HHQB", 60, 120, 258, 2)),
        frame(1, NUMBER, struct.pack(">HHQB", 60, 120, 258, 0)),
    ]


async def test_nothing_is_answered_on_what_is_closed(opened: Opened) -> None:
    opened.writer.is_closing.return_value = True
    with pytest.raises(ConnectionError):
        opened.channel.ack(Incoming(b"", RAW, 1))
    opened.underlay.is_closed = True
    with pytest.raises(ChannelInvalidStateError):
        opened.channel.ack(Incoming(b"", RAW, 1))
    opened.writer.write.assert_not_called()


async def test_a_frame_that_the_end_cuts_short_is_told_to_the_library(opened: Opened) -> None:
    await opened.consume()
    whole = delivery(1, b"one")
    opened.reader.feed_data(whole[:-2])
    opened.reader.feed_eof()
    assert opened.delivered == []
    assert opened.passed_on.endswith(frame(3, NUMBER, b"one")[:-2])
