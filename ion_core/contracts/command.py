"""What a command that a plugin brings may ask of the command line that it is part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from ion_core.contracts.provider import Reach

ASKED = "ion_core.configured"
"""Where ``configured`` finds it, in the ``meta`` of click's context."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What has to be known of a pipeline by whoever prepares a place where it is to be served.

    ``file``           the configuration.
    ``messaging``      how a message about its broker begins: ``ion.yaml:3:1: messaging``.
    ``broker``         the broker's provider.
    ``broker_reach``   who else reaches that, as far as its settings tell: other pods or hosts only by network.
    ``drain_timeout``  how long ``serve`` takes at most to end.
    ``runtimes``       where each module runs: names under ``runtimes``.
    """

    file: Path
    messaging: str
    broker: str
    broker_reach: Reach | None
    drain_timeout: timedelta
    runtimes: Mapping[str, str]


class Configured(Protocol):
    """The configuration in force, as far as a plugin's own sections go."""

    def services(self, provider: str, *, config: str | None = None) -> Mapping[str, Any]:
        """The settings of each service of that provider, under the name it has in the configuration.

        ``config`` is a path, as of an option ``--config``; None is where every command looks. Raises ConfigError.
        """

    def runtimes(self, provider: str, *, config: str | None = None) -> Mapping[str, Any]:
        """The settings of each runtime or executor of that provider, under the name it has in the configuration.

        Raises ConfigError, also where there is none.
        """

    def observers(self, provider: str, *, config: str | None = None) -> Mapping[str, Any]:
        """The settings of each section of that observer, under its name in the configuration.

        Without a section it is there under its own name where it needs no setting. Raises ConfigError.
        """

    def pipeline(self, *, config: str | None = None) -> Pipeline:
        """What is served as a whole. Raises ConfigError, also for what its runtimes tell that they do not offer."""

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
