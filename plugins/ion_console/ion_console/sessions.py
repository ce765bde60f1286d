"""Sessions of browsers, which cannot send a token with every link: a cookie that only who has the token could make.

Nothing is kept of them, so they outlive a restart, and end with their token: by its key the cookie is signed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ion_console.routing import Role

LIFE = 12 * 3600
"""Seconds that one lasts."""
SKEW = 300
"""Seconds by which the clock may have been put back since, or is that of another process behind the same proxy."""
_COOKIE = re.compile(r"([1-9][0-9]{0,11})\.([0-9a-f]{64})", re.ASCII)


class Sessions:
    """Of these tokens, by what they allow."""

    def __init__(self, tokens: Iterable[tuple[Role, Sequence[SecretStr]]]) -> None:
        self._keys = [(role, it.get_secret_value().encode("ascii")) for role, some in tokens for it in some]

    def begin(self, token: str, now: float) -> str | None:
        """The cookie of one that begins now, in seconds since 1970; None for a token that is not known."""
        given, found = token.encode("utf-8", "surrogateescape"), None
        for _, key in self._keys:  # all of them, whichever it is
            if hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(key).digest()):
                found = key
        until = int(now) + LIFE
        return None if found is None else f"{until}.{_signed(found, until)}"

    def role(self, cookie: str, now: float) -> Role | None:
        """What it allows; None for one that has ended, or is none of ours."""
        parts = _COOKIE.fullmatch(cookie)
        if parts is None or not now < int(parts[1]) <= now + LIFE + SKEW:
            return None
        found: Role | None = None
        for role, key in self._keys:
            if hmac.compare_digest(_signed(key, int(parts[1])), parts[2]):
                found = role
        return found


def _signed(key: bytes, until: int) -> str:
    return hmac.new(key, f"ion console session {until}".encode("ascii"), hashlib.sha256).hexdigest()
