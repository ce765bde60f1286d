"""Names of objects: keys and ids of any text, written in letters that every backend takes as they are.

Everything but ASCII letters, digits, ``.``, ``_`` and ``-`` is written as ``=`` and two hexadecimal digits a byte (so
is a dot at the end of a segment, which Azure drops). So no name that came from outside means anything to fsspec, a
backend, a URL or an XML listing: no pattern, no ``?versionId=``, no drive letter.
"""

from __future__ import annotations

import hashlib
import re

from ion_core.contracts.storage import check_key
from ion_core.errors import InvalidKey

MAX_SEGMENT = 255
"""Bytes in one segment that every file system takes."""
MAX_NAME = 760
"""Bytes in a whole name below the area: 1,024, the limit of object stores, less the longest prefix."""
_LONGEST_ID = 120

_OTHER = re.compile(rb"[^A-Za-z0-9._-]")
_ESCAPE = re.compile(rb"=([0-9A-F]{2})")


def escaped(text: str) -> str:
    """One segment, reversibly."""
    raw = _OTHER.sub(lambda match: b"=%02X" % match[0][0], text.encode("utf-8", "surrogatepass"))
    return (raw[:-1] + b"=2E" if raw.endswith(b".") else raw).decode("ascii")


def name_of_key(key: str) -> str | None:
    """What the blob of ``key`` is called below its area; None when that is longer than every backend takes."""
    segments = [escaped(segment) for segment in key.split("/")]
    name = "/".join(segments)
    return name if len(name) <= MAX_NAME and max(map(len, segments)) <= MAX_SEGMENT else None


def key_of_name(name: str) -> str | None:
    """The key whose blob is called so; None for what is not ours, such as a folder marker."""
    try:
        key = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), name.encode("ascii")).decode("utf-8")
        return check_key(key) if name_of_key(key) == name else None
    except (UnicodeError, InvalidKey):
        return None


def name_of_id(id: str) -> str:
    """An id as one segment: readable where it is short and plain, else ``=h`` and its sha256."""
    name = escaped(id)
    return name if 0 < len(name) <= _LONGEST_ID else "=h" + digest(id)


def may_begin(name: str, beginning: str) -> bool:
    """Whether an id of that name may begin so: of a hashed one the name does not tell. A dot is another at the end."""
    return name.startswith(("=h", escaped(beginning + "-")[:-1])) or name == escaped(beginning)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
