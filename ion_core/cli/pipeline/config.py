"""``ion-core config show`` and ``schema``."""

from __future__ import annotations

import click

from ion_core.cli.group import Group
from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import out_json, results
from ion_core.cli.whole import Options


@click.group("config", cls=Group)
def command() -> None:
    """Show the configuration in force, or its JSON Schema."""


@command.command("show")
@with_config
@json_option
def show(options: Options, as_json: bool) -> None:
    """Print the configuration in force: file, environment and flags together, defaults filled in.

    Secrets, and whatever came from ${env:…}, ${file:…} or an ION_… variable, are printed as ********.
    """
    from ion_core.cli.session import load
    from ion_core.config import dump

    shown = dump(load(options))
    if as_json:
        out_json(shown, indent=2)
        return
    from ruamel.yaml import YAML

    yaml = YAML(pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 10_000
    yaml.dump(shown, results())


@command.command("schema")
@with_config
def schema(options: Options) -> None:
    """Print a JSON Schema of the configuration file, installed plugins included, for editors.

    \b
    Example:
      ion-core config schema > ion.schema.json
    """
    from ion_core.cli.session import plugins_allowed
    from ion_core.config import json_schema

    out_json(json_schema(plugins_allowed(options.config)), indent=2)
