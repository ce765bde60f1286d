"""Consuming on a channel without the client library in between: what is delivered is handed on as it comes.

aiormq decodes each of a message's frames, hands them from task to task, and starts two more tasks for the message;
aio-pika makes an object of each of its properties. Together that was more than all else that a message takes here, up
to its module. So these frames are taken from what comes over the connection, and answers are frames of our own.
``docs/decisions/0062-the-path-of-an-event.md`` says more.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Any, Final

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelInvalidStateError
from aiormq.channel import Channel

from ion_rabbitmq.closed_frames import BEFORE_PROPERTIES, BODY, HEADER, METHOD, Incoming, Reader, frame, opened
from ion_rabbitmq.consuming import consumed
from ion_rabbitmq.gathered import Writer

log = logging.getLogger(__name__)

_DELIVER: Final = struct.pack(">HH", 60, 60)
_ACK: Final = struct.Struct(">HHQB")
_MULTIPLE, _REQUEUE = 1, 2


class ConsumingChannel:
    """``channel`` as opened, over whose connection ``reader`` and ``writer`` go."""

    def __init__(self, channel: AbstractChannel, underlay: Channel, reader: Reader, writer: Writer) -> None:
        self.channel = channel
        self.underlay = underlay
        self._reader = reader
        self._writer = writer
        self._deliver: Callable[[Incoming], None] | None = None
        self._tag: int | None = None
        """Of the message whose frames come now."""
        self._raw = b""
        self._missing = 0
        self._body: list[bytes] = []

    async def consume(self, queue: AbstractQueue, deliver: Callable[[Incoming], None], *, within: float) -> str:
        """Have ``deliver`` called with what comes from the queue, until ``end``; returns the consumer's tag.

        What it raises is logged; the message stays unsettled then. Raises as ``consumed``.
        """
        self._deliver = deliver
        self._reader.takers[self.underlay.number] = self
        return await consumed(queue, _not_taken, within=within)

    def end(self) -> None:
        """Nothing is delivered any more. Idempotent."""
        self._deliver = None
        if self._reader.takers.get(self.underlay.number) is self:
            del self._reader.takers[self.underlay.number]

    def incoming(self, message: AbstractIncomingMessage) -> Incoming:
        """One that was asked for on this channel, to be settled as those that are delivered. Raises nothing."""
        assert message.delivery_tag is not None, "it is to be acked"
        return Incoming(message.body, opened(message), message.delivery_tag)

    def ack(self, message: Incoming) -> None:
        """Say so; what RabbitMQ makes of it, it does not tell. Raises ChannelInvalidStateError, ConnectionError."""
        self._answer(_ACK.pack(60, 80, message.tag, 0))

    def nack(self, message: Incoming, *, requeue: bool) -> None:
        """The same."""
        self._answer(_ACK.pack(60, 120, message.tag, _REQUEUE if requeue else 0))

    def _answer(self, method: bytes) -> None:
        if self.underlay.is_closed:
            raise ChannelInvalidStateError("the channel is closed")
        if self._writer.is_closing():
            raise ConnectionError("the connection is closed")
        self._writer.write(frame(METHOD, self.underlay.number, method))

    def take(self, kind: int, payload: bytes) -> bool:
        """Frames of deliveries: the method, the properties, and as many of the body as there are."""
        if self._tag is None:
            if kind != METHOD or not payload.startswith(_DELIVER):
                return False
            if self.underlay.connection.channels.get(self.underlay.number) is not self.underlay:
                self.end()  # another channel has the number by now
                return False
            consumer = payload[4]
            self._tag = int.from_bytes(payload[5 + consumer : 13 + consumer], "big")
            return True
        if kind == HEADER:
            self._missing = int.from_bytes(payload[4:BEFORE_PROPERTIES], "big")
            self._raw = payload[BEFORE_PROPERTIES:]
        elif kind == BODY:
            self._missing -= len(payload)
            self._body.append(payload)
        else:
            return False
        if not self._missing:
            self._delivered()
        return True

    def _delivered(self) -> None:
        tag, body = self._tag, self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._tag, self._body = None, []
        assert tag is not None, "its frames came first"
        if self._deliver is None:
            return
        try:
            self._deliver(Incoming(body, self._raw, tag))
        except Exception:
            log.exception("a message could not be taken, by a bug; it comes again")


async def _not_taken(message: Any) -> None:
    """The library's, of a consumer that has ended: RabbitMQ gives it to others once the channel is closed."""
