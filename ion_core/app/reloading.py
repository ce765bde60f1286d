"""The configuration read again while it is served: services take over what they can, the rest takes a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ion_core.app.observing import Observation
from ion_core.app.services import Services
from ion_core.config import Config
from ion_core.errors import ConfigError, IonError

log = logging.getLogger(__name__)


class Reloading:
    """``again`` reads the configuration that ``config`` came from."""

    def __init__(self, config: Config, again: Callable[[], Config]) -> None:
        self._config = config
        self._again = again
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have it read, once more if that is under way."""
        self._asked.set()

    async def run(self, services: Services, observation: Observation | None) -> None:
        """Until cancelled. Without an ``observation`` of all that is told, observers take a restart."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                config = await asyncio.to_thread(self._again)
            except IonError as error:
                wrong = "; ".join(error.problems if isinstance(error, ConfigError) else [str(error)])
                log.error("the configuration cannot be taken over, and nothing has changed: %s", wrong)
                continue
            left = [*_differing(self._config, config), *services.reload(config.services)]
            if observation is not None:
                left += observation.reload(config.with_state(self._config.state).observers)
            else:
                left += [f"observers.{name}" for name in differing(self._config.observers, config.observers)]
            log.info("the configuration was read again", extra={"config": str(config.path)})
            if left:
                log.warning("what differs here takes a restart: %s", ", ".join(left))


def _differing(before: Config, after: Config) -> Iterator[str]:
    """What of a configuration no service has is not as it was: keys."""
    for key, of in _PARTS.items():
        if of(before) != of(after):
            yield key
    for section in ("runtimes", "modules"):
        yield from (f"{section}.{name}" for name in differing(getattr(before, section), getattr(after, section)))


_PARTS: Mapping[str, Callable[[Config], Any]] = {
    "state": lambda config: config.state,
    "plugins": lambda config: config.plugins,
    "drain_timeout": lambda config: config.drain_timeout,
    "messaging": lambda config: config.messaging,
    "storage.blobs": lambda config: config.blobs,
    "storage.documents": lambda config: config.documents,
}


def differing(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The keys of what is in one of them only, or not the same in both."""
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
