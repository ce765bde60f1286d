"""A plugin that is told what happens, or asked about it, with the settings of one of its sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pluggy

OBSERVING = (
    "ion_job_started",
    "ion_job_finished",
    "ion_job_dead_lettered",
    "ion_event_published",
    "ion_serve_started",
    "ion_serve_stopped",
)
"""The hooks that are told what happened."""

TRACING = "ion_traceparent"

GIVEN_SETTINGS = (*OBSERVING, TRACING)
"""The hooks that are called with ``settings``."""


@dataclass(frozen=True, kw_only=True)
class Observing:
    """``hooks`` of a plugin, and the ``settings`` that they are called with; None where it takes none."""

    hooks: pluggy.PluginManager
    settings: Any = field(default=None, repr=False)


def has(hooks: pluggy.PluginManager, hook: str) -> bool:
    """Whether the plugin implements the hook."""
    return bool(getattr(hooks.hook, hook).get_hookimpls())
