"""How long RabbitMQ lets a delivery be held, and how its operator changes that: by the version of the server.

A declared argument would say nothing: servers accept those they do not know.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from ion_core.contracts.messaging import HoldLimit

if TYPE_CHECKING:
    from ion_rabbitmq.settings import RabbitSettings

HOUR = timedelta(hours=1)
UNKNOWN = (0, 0)
"""The version of a server that was not asked."""


def timed_out(said: object) -> bool:
    """Whether a channel was closed for a delivery that was held for too long."""
    return "delivery acknowledgement" in str(said) and "timed out" in str(said)


def limit_at(settings: RabbitSettings, version: str = "") -> HoldLimit | None:
    """What that server allows, as far as ``settings`` tell; None where it does not limit it."""
    if parsed(version) >= (4, 3) and settings.queue_type == "classic":
        return None
    return HoldLimit(
        longest=settings.consumer_timeout, remedy=lambda wanted: advice(version, settings.prefix, hours_for(wanted))
    )


def hours_for(wanted: timedelta) -> int:
    """Full hours, more than ``wanted``: whatever surrounds a module takes time too, and holding costs nothing."""
    return wanted // HOUR + 1


def advice(version: str, prefix: str, hours: int) -> str:
    """What to do so that deliveries may be held for that long."""
    then = f"then say so with messaging.consumer_timeout: {hours}h"
    policy = f"run what `ion-core rabbitmq policies --prefix {prefix} --hours {hours}` prints"
    conf = f"write consumer_timeout = {hours * 3_600_000} (milliseconds) into rabbitmq.conf and restart it"
    if parsed(version) == UNKNOWN:
        return f"Up to RabbitMQ 3.11 {conf}, from 3.12 on {policy}; {then}."
    if parsed(version) < (3, 12):
        return f"RabbitMQ {version} has one timeout for all queues: {conf}; {then}."
    return f"RabbitMQ {version} has a timeout for each queue: {policy}; {then}."


def parsed(version: str) -> tuple[int, int]:
    """Major and minor; ``UNKNOWN`` for what is no version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else UNKNOWN
