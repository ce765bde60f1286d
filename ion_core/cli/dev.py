"""``ion-core dev``."""

from __future__ import annotations

import click

from ion_core.cli.dev_run import run


@click.group("dev")
def command() -> None:
    """Run a pipeline on this machine alone, to try it."""


command.add_command(run)
