"""What a client prefers (RFC 7240): to be answered at once, or once the flow is over."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

MOST = timedelta(seconds=60)
"""So long is waited at most, whatever is preferred."""

_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,9})s?\"?", re.IGNORECASE)


def wait(headers: Iterable[str]) -> timedelta | None:
    """How long to wait, by the ``Prefer`` headers of a request; None for not at all. Of several the first counts.

    ``respond-async`` is what is done unless asked otherwise: with it, nothing is waited for. What is not known, or not
    as it must be, is passed over: that is how preferences are meant.
    """
    given = [it.strip() for header in headers for it in header.split(",")]
    if any(it.partition(";")[0].strip().lower() == "respond-async" for it in given):
        return None
    for it in given:
        if found := _WAIT.fullmatch(it.partition(";")[0].strip()):
            return min(timedelta(seconds=int(found[1])), MOST)
    return None
