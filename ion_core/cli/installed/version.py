"""``ion-core version``."""

from __future__ import annotations

import platform

import click

import ion_core
from ion_core.cli.options import json_option, verbose_option
from ion_core.cli.output import out, out_json
from ion_core.contracts import CONTRACT_VERSION


@click.command("version")
@verbose_option
@json_option
def command(as_json: bool) -> None:
    """Print the version."""
    if as_json:
        out_json({"version": ion_core.__version__, "contract": CONTRACT_VERSION, "python": platform.python_version()})
        return
    out(f"ion-core {ion_core.__version__}")
