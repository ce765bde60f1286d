"""Publishing on a channel that confirms, without waiting for one another.

aiormq publishes one message after the other: each waits until the socket has taken the one before, and is a call of
the kernel by itself. Where many publish at once that is most of what a publish costs, here and in RabbitMQ. So frames
are made here and gathered by the ``Writer``; the answers are aiormq's, which finds them by the tags that it counts.
``docs/decisions/0046-publishing-together.md`` says more.
"""

from __future__ import annotations

import asyncio
import struct
from functools import lru_cache, partial
from typing import Any, Final

import pamqp.frame
from aio_pika.abc import AbstractChannel
from aiormq import spec
from aiormq.channel import Channel

from ion_rabbitmq.closed_frames import Kept, frame
from ion_rabbitmq.gathered import Writer

LARGE: Final = 64 * 1024
"""Bytes of a body from which it is worth waiting until the socket has taken it."""
_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC: Final = 60


class ConfirmChannel:
    """``channel`` as opened, to which ``writer`` writes; nobody else publishes on it. Equal to itself only."""

    def __init__(self, channel: AbstractChannel, underlay: Channel, writer: Writer) -> None:
        self.channel = channel
        self._underlay = underlay
        self._writer = writer
        self._most = underlay.max_content_size

    @property
    def is_closed(self) -> bool:
        return self.channel.is_closed

    def publish(self, message: Kept, *, exchange: str, to: str) -> asyncio.Future[Any]:
        """Hand the message over, persistent and mandatory; the answer comes once it is confirmed, or never.

        It raises what aio-pika's ``publish`` raises: PublishError when nothing takes it, DeliveryError when it is
        refused, what the channel was closed by. One message of an id at a time: when RabbitMQ returns one, that is how
        it is known. Cancelling the answer takes nothing back.
        """
        channel = self._underlay
        answer: asyncio.Future[Any] = channel.create_future()
        if answer.done():  # the channel was closed just now, and has said so there
            return answer
        frames = _frames(channel.number, message, exchange, to, self._most)
        channel.delivery_tag += 1
        tag, tags = channel.delivery_tag, channel.message_id_delivery_tag
        channel.confirmations[tag] = answer
        tags[message.message_id] = tag
        answer.add_done_callback(partial(_forget, tags, message.message_id, tag))
        self._writer.write(frames)
        return answer

    async def drained(self) -> None:
        """Returns once the socket has taken most of what was published. Raises ConnectionError."""
        await self._writer.drain()


def _forget(tags: dict[str, int], message_id: str, tag: int, _: asyncio.Future[Any]) -> None:
    if tags.get(message_id) == tag:
        del tags[message_id]


def _frames(number: int, message: Kept, exchange: str, to: str, most: int) -> bytes:
    body = message.body
    header = struct.pack(">HHQ", _BASIC, 0, len(body)) + message.raw
    parts = [_method(number, exchange, to), frame(_HEADER, number, header)]
    parts += [frame(_BODY, number, body[at : at + most]) for at in range(0, len(body), most)]
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _method(number: int, exchange: str, to: str) -> bytes:
    return pamqp.frame.marshal(spec.Basic.Publish(exchange=exchange, routing_key=to, mandatory=True), number)
