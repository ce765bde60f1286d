"""A connection on which nobody decodes what others wrote: the properties of messages are handed on closed.

The client library decodes every frame in the one task that reads its connection, and an exception there ends the
connection for all. So frames are changed before the library is given them: a message's properties come as one header of
bytes (``opened``) beside an id, and names that are no UTF-8 get ``?`` for what is none.
``docs/decisions/0032-foreign-messages.md`` says why here.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from aio_pika.abc import AbstractMessage
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from ion_rabbitmq import properties
from ion_rabbitmq.gathered import Writer

_HEAD: Final = struct.Struct(">BHI")
_METHOD, _HEADER = 1, 2
_BEFORE_PROPERTIES: Final = 12
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


def opened(message: AbstractMessage) -> bytes:
    """The properties of a message that came over such a connection, from their flags on."""
    found = message.headers.get(_INSIDE.decode())
    if not isinstance(found, bytearray):
        raise TypeError("the message came over another connection")
    return bytes(found)


class Reader(asyncio.StreamReader):
    """As asyncio's; what is read from it in frames has closed properties."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._frame = b""
        self._at = 0

    def at_eof(self) -> bool:
        return self._at == len(self._frame) and super().at_eof()

    async def readexactly(self, n: int) -> bytes:
        if self._at == len(self._frame):
            self._frame, self._at = await self._next(), 0
        while self._at + n > len(self._frame):
            self._frame, self._at = self._frame[self._at :] + await self._next(), 0
        self._at += n
        return self._frame[self._at - n : self._at]

    async def _next(self) -> bytes:
        head = await super().readexactly(_HEAD.size)
        if head.startswith(b"AMQP"):  # no frame: a server that speaks another version
            return head + await super().readexactly(1)
        kind, channel, size = _HEAD.unpack(head)
        rest = await super().readexactly(size + 1)
        if kind == _HEADER:
            return frame(kind, channel, closed(rest[:-1]))
        if kind == _METHOD and rest[:4] in _TEXTS and not rest[4:-1].isascii():
            return frame(kind, channel, _in_ascii(rest[:-1]))
        return head + rest


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """With its ends."""
    return _HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"


def closed(payload: bytes) -> bytes:
    """Of a header frame: the same message, whose only properties are an id and bytes."""
    raw = payload[_BEFORE_PROPERTIES:]
    inside = properties.table([(_INSIDE, properties.bytes_value(raw))])
    outside = {"headers": inside, "message_id": properties.short(properties.known_by(raw))}
    return payload[:_BEFORE_PROPERTIES] + properties.encoded(outside)


def _in_ascii(payload: bytes) -> bytes:
    """Of a method frame: the same, as long, with ``?`` for what is no UTF-8 in its strings."""
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
        self.writer: Writer | None = None
        """Of the connection that was made last."""

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
        self.writer = Writer(transport, protocol, reader, loop)
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
