"""Bearer tokens: which of ours a request has, told in a time that says nothing of them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from pydantic import SecretStr


class Tokens:
    """Several, as is needed while one replaces another."""

    def __init__(self, tokens: Iterable[SecretStr]) -> None:
        self._digests = [_digest(it.get_secret_value().encode("ascii")) for it in tokens]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, authorization: str) -> bool:
        """Whether that header has one of them, as ``Bearer TOKEN``."""
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip().encode("utf-8", "surrogateescape"))
        found = [hmac.compare_digest(given, it) for it in self._digests]  # all of them, whichever it is
        return scheme.lower() == "bearer" and any(found)


def _digest(token: bytes) -> bytes:
    """Of one length, so that comparing tells nothing of that either."""
    return hashlib.sha256(token).digest()
