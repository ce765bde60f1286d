"""The policies that an operator sets: one for each kind of queue, with all its keys, since one applies to a queue.

Which keys there are depends on the server's version, and on the queues' type: RabbitMQ leaves out a policy for a queue
whose type does not know each of its keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ion_rabbitmq.topology import DELIVERY_LIMIT
from ion_rabbitmq.versions import parsed

MAX_LENGTH = 1_000_000
PRIORITY = 100
"""Above what companies give policies for all queues: the highest one holds, and nothing of the others."""


@dataclass(frozen=True)
class Policy:
    """``pattern`` says which queues, ``keys`` what holds for them."""

    name: str
    pattern: str
    keys: dict[str, Any]

    def command(self) -> str:
        """For a shell."""
        where = f"--apply-to queues --priority {PRIORITY}"
        return f"rabbitmqctl set_policy {self.name} '{self.pattern}' \\\n    '{json.dumps(self.keys)}' {where}"


def policies_for(version: str, *, queue_type: str, prefix: str, hold: timedelta) -> list[Policy]:
    """What a server of that version should be told; ``version`` is '' for any from 3.12 on."""
    beginning = "^" + prefix.replace(".", "\\.")
    # Changes nothing, and keeps other policies off: the limit that is declared, and what full queues do anyway.
    kept: dict[str, Any] = {"delivery-limit": DELIVERY_LIMIT} if queue_type == "quorum" else {"overflow": "drop-head"}
    events = dict(kept)
    if has_timeout_by_policy(version, queue_type):
        events["consumer-timeout"] = int(hold.total_seconds() * 1000)
    if queue_type == "quorum":
        events |= {"max-length": MAX_LENGTH, "overflow": "reject-publish"}
    return [
        Policy(f"{prefix}-events", rf"{beginning}\.q\.[^.]+$", events),
        Policy(f"{prefix}-kept", rf"{beginning}\.(queues|q\.[^.]+\..+)$", kept),
    ]


def has_timeout_by_policy(version: str, queue_type: str) -> bool:
    """3.10 and 3.11 refuse a policy that has it; from 4.3 on classic queues have no such timeout."""
    if not version:
        return True
    return parsed(version) >= (3, 12) and not (queue_type == "classic" and parsed(version) >= (4, 3))
