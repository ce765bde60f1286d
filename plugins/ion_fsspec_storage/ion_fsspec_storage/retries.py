"""Calls to a backend that are tried a few times, further and further apart, within a bound."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from ion_core.errors import IonError
from ion_fsspec_storage.errors import is_worth_another, translated

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 4
WITHIN = 60.0
"""Seconds after which a call that failed is not tried once more."""
TRIED_WITHIN = 5.0
"""The same while it is opened: somebody waits for the answer."""


class Retries:
    """Of the calls to one place. ``delay`` is about how many seconds lie between the first two tries."""

    def __init__(self, place: str, *, delay: float = 0.2) -> None:
        self.delay = delay
        self._place = place
        self._within = TRIED_WITHIN

    def opened(self) -> None:
        """It was tried out: from now on there is more time."""
        self._within = WITHIN

    def call(self, name: str, call: Callable[[], T]) -> T:
        """Its result. Raises FileNotFoundError and, of anything else, what it means."""
        begun = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call()
            except (IonError, FileNotFoundError):
                raise
            except (NotADirectoryError, IsADirectoryError) as error:
                raise FileNotFoundError(name) from error
            except Exception as error:
                meant = translated(error, f"{self._place}: {name}")
                late = attempt == ATTEMPTS or time.monotonic() - begun > self._within
                if late or not is_worth_another(error, meant):
                    raise meant from error
            log.info("the backend did not do it, trying again: %s", meant, extra={"attempt": attempt})
            time.sleep(self.delay * 4 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")
