"""How long RabbitMQ lets a delivery be held, and how its operator changes that: by the version of the server.

A declared argument would say nothing: servers accept those they do not know.
"""

from __future__ import annotations

import re


def timed_out(said: object) -> bool:
    """Whether a channel was closed for a delivery that was held for too long."""
    return "delivery acknowledgement" in str(said) and "timed out" in str(said)


def advice(version: str, prefix: str) -> str:
    """What to do, as a sentence, so that deliveries may be held for longer."""
    if parsed(version) < (3, 12):
        return (
            f"RabbitMQ {version} has one timeout for all: set consumer_timeout, in milliseconds, in rabbitmq.conf "
            "to more than the longest timeout of a module, and restart it"
        )
    return (
        f"RabbitMQ {version} has a timeout for each queue: set the policy consumer-timeout to more than the longest "
        f"timeout of a module. `ion-core rabbitmq policies --prefix {prefix}` prints the command"
    )


def parsed(version: str) -> tuple[int, int]:
    """Major and minor; (0, 0) for what is no version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
