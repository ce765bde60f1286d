"""Which answers of registries are a matter of time."""

from __future__ import annotations

import re

_PASSING = re.compile(
    r"toomanyrequests|too many requests|status ?(code)?( from registry)?:? 5\d\d|i/o timeout|tls handshake timeout"
    r"|connection reset|(?<!53: )(?<!53: read: )connection refused|unexpected eof",
    re.IGNORECASE,
)
"""What a registry's answer has in it when it is worth asking again; a name server that is not there is not."""


def may_pass(problem: str) -> bool:
    """Whether a registry that said so may be back soon."""
    return _PASSING.search(problem) is not None
