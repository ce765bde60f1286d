"""Ids as names of directories: arbitrary text stays where it belongs, plain ids stay readable."""

from __future__ import annotations

import hashlib
from urllib.parse import unquote

from ion_core.errors import UsageError

MARKERS = ("prepared", "committed")
_NEVER = '/\\%:*?"<>|'
_NOT_FIRST = "._-~ "
_MOST_BYTES = 200


def directory_name(event_id: str) -> str:
    """The directory of an event's job: its id, with what a name cannot have written as ``%2F``.

    No two ids share a name. Those that would be too long are ``~`` and their sha256. Raises UsageError for ''.
    """
    if not event_id:
        raise UsageError("an event id must not be empty.")
    name = "".join(_escaped(character) if _is_bad(character) else character for character in event_id)
    if name[0] in _NOT_FIRST or name in MARKERS:
        name = _escaped(name[0]) + name[1:]
    if len(name.encode("utf-8", "surrogatepass")) > _MOST_BYTES:
        name = "~" + hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()
    return name


def event_id_of(name: str) -> str | None:
    """The id that a directory is named after; None if the name does not tell, or is none of ``directory_name``."""
    if name.startswith("~"):
        return None
    event_id = unquote(name, errors="surrogatepass")
    return event_id if event_id and directory_name(event_id) == name else None


def _is_bad(character: str) -> bool:
    return character in _NEVER or not character.isprintable()


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
