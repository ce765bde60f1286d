"""Recovery: containers of an earlier life of this dispatcher are stopped and removed; their events come back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta

from ion_core.contracts.runtime import ContainerRuntime
from ion_core.dispatcher.slots import labels_of

log = logging.getLogger(__name__)


async def remove_orphans(runtimes: Mapping[str, ContainerRuntime], state_id: str, *, worker: int = 0) -> int:
    """Remove every container that carries our mark, which nobody else can own; returns how many there were.

    With ``worker`` those alone that this one of several workers has made.
    """
    count = 0
    for name, runtime in runtimes.items():
        for status in await runtime.find(labels_of(state_id, worker)):
            log.warning(
                "removing a container of an earlier life",
                extra={"container": status.ref.name, "state": status.state.value, "runtime": name},
            )
            await runtime.stop(status.ref, grace=timedelta(0))
            await runtime.remove(status.ref)
            count += 1
    return count
