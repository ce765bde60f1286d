"""Another team's publisher, which writes AMQP 0-9-1 frames byte by byte: it sends what no library of ours would."""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

ORDER = [
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
]
"""In which properties stand on the wire; the first has the highest bit of the flags."""
CONFIRMED, RETURNED, REFUSED = (60, 80), (60, 50), (60, 120)


def short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def long(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def table(entries: Mapping[bytes, bytes]) -> bytes:
    """Of values that begin with the character of their type."""
    return long(b"".join(short(name) + value for name, value in entries.items()))


def text(raw: bytes) -> bytes:
    """A value of a table."""
    return b"S" + long(raw)


def seconds(number: int) -> bytes:
    """The property ``timestamp``."""
    return struct.pack(">Q", number % 2**64)


def encoded(properties: Mapping[str, bytes]) -> bytes:
    """Flags and values, each value as it stands on the wire."""
    flags = sum(1 << (15 - ORDER.index(name)) for name in properties)
    return struct.pack(">H", flags) + b"".join(properties[name] for name in ORDER if name in properties)


def decoded(raw: bytes) -> Mapping[str, bytes]:
    """The inverse of ``encoded``."""
    found, at = {}, 2
    for place, name in enumerate(ORDER):
        if int.from_bytes(raw[:2], "big") & 1 << (15 - place):
            fixed = {"delivery_mode": 1, "priority": 1, "timestamp": 8}
            size = 4 + int.from_bytes(raw[at : at + 4], "big") if name == "headers" else fixed.get(name, 1 + raw[at])
            found[name], at = raw[at : at + size], at + size
    return found


def event(event_type: str = "work.asked", *, says: str = "nothing") -> bytes:
    """As others write one, under ids of its own."""
    ids = {"eventId": str(uuid.uuid4()), "correlationId": str(uuid.uuid4()), "parentEventId": ""}
    said = {"type": event_type, "data": [{"key": "says", "value": says}]}
    return json.dumps({"context": {"name": "other-team", **ids, "documentType": ""}, **said}).encode()


class Foreigner:
    """One connection, one channel. ``publish`` returns once RabbitMQ has confirmed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def open(self) -> None:
        self._writer.write(b"AMQP\0\0\x09\x01")
        await self._answer()
        self._method(0, 10, 11, table({}) + short(b"PLAIN") + long(b"\0guest\0guest") + short(b"en_US"))
        await self._answer()
        self._method(0, 10, 31, struct.pack(">HIH", 2047, 131072, 0))
        self._method(0, 10, 40, short(b"/") + short(b"") + b"\0")
        await self._answer()
        self._method(1, 20, 10, short(b""))
        await self._answer()
        self._method(1, 85, 10, b"\0")  # confirm.select
        await self._answer()

    async def bind_exchange(self, name: bytes, queue: str) -> None:
        """A fanout exchange of theirs, which brings everything into the queue, whatever its routing key."""
        self._method(1, 40, 10, b"\0\0" + short(name) + short(b"fanout") + b"\2" + table({}))
        await self._answer()
        self._method(1, 50, 20, b"\0\0" + short(queue.encode()) + short(name) + short(b"") + b"\0" + table({}))
        await self._answer()

    async def publish(
        self, exchange: str, key: bytes, body: bytes, properties: Mapping[str, bytes] | None = None
    ) -> None:
        self._method(1, 60, 40, b"\0\0" + short(exchange.encode()) + short(key) + b"\1")
        self._frame(2, 1, struct.pack(">HHQ", 60, 0, len(body)) + encoded(properties or {}))
        for start in range(0, len(body), 131_000):
            self._frame(3, 1, body[start : start + 131_000])
        answer = await self._answer()
        assert answer == CONFIRMED, f"RabbitMQ does not take it: {answer}"

    async def get(self, queue: str) -> tuple[Mapping[str, bytes], bytes]:
        """Take the oldest message: its properties as they stand on the wire, and its body."""
        self._method(1, 60, 70, b"\0\0" + short(queue.encode()) + b"\1")
        answer = await self._answer()
        assert answer == (60, 71), f"{queue} holds nothing: {answer}"
        _, header = await self._next()
        size, body = struct.unpack(">Q", header[4:12])[0], b""
        while len(body) < size:
            body += (await self._next())[1]
        return decoded(header[12:]), body

    def _method(self, channel: int, of: int, method: int, arguments: bytes) -> None:
        self._frame(1, channel, struct.pack(">HH", of, method) + arguments)

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        self._writer.write(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")

    async def _answer(self) -> tuple[int, int]:
        while True:
            kind, payload = await self._next()
            if kind == 1:
                of, method = struct.unpack(">HH", payload[:4])
                assert (of, method) not in ((10, 50), (20, 40)), f"RabbitMQ closes: {payload[4:200]!r}"
                return of, method

    async def _next(self) -> tuple[int, bytes]:
        kind, _, size = struct.unpack(">BHI", await self._reader.readexactly(7))
        return kind, (await self._reader.readexactly(size + 1))[:-1]


@asynccontextmanager
async def foreigner(port: int) -> AsyncIterator[Foreigner]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        them = Foreigner(reader, writer)
        await them.open()
        yield them
    finally:
        writer.close()
        await writer.wait_closed()


CASES: Mapping[str, Mapping[str, bytes]] = {
    "plain": {},
    "timestamp in microseconds": {"timestamp": seconds(1_790_000_000_000_000)},
    "timestamp before 1970": {"timestamp": seconds(-14_256_320)},
    "message id that is no UTF-8": {"message_id": short(b"caf\xe9")},
    "header value that is no UTF-8": {"headers": table({b"who": text(b"caf\xe9")})},
    "a table `ion` of somebody else": {"headers": table({b"ion": b"F" + table({b"headers": text(b"tenant=acme")})})},
    "correlation id that is no UTF-8": {"correlation_id": short(b"\xff\xfe")},
    "timestamp as large as can be": {"timestamp": seconds(2**64 - 1)},
    "header name that is no UTF-8": {"headers": table({b"caf\xe9": text(b"x")})},
    "timestamp in a header, after the year 9999": {"headers": table({b"at": b"T" + seconds(2**62)})},
    "headers nested 5,000 deep": {"headers": b""},
    "a double, which is no float": {"headers": table({b"ratio": b"d" + struct.pack(">d", 1.1)})},
    "bytes as a header": {"headers": table({b"raw": b"x" + long(b"\0\xff")})},
    "a header name of 255 bytes": {"headers": table({b"n" * 255: text(b"x")})},
    "almost a table of ours": {
        "headers": table({b"ion": b"F" + table({b"attempt": b"I\0\0\0\1", b"headers": text(b'{"a": 1}')})})
    },
    "reply to, app id and type that are no UTF-8": {
        "reply_to": short(b"\xe9"),
        "app_id": short(b"\xe9"),
        "type": short(b"\xe9"),
    },
}
"""What RabbitMQ takes from others, by name: each may stand on an event that is none the worse for it."""


def _nested(depth: int) -> bytes:
    value = b"t\1"
    for _ in range(depth):
        value = b"F" + table({b"n": value})
    return value


CASES = {**CASES, "headers nested 5,000 deep": {"headers": table({b"deep": _nested(5_000)})}}
