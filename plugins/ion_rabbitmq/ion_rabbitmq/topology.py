"""Names and arguments of everything Ion declares at RabbitMQ. They never need redeclaring: limits are policies.

    publish ──► exchange <prefix>.events, or another (topic, durable)
                   │ event type
                   ▼
                queue <prefix>.q.<module> ──► deliveries
                   ▲                │ retry                    │ dead letter
                   │ after its TTL  ▼                          ▼
                   └── <prefix>.q.<module>.retry.<ms>       <prefix>.q.<module>.dead

``<prefix>.queues`` keeps which of them there are (``register.py``). ``.retry`` and ``.dead`` may be other suffixes. A
retry, and what is postponed, is published to the waiting queue of its delay and dead-lettered back from there by its
queue's fixed TTL, so that a long delay never holds up a short one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ion_core.contracts.messaging import RetryPolicy
from ion_rabbitmq.settings import RabbitSettings

MAX_NAME_BYTES = 255
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_:@,/+ -]")
LONGEST_SUFFIX = 17
DELIVERY_LIMIT = 100_000
"""Fence far above our own counting: releases count at the broker, and must not lose a message to its default of 20."""
POSTPONED = (2_000, 8_000, 32_000)
"""Milliseconds that what is postponed may wait, whatever the retry policy: few, since each is a queue."""


@dataclass(frozen=True)
class Topology:
    """The names that the settings give; what of a module's queue is declared."""

    prefix: str
    exchange: str
    queue_type: str
    retry_suffix: str = ".retry"
    dead_suffix: str = ".dead"
    rungs: dict[str, set[int]] = field(default_factory=dict)
    """Delays in milliseconds that a queue has a waiting queue for, as far as this process knows."""

    @classmethod
    def of(cls, settings: RabbitSettings) -> Topology:
        return cls(
            prefix=settings.prefix,
            exchange=settings.exchange or f"{settings.prefix}.events",
            queue_type=settings.queue_type,
            retry_suffix=settings.retry_suffix,
            dead_suffix=settings.dead_suffix,
        )

    @property
    def register(self) -> str:
        """The queue that keeps which queues there are."""
        return f"{self.prefix}.queues"

    @property
    def lock(self) -> str:
        """Exists while somebody reads the register."""
        return f"{self.prefix}.queues.lock"

    def queue(self, name: str) -> str:
        return self._named(name, "")

    def dead(self, name: str) -> str:
        return self._named(name, self.dead_suffix)

    def dead_lock(self, name: str) -> str:
        """Exists while somebody looks at its dead letters, or takes some out."""
        return self._named(name, f"{self.dead_suffix}.lock")

    def waiting(self, name: str, rung: int) -> str:
        return self._named(name, f"{self.retry_suffix}.{rung}")

    def _named(self, name: str, ending: str) -> str:
        """With room for the longest ending; a longer name is shortened to its beginning and its sha256.

        Names are any text: what clients of RabbitMQ refuse, and the dot that parts a name from its ending, is escaped.
        """
        name = _NOT_PLAIN.sub(lambda found: "".join(f"#{byte:02x}" for byte in found[0].encode()), name)
        room = MAX_NAME_BYTES - len(f"{self.prefix}.q.") - LONGEST_SUFFIX - len(".") - 12
        if len(name.encode()) > room:
            name = f"{name.encode()[: room - 65].decode(errors='ignore')}:{hashlib.sha256(name.encode()).hexdigest()}"
        return f"{self.prefix}.q.{name}{ending}"

    def queue_arguments(self, name: str) -> dict[str, Any]:
        """A module's queue. What exceeds the broker's delivery limit goes to its dead letters."""
        found: dict[str, Any] = {"x-queue-type": self.queue_type}
        if self.queue_type == "quorum":
            found |= {
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.dead(name),
            }
        return found

    def dead_arguments(self) -> dict[str, Any]:
        """Looking at dead letters gives them back, which counts: without a limit RabbitMQ 4 drops them at 20."""
        found: dict[str, Any] = {"x-queue-type": self.queue_type}
        if self.queue_type == "quorum":
            found["x-delivery-limit"] = DELIVERY_LIMIT
        return found

    def waiting_arguments(self, name: str, rung: int) -> dict[str, Any]:
        """At-least-once dead-lettering is what keeps a retry over a crash of the broker; it needs reject-publish."""
        found: dict[str, Any] = {
            "x-queue-type": self.queue_type,
            "x-message-ttl": rung,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.queue(name),
        }
        if self.queue_type == "quorum":
            found |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        return found

    def rung(self, name: str, delay: timedelta) -> int:
        """The shortest known waiting time that is no shorter than ``delay``; milliseconds.

        Without one, the next power of two: as few queues as there are of those, whatever delays are asked for.
        """
        asked = milliseconds(delay)
        return min((rung for rung in self.rungs.get(name, ()) if rung >= asked), default=_power_of_two(asked))


def milliseconds(delay: timedelta) -> int:
    """Rounded up: a retry never comes back early."""
    return max(-(-int(delay.total_seconds() * 1_000_000) // 1000), 0)


def rungs_of(retry: RetryPolicy) -> Sequence[int]:
    """Waiting times: a policy's delays, what jitter makes of them at most and at least, and those to postpone."""
    spreads = (-1.0, 0.0, 1.0) if retry.jitter else (0.0,)
    found = {milliseconds(retry.delay(n, spread)) for n in range(1, retry.retries + 1) for spread in spreads}
    return sorted((found | set(POSTPONED)) - {0})


def _power_of_two(milliseconds: int) -> int:
    return 1 << (milliseconds - 1).bit_length() if milliseconds else 0
