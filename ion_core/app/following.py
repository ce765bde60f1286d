"""What is told of the attempts that run, to who asks by the socket of the state directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ion_core.app.dispatching import Dispatching


async def follow(dispatching: Dispatching, event_id: str, wait: bool) -> AsyncIterator[Mapping[str, Any]]:
    async for line in dispatching.attempts.follow(event_id, wait=wait):
        yield asdict(line)


def running(dispatching: Dispatching, event_id: str) -> Sequence[Mapping[str, Any]]:
    found = dispatching.attempts.of(event_id)
    return [{**asdict(it), "since": it.since.isoformat(timespec="milliseconds")} for it in found]
