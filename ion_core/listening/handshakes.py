"""TLS handshakes that fail, of which nobody else here hears: the log says whose, and why."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic

from ion_core.words import counted

log = logging.getLogger(__name__)

peer: ContextVar[str | None] = ContextVar("peer", default=None)
"""The address of the connection that is being accepted: asyncio says whose a handshake is once that has succeeded."""

EVERY = 60.0
"""Seconds in which each client and reason is said once."""
MOST = 20
"""Lines in that time: whoever scans us from many addresses does not fill the log."""


class Failures:
    """Says which handshakes failed, but not how often each; and how many no line told."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._until = clock() + EVERY
        self._said: set[tuple[str | None, str]] = set()
        self._unsaid = 0

    def tell(self, remote: str | None, why: str) -> None:
        now = self._clock()
        if now >= self._until:
            if self._unsaid:
                log.info("%s failed like those that were told", counted(self._unsaid, "more TLS handshake"))
            self._until, self._unsaid = now + EVERY, 0
            self._said.clear()
        if (remote, why) in self._said or len(self._said) >= MOST:
            self._unsaid += 1
            return
        self._said.add((remote, why))
        log.info("a TLS handshake failed: %s", why, extra={"remote": remote})


class _Handshake(ssl.SSLObject):
    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            context = self.context
            assert isinstance(context, Handshakes)
            context.failures.tell(peer.get(), why(error))
            raise


class Handshakes(ssl.SSLContext):
    """A context whose failures are told."""

    failures: Failures
    sslobject_class = _Handshake


_REASONS = {
    "HTTP_REQUEST": "it was plain HTTP. The URL begins with https://",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client has no certificate, which client_ca_file asks for",
}


def why(error: ssl.SSLError) -> str:
    """In the words of who set it up, not of OpenSSL, where it is what happens every day."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not taken: {error.verify_message}"
    reason = error.reason or str(error)
    if "_ALERT_" in reason:
        said = reason.partition("_ALERT_")[2].replace("_", " ").lower()
        return f"the client gave up, perhaps as it does not trust our certificate: {said}"
    return _REASONS.get(reason) or reason.replace("_", " ").lower()
