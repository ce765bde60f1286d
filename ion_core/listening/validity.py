"""Until when our certificate is valid, told by the standard library: by a client that trusts it and nothing else.

What a certificate says is shown there of a connection alone, so one is made, in memory.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

SOON = timedelta(days=14)
"""Before its end it is said that it ends; of one that is not valid for long, in the last fifth of its time."""
EXPIRED, NOT_YET = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID, as OpenSSL counts what it finds."""
STEPS = 10
"""Of a handshake, more than any takes."""


def not_valid_for_long(certificate: Path, key: Path) -> Iterator[str]:
    """A sentence if it is not valid now, or soon is not any more. Nothing where that cannot be told."""
    try:
        said = _shown(certificate, key)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == EXPIRED:
            yield "the certificate, or one of those with it, has expired, and is refused. Renew it."
        elif error.verify_code == NOT_YET:
            yield "the certificate, or one of those with it, is not valid yet. Is the clock right?"
        return
    except (ssl.SSLError, OSError):
        return
    begins, ends = (_time(said[name]) for name in ("notBefore", "notAfter"))
    if ends - datetime.now(UTC) < min(SOON, (ends - begins) / 5):
        yield f"the certificate expires on {ends:%Y-%m-%d}. Renew it."


def _shown(certificate: Path, key: Path) -> dict[str, str]:
    """What a client sees of it. Raises SSLError, OSError."""
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_cert_chain(certificate, key, password=lambda: "")
    theirs.check_hostname = False
    theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    theirs.load_verify_locations(certificate)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = theirs.wrap_bio(down, up), ours.wrap_bio(up, down, server_side=True)
    for _ in range(STEPS):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            if end is client:
                found = client.getpeercert()
                assert found is not None
                return {name: str(value) for name, value in found.items()}
    raise ssl.SSLError("the handshake does not end")


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
