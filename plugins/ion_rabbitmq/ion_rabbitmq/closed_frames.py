"""A connection on which nobody decodes what others wrote: the properties of messages are handed on closed.

The client library decodes every frame in the one task that reads its connection, and an exception there ends the
connection for all. So frames are changed before the library is given them: a message's properties come as one header of
bytes (``opened``) beside an id, and names that are no UTF-8 get ``?`` for what is none.
``docs/decisions/0032-foreign-messages.md`` says why here.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, SupportsIndex

from aio_pika.abc import AbstractMessage
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from ion_rabbitmq import properties
from ion_rabbitmq.gathered import Writer

_HEAD: Final = struct.Struct(">BHI")
METHOD, HEADER, BODY = 1, 2, 3
"""Kinds of frames."""
_HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_TELLS_EVERY: Final = 0.5
"""Seconds without a frame for the library, though some came for others, after which it is told that some come."""
BEFORE_PROPERTIES: Final = 12
"""Bytes of a header frame: class, weight, size of the body."""
_INSIDE: Final = b"closed"
"""Name of the header that the properties come in."""
_TEXTS: Final[Mapping[bytes, tuple[int, ...]]] = {
    struct.pack(">HH", 60, 50): (2, 0, 0, 0),  # basic.return: code; text, exchange, routing key
    struct.pack(">HH", 60, 60): (0, 9, 0),  # basic.deliver: consumer; tag and redelivered; exchange, routing key
    struct.pack(">HH", 60, 71): (9, 0),  # basic.get-ok: tag and redelivered; exchange, routing key
}
"""Of methods that name what others chose: how many bytes stand before each of their short strings."""
_PLAIN: Final = bytes(byte if byte < 128 else ord("?") for byte in range(256))


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that the library knows nothing of, as it was delivered: its properties are ``raw``."""

    body: bytes
    raw: bytes
    tag: int
    """By which it is settled, on the channel that it came by."""


def opened(message: AbstractMessage | Incoming) -> bytes:
    """The properties of a message that came over such a connection, from their flags on."""
    if isinstance(message, Incoming):
        return message.raw
    found = message.headers.get(_INSIDE.decode())
    if not isinstance(found, bytearray):
        raise TypeError("the message came over another connection")
    return bytes(found)


class Taker(Protocol):
    """Who is given frames of one channel as they come, which the library never sees."""

    def take(self, kind: int, payload: bytes) -> bool:
        """Whether the frame was its own; False for one that is the library's. What it raises ends the connection."""


class Reader(asyncio.StreamReader):
    """As asyncio's; frames that are read from it have closed properties, and those that somebody takes are missing.

    ``takers`` are those who do, by the number of their channel.
    """

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.takers: dict[int, Taker] = {}
        self._clock = loop.time
        self._part = b""
        """Of a frame that has not come as a whole."""
        self._is_foreign = False
        """It has no frames: a server that speaks another version."""
        self._told_at = 0.0

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """What came from the socket, in pieces of any size."""
        raw = self._part + bytes(data)
        if self._is_foreign or raw.startswith(b"AMQP"):
            self._is_foreign, self._part = True, b""
            super().feed_data(raw)
            return
        at, taken, others = 0, False, list[bytes]()
        while len(raw) - at >= _HEAD.size:
            kind, channel, size = _HEAD.unpack_from(raw, at)
            end = at + _HEAD.size + size + 1
            if end > len(raw):
                break
            payload = raw[at + _HEAD.size : end - 1]
            if (taker := self.takers.get(channel)) is not None and taker.take(kind, payload):
                taken = True
            elif kind == HEADER:
                others.append(frame(kind, channel, closed(payload)))
            elif kind == METHOD and (text := in_text(payload)) is not payload:
                others.append(frame(kind, channel, text))
            else:
                others.append(raw[at:end])
            at = end
        self._part = raw[at:]
        if taken and not others and self._clock() > self._told_at + _TELLS_EVERY:
            others.append(_HEARTBEAT)  # the library gives up a connection on which it hears nothing
        if others:
            self._told_at = self._clock()
            super().feed_data(b"".join(others))

    def feed_eof(self) -> None:
        if self._part:  # so that the library knows that something is missing
            part, self._part = self._part, b""
            super().feed_data(part)
        super().feed_eof()


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """With its ends."""
    return _HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"


def closed(payload: bytes) -> bytes:
    """Of a header frame: the same message, whose only properties are an id and bytes."""
    raw = payload[BEFORE_PROPERTIES:]
    inside = properties.table([(_INSIDE, properties.bytes_value(raw))])
    outside = {"headers": inside, "message_id": properties.short(properties.known_by(raw))}
    return payload[:BEFORE_PROPERTIES] + properties.encoded(outside)


def in_text(payload: bytes) -> bytes:
    """Of a method frame: the same, as long, with ``?`` for what is no UTF-8 in its strings; itself where all is."""
    if payload[:4] not in _TEXTS or payload[4:].isascii():
        return payload
    done, at = bytearray(payload), 4
    for before in _TEXTS[payload[:4]]:
        start = at + before + 1
        at = start + payload[start - 1]
        try:
            payload[start:at].decode()
        except UnicodeDecodeError:
            done[start:at] = payload[start:at].translate(_PLAIN)
    return bytes(done)


class Transport(TransportFactory):
    """Opens connections as aiormq does, plain and TLS ones, with a ``Reader`` and a ``Writer`` of ours.

    To ``address``, if given, whatever the name in the URL stands for; a certificate still has to bear that name.
    """

    def __init__(self, address: str = "") -> None:
        self._address = address
        self.reader: Reader | None = None
        self.writer: Writer | None = None
        """Both of the connection that was made last."""

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = options.pop("ssl_context_provider")
        tls = await provider.get_context() if url.scheme == "amqps" else None
        if tls is not None and self._address:
            options["server_hostname"] = url.host
        loop = asyncio.get_running_loop()
        reader = Reader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, self._address or url.host or "", url.port or 0, ssl=tls, **options
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.reader, self.writer = reader, Writer(transport, protocol, reader, loop)
        return reader, self.writer


class Kept:
    """A message that is published with properties as they stand on the wire: what ``encode`` makes of their limit.

    ``key`` tells it, and its attempt, from others; ``message_id`` is what it is known by while it is under way.
    """

    __slots__ = ("_encode", "body", "key", "message_id", "raw")

    def __init__(
        self, body: bytes, encode: Callable[[int], bytes], *, most: int, key: str, message_id: str = ""
    ) -> None:
        self.body = body
        self.raw = encode(most)
        self.key = key
        self.message_id = message_id or properties.known_by(self.raw)
        self._encode = encode

    def fit(self, most: int) -> bool:
        """Have the properties encoded in so many bytes; whether they are."""
        if len(self.raw) > most:
            self.raw = self._encode(most)
        return len(self.raw) <= most
