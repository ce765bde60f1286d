"""Until when certificates are valid, for those who set them up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime


def not_valid_today(pem: bytes) -> Iterator[str]:
    """A sentence for each certificate that is not."""
    from cryptography.x509 import load_pem_x509_certificates

    now = datetime.now(UTC)
    try:
        certificates = load_pem_x509_certificates(pem)
    except ValueError as error:  # stricter than OpenSSL, which has taken it
        yield f"whether it is valid today cannot be told: {error}"
        return
    for it in certificates:
        named = f"the certificate of {it.subject.rfc4514_string()}"
        if it.not_valid_after_utc < now:
            yield f"{named} has expired, on {it.not_valid_after_utc:%Y-%m-%d}, and is refused. Renew it."
        elif it.not_valid_before_utc > now:
            yield f"{named} is not valid before {it.not_valid_before_utc:%Y-%m-%d}. Is the clock right?"
