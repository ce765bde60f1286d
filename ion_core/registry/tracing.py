"""Asks plugins which span the module of an attempt is below."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ion_core.events import checked_traceparent
from ion_core.registry.observing import TRACING, Observing, has

if TYPE_CHECKING:
    from ion_core.jobs import Attempt

logger = logging.getLogger(__name__)


class Tracing:
    """Of several plugins that say something, the first by name counts."""

    def __init__(self, plugins: Mapping[str, Observing]) -> None:
        """``plugins``: each under its name, one that has several sections once for each."""
        self._plugins = {name: it for name, it in sorted(plugins.items()) if has(it.hooks, TRACING)}

    def reload(self, plugins: Mapping[str, Observing]) -> None:
        """Ask those of the same names with these settings from now on; nothing else changes."""
        self._plugins = {name: plugins.get(name, it) for name, it in self._plugins.items()}

    def traceparent(self, attempt: Attempt) -> str:
        """What the module of the attempt is told, as ``checked_traceparent`` has it; '' for nothing.

        Without a plugin that says something it is the trace that the flow came with from outside. Raises nothing.
        """
        for plugin, observing in self._plugins.items():
            if found := _said(plugin, observing, attempt):
                return found
        return attempt.job.event.traceparent


def _said(plugin: str, observing: Observing, attempt: Attempt) -> str:
    ask = getattr(observing.hooks.hook, TRACING)
    try:
        answers: list[Any] = ask(attempt=attempt, settings=observing.settings)  # one at most: pluggy leaves None out
    except BaseException:  # also SystemExit: nothing that a plugin raises ends an attempt
        logger.warning("tracing failed", extra={"plugin": plugin}, exc_info=True)
        return ""
    for said in answers:
        if isinstance(said, str) and (found := checked_traceparent(said)):
            return found
        logger.warning("a plugin says what is no traceparent: %.80r", said, extra={"plugin": plugin})
    return ""
