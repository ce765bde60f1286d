"""Bodies by their content encoding: gzip is read, what is text is text whatever it says, anything else is named."""

from __future__ import annotations

import gzip
import zlib

MOST_BYTES = 16 * 1024 * 1024
"""Of a body once it is unpacked; more is no event, and is not unpacked to find out."""
GZIP = ("gzip", "x-gzip")
_GZIP_WINDOW = zlib.MAX_WBITS | 16


def plain(encoding: str | None, body: bytes) -> bytes:
    """Unpacked; as it is where nothing is to be unpacked. Of one that has a ``problem``, as it is."""
    if not _is_gzip(encoding):
        return body
    found = _unpacked(body)
    return body if isinstance(found, str) else found


def packed(body: bytes) -> bytes:
    """As gzip, the same for the same body."""
    return gzip.compress(body, mtime=0)


def problem(encoding: str | None, body: bytes) -> str:
    """Why it cannot be read, in words; '' if it can be."""
    if encoding is None:
        return ""
    if _is_gzip(encoding):
        found = _unpacked(body)
        return f"its content encoding is {encoding!r}, and its body {found}" if isinstance(found, str) else ""
    try:
        body.decode()  # many write "utf-8" or the like there
    except UnicodeDecodeError:
        return (
            f"its content encoding is {encoding[:80]!r}, which Ion does not read, and its body is no UTF-8. "
            "Publish it without one, or as gzip"
        )
    return ""


def _is_gzip(encoding: str | None) -> bool:
    return encoding is not None and encoding.strip().lower() in GZIP


def _unpacked(body: bytes) -> bytes | str:
    """The content, or what is wrong with the body. It may have several members, as gzip's own files may."""
    found, rest = b"", body
    try:
        while rest:
            member = zlib.decompressobj(_GZIP_WINDOW)
            found += member.decompress(rest, MOST_BYTES + 1 - len(found))
            if len(found) > MOST_BYTES:
                return f"is more than {MOST_BYTES:,} bytes long once it is unpacked"
            if not member.eof:
                return "is cut short"
            rest = member.unused_data
    except zlib.error as error:
        return f"is none: {error}"
    return found
