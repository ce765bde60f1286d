"""How long RabbitMQ lets a delivery be held, and how its operator changes that: by the version of the server.

A declared argument would say nothing: servers accept those they do not know.
"""

from __future__ import annotations

from datetime import timedelta

from ion_core.contracts.messaging import HoldLimit
from ion_rabbitmq.versions import UNKNOWN, parsed

HOUR = timedelta(hours=1)


def timed_out(said: object) -> bool:
    """Whether a channel was closed for a delivery that was held for too long."""
    return "delivery acknowledgement" in str(said) and "timed out" in str(said)


def cancels_for_it(version: str) -> bool:
    """Whether that server cancels a consumer for it, without a reason, and leaves its channel open."""
    return parsed(version) >= (4, 3)


def limit_at(version: str, *, longest: timedelta, queue_type: str, prefix: str, key: str) -> HoldLimit | None:
    """What that server allows for queues of that type, if ``longest`` is what it was told; None for no limit.

    ``version`` is '' for a server that was not asked, ``prefix`` the beginning of the queues' names.
    """
    if parsed(version) >= (4, 3) and queue_type == "classic":
        return None
    return HoldLimit(longest=longest, remedy=lambda wanted: advice(version, queue_type, prefix, hours_for(wanted), key))


def hours_for(wanted: timedelta) -> int:
    """Full hours, more than ``wanted``: whatever surrounds a module takes time too, and holding costs nothing."""
    return wanted // HOUR + 1


def advice(version: str, queue_type: str, prefix: str, hours: int, key: str) -> str:
    """What to do so that deliveries may be held for that long."""
    then = f"then say so with {key}: {hours}h"
    which = f"--prefix {prefix} --hours {hours}{' --queue-type classic' if queue_type == 'classic' else ''}"
    policy = f"run what `ion-core rabbitmq policies {which}` prints (consumer-timeout {hours * 3_600_000} milliseconds)"
    conf = f"write consumer_timeout = {hours * 3_600_000} (milliseconds) into rabbitmq.conf and restart it"
    if parsed(version) == UNKNOWN:
        return f"Up to RabbitMQ 3.11 {conf}, from 3.12 on {policy}; {then}."
    if parsed(version) < (3, 12):
        return f"RabbitMQ {version} has one timeout for all queues: {conf}; {then}."
    return f"RabbitMQ {version} has a timeout for each queue: {policy}; {then}."
