"""The properties of an AMQP message as they stand on the wire: what others wrote is passed on as it came.

A library decodes them into values of its language and encodes these again, which fails for what is no UTF-8 or no date,
and otherwise changes it: a double becomes a float. Here a value stays the bytes that it is; only where one begins and
ends has to be known.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

ORDER: Final = [
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
"""In which they stand on the wire; the first has the highest bit of the flags."""
_LONG: Final = struct.Struct(">I")
_FIXED: Final = {"delivery_mode": 1, "priority": 1, "timestamp": 8}
_FLAGS: Final = {name: 1 << (15 - place) for place, name in enumerate(ORDER)}
_SIZES: Final = {
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"sUu", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"lLdT", 8),
    ord("D"): 5,
    **dict.fromkeys(b"V\0", 0),
}
"""Bytes of a header's value, by the character of its type; of the others a length stands before them."""
_SIZED: Final = b"SxAF"

Header = tuple[bytes, bytes]
"""Its name, and its value after the character of its type."""
MAX_SHORT: Final = 255
WITHOUT_ID: Final = "without-id"
"""By which the client library knows messages that have no ``message_id``."""


class Unreadable(ValueError):
    """They are cut short, or of a kind that AMQP 0-9-1 does not know."""


@dataclass(frozen=True)
class Properties:
    """``values`` by name; ``headers`` in order, of which others may have two of one name. All as bytes on the wire."""

    values: Mapping[str, bytes]
    headers: tuple[Header, ...] = ()

    @classmethod
    def parsed(cls, raw: bytes) -> Properties:
        """``raw`` begins with the flags. Raises Unreadable."""
        values = dict(_values(raw))
        return cls(values, tuple(entries(values.pop("headers", b"\0\0\0\0"))))

    def encoded(self) -> bytes:
        return encoded({**self.values, **({"headers": table(self.headers)} if self.headers else {})})

    def text(self, name: str) -> str | None:
        """A short string; bytes that are no UTF-8 are shown as ``\\xe9``."""
        found = self.values.get(name)
        return None if found is None else found[1:].decode("utf-8", "backslashreplace")

    def header(self, name: bytes) -> bytes | None:
        return next((value for found, value in self.headers if found == name), None)


def encoded(values: Mapping[str, bytes]) -> bytes:
    """Flags, and the values in the order of the wire."""
    flags = sum(_FLAGS[name] for name in values)
    return struct.pack(">H", flags) + b"".join(values[name] for name in ORDER if name in values)


def known_by(raw: bytes) -> str:
    """The id by which the client library knows the message with these properties when RabbitMQ returns it.

    That of the message where it is text, else one that stands for it: all that matters is that it is the same here,
    where it is published, and there.
    """
    try:
        found = dict(_values(raw)).get("message_id", b"\0")[1:]
        return found.decode() or WITHOUT_ID
    except Unreadable:
        return WITHOUT_ID
    except UnicodeDecodeError:
        return f"hex-{found.hex()}"[:MAX_SHORT]


def short(text: str) -> bytes:
    """A property, or the name of a header. Of text that is too long for one the beginning."""
    raw = text.encode()[:MAX_SHORT]
    return bytes([len(raw)]) + raw


def table(headers: Iterable[Header]) -> bytes:
    inside = b"".join(bytes([len(name)]) + name + value for name, value in headers)
    return _LONG.pack(len(inside)) + inside


def entries(raw: bytes) -> Iterator[Header]:
    """Names and values of a table that begins with its length. Raises Unreadable; does not look into values."""
    at, end = 4, 4 + _long(raw, 0)
    if end > len(raw):
        raise Unreadable("a table of headers is cut short")
    while at < end:
        name = raw[at + 1 : at + 1 + raw[at]]
        at += 1 + len(name)
        if at >= end:
            raise Unreadable("a table of headers ends within a header")
        size = _size(raw, at)
        if at + size > end:
            raise Unreadable(f"the header {shown(name)} is longer than the table that it stands in")
        yield name, raw[at : at + size]
        at += size


def _size(raw: bytes, at: int) -> int:
    """Of the value there, with the character of its type."""
    kind = raw[at]
    if kind in _SIZED:
        return 5 + _long(raw, at + 1)
    if kind not in _SIZES:
        raise Unreadable(f"a header is of the type {chr(kind)!r}, which AMQP 0-9-1 does not know")
    return 1 + _SIZES[kind]


def _values(raw: bytes) -> Iterator[tuple[str, bytes]]:
    if len(raw) < 2:
        raise Unreadable("they are cut short")
    flags, at = int.from_bytes(raw[:2], "big"), 2
    if flags & 0b11:
        raise Unreadable("they have flags that AMQP 0-9-1 does not know")
    for name in ORDER:
        if not flags & _FLAGS[name]:
            continue
        if at >= len(raw):
            raise Unreadable(f"they are cut short before {name}")
        size = _FIXED[name] if name in _FIXED else 4 + _long(raw, at) if name == "headers" else 1 + raw[at]
        if at + size > len(raw):
            raise Unreadable(f"they are cut short within {name}")
        yield name, raw[at : at + size]
        at += size


def _long(raw: bytes, at: int) -> int:
    if at + 4 > len(raw):
        raise Unreadable("they are cut short within a length")
    found: int = _LONG.unpack_from(raw, at)[0]
    return found


def text_value(text: str) -> bytes:
    """A header."""
    return bytes_value(text.encode("utf-8", "backslashreplace"), kind=b"S")


def bytes_value(raw: bytes, *, kind: bytes = b"x") -> bytes:
    return kind + _LONG.pack(len(raw)) + raw


def number_value(number: int) -> bytes:
    return b"l" + struct.pack(">q", number)


def table_value(headers: Iterable[Header]) -> bytes:
    return b"F" + table(headers)


def whole_number(value: bytes) -> int | None:
    """A header that is a whole number, of whatever width."""
    kind = value[:1]
    if kind in (b"b", b"s", b"I", b"l", b"L"):
        return int.from_bytes(value[1:], "big", signed=True)
    return int.from_bytes(value[1:], "big") if kind in (b"B", b"u", b"i") else None


def content(value: bytes | None) -> bytes | None:
    """What stands in a header that is text or bytes."""
    return value[5:] if value is not None and value[:1] in (b"S", b"x") else None


def inner(value: bytes | None) -> Mapping[bytes, bytes]:
    """A header that is a table; an empty one for what is none. Raises Unreadable."""
    return dict(entries(value[1:])) if value is not None and value[:1] == b"F" else {}


def shown(raw: bytes) -> str:
    """For messages, of whatever length and bytes."""
    return repr(raw[:40].decode("utf-8", "backslashreplace"))
