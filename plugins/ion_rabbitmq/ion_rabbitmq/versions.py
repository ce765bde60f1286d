"""Versions of RabbitMQ, as it says them itself."""

from __future__ import annotations

import re

UNKNOWN = (0, 0)
"""The version of a server that was not asked."""


def parsed(version: str) -> tuple[int, int]:
    """Major and minor; ``UNKNOWN`` for what is no version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else UNKNOWN
