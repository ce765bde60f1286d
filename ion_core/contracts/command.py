"""What a command that a plugin brings may ask of the command line that it is part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

ASKED = "ion_core.configured"
"""Where ``configured`` finds it, in the ``meta`` of click's context."""


class Configured(Protocol):
    """The configuration in force, as far as a plugin's own sections go."""

    def services(self, provider: str, *, config: str | None = None) -> Mapping[str, Any]:
        """The settings of each service of that provider, under the name it has in the configuration.

        ``config`` is a path, as of an option ``--config``; None is where every command looks. Raises ConfigError.
        """

    def event_types(self, *, config: str | None = None) -> Sequence[str]:
        """The event types that some module takes, sorted. Raises ConfigError."""


def configured() -> Configured:
    """Inside a command that a plugin registered. Raises RuntimeError anywhere else."""
    import click

    context = click.get_current_context(silent=True)
    if context is None or ASKED not in context.meta:
        raise RuntimeError("only a command of ion-core can be told what is configured")
    found: Configured = context.meta[ASKED]
    return found
