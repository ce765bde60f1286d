"""Publishing on a channel that confirms, without waiting for one another.

aiormq publishes one message after the other: each waits until the socket has taken the one before, and is a call of
the kernel by itself. Where many publish at once that is most of what a publish costs, here and in RabbitMQ. So frames
are made here and gathered by the ``Writer``, and answers are taken from what comes over the connection.
``docs/decisions/0046-publishing-together.md`` says more.
"""

from __future__ import annotations

import asyncio
import struct
from functools import lru_cache, partial
from itertools import takewhile
from typing import Any, Final

import pamqp.frame
import pamqp.header
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq import spec
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from ion_rabbitmq.closed_frames import BEFORE_PROPERTIES, BODY, HEADER, METHOD, Kept, Reader, frame, in_text
from ion_rabbitmq.gathered import Writer
from ion_rabbitmq.properties import known_by

LARGE: Final = 64 * 1024
"""Bytes of a body from which it is worth waiting until the socket has taken it."""
_BASIC: Final = 60
_RETURN: Final = struct.pack(">HH", _BASIC, 50)
_ACK: Final = struct.pack(">HH", _BASIC, 80)
_NACK: Final = struct.pack(">HH", _BASIC, 120)


class ConfirmChannel:
    """``channel`` as opened, over whose connection ``reader`` and ``writer`` go. Equal to itself only.

    Nobody else publishes on it.
    """

    def __init__(self, channel: AbstractChannel, underlay: Channel, reader: Reader, writer: Writer) -> None:
        self.channel = channel
        self._underlay = underlay
        self._reader = reader
        self._writer = writer
        self._most = underlay.max_content_size
        self._published = 0
        """How many: RabbitMQ counts them so, and answers by these numbers."""
        self._answers: dict[int, asyncio.Future[Any]] = {}
        """Those that are to come, in the order of their numbers."""
        self._numbers: dict[str, int] = {}
        """By the ids of their messages."""
        self._returned: spec.Basic.Return | None = None
        """Of which the properties come next, and then its body."""
        self._missing = 0
        reader.takers[underlay.number] = self

    @property
    def is_closed(self) -> bool:
        return self.channel.is_closed

    def publish(self, message: Kept, *, exchange: str, to: str) -> asyncio.Future[Any]:
        """Hand the message over, persistent and mandatory; the answer comes once it is confirmed, or never.

        It raises what aio-pika's ``publish`` raises: PublishError when nothing takes it, DeliveryError when it is
        refused, what the channel was closed by. One message of an id at a time: when RabbitMQ returns one, that is how
        it is known. Cancelling the answer takes nothing back.
        """
        answer: asyncio.Future[Any] = self._underlay.create_future()
        if answer.done():  # the channel was closed just now, and has said so there
            return answer
        frames = _frames(self._underlay.number, message, exchange, to, self._most)
        self._published += 1
        number = self._published
        self._answers[number] = answer
        self._numbers[message.message_id] = number
        answer.add_done_callback(partial(self._forget, message.message_id, number))
        self._writer.write(frames)
        return answer

    def _forget(self, message_id: str, number: int, _: asyncio.Future[Any]) -> None:
        self._answers.pop(number, None)
        if self._numbers.get(message_id) == number:
            del self._numbers[message_id]

    def take(self, kind: int, payload: bytes) -> bool:
        """Answers, and messages that come back before theirs: what becomes of those that were published."""
        if self._returned is not None and kind != METHOD:
            self._take_returned(self._returned, kind, payload)
            return True
        method = payload[:4]
        if kind != METHOD or method not in (_ACK, _NACK, _RETURN):
            return False
        if self._underlay.connection.channels.get(self._underlay.number) is not self._underlay:
            del self._reader.takers[self._underlay.number]  # another channel has the number by now
            return False
        if method == _RETURN:
            _, _, returned = pamqp.frame.unmarshal(frame(METHOD, self._underlay.number, in_text(payload)))
            assert isinstance(returned, spec.Basic.Return), "by its first bytes"
            self._returned = returned
            return True
        number, several = struct.unpack_from(">QB", payload, 4)
        self._confirmed(number, several=bool(several & 1), refused=method == _NACK)
        return True

    def _confirmed(self, number: int, *, several: bool, refused: bool) -> None:
        numbers = list(takewhile(lambda it: it <= number, self._answers)) if several else [number]
        for one in numbers:
            answer = self._answers.pop(one, None)
            if answer is None or answer.done():  # returned, or nobody waits any more
                continue
            if refused:
                answer.set_exception(DeliveryError(None, spec.Basic.Nack(delivery_tag=one)))
            else:
                answer.set_result(None)

    def _take_returned(self, returned: spec.Basic.Return, kind: int, payload: bytes) -> None:
        if kind == HEADER:
            self._missing = int.from_bytes(payload[4:BEFORE_PROPERTIES], "big")
            number = self._numbers.get(known_by(payload[BEFORE_PROPERTIES:]))
            answer = None if number is None else self._answers.pop(number, None)
            if answer is not None and not answer.done():
                answer.set_exception(PublishError(_message(returned, self._underlay), returned))
        else:
            self._missing -= len(payload)
        if not self._missing:
            self._returned = None

    async def drained(self) -> None:
        """Returns once the socket has taken most of what was published. Raises ConnectionError."""
        await self._writer.drain()


def _message(returned: spec.Basic.Return, channel: Channel) -> DeliveredMessage:
    return DeliveredMessage(delivery=returned, header=pamqp.header.ContentHeader(), body=b"", channel=channel)


def _frames(number: int, message: Kept, exchange: str, to: str, most: int) -> bytes:
    body = message.body
    header = struct.pack(">HHQ", _BASIC, 0, len(body)) + message.raw
    parts = [_method(number, exchange, to), frame(HEADER, number, header)]
    parts += [frame(BODY, number, body[at : at + most]) for at in range(0, len(body), most)]
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _method(number: int, exchange: str, to: str) -> bytes:
    return pamqp.frame.marshal(spec.Basic.Publish(exchange=exchange, routing_key=to, mandatory=True), number)
