"""What goes wrong between the API server and who asks it, when a test wants it to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from plugins.ion_kubernetes.tests.fake.statuses import status


class Order(Enum):
    """To a watch that is open."""

    BOOKMARK = "tell how far you are"
    EXPIRE = "say in the stream that the version is too old, and end"
    CUT = "break off in the middle of a line"
    END = "end, as after timeoutSeconds"


@dataclass(eq=False)
class OpenWatch:
    """A watch that somebody has open. ``version`` is how far it has told."""

    resource: str
    version: int
    query: Mapping[str, str]
    silent: bool = False
    orders: list[Order] = field(default_factory=list)


class How(Enum):
    ANSWER = "answers with what is given, and does nothing"
    DROP = "closes the connection without an answer, having done nothing"
    DROP_AFTER = "does what was asked, and closes the connection without an answer"
    HANG = "never answers"


@dataclass
class Fault:
    """For the next ``times`` calls whose ``METHOD /path`` the pattern is found in."""

    pattern: str
    how: How = How.ANSWER
    times: int = 1
    answer: Mapping[str, Any] = field(
        default_factory=lambda: status(500, "InternalError", "etcdserver: leader changed")
    )
    headers: Mapping[str, str] = field(default_factory=dict)
    met: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call has met it."""

    def takes(self, call: str) -> bool:
        if self.times == 0 or not re.search(self.pattern, call):
            return False
        self.times -= 1
        self.met.set()
        return True
