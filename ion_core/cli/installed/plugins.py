"""``ion-core plugins`` and its ``list``; the other commands of the group are in files of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.group import Group
from ion_core.cli.installed.doctor import doctor
from ion_core.cli.installed.kit import test
from ion_core.cli.installed.new_plugin import new
from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import out_array, out_table, say
from ion_core.cli.whole import Options

if TYPE_CHECKING:
    from ion_core.registry import PluginInfo


@click.group("plugins", cls=Group)
def command() -> None:
    """List, examine or test the installed plugins; start one.

    `ion-core plugin` is the same.
    """


for _command in (new, doctor, test):
    command.add_command(_command)


@command.command("list")
@with_config
@json_option
def list_plugins(options: Options, as_json: bool) -> None:
    """List the plugins that the configuration allows (all that are installed, without one) and what they provide.

    A plugin that cannot be used is listed with the reason. The embedded providers are those of ion-core.
    """
    from ion_core.cli.session import plugins_allowed

    registry = plugins_allowed(options.config)
    if as_json:
        out_array(_fields(info) for info in registry.plugins)
        return
    rows = [[info.distribution, info.version or "-", *what] for info in registry.plugins for what in _provides(info)]
    out_table(["DISTRIBUTION", "VERSION", "PROVIDES", "CALLED"], rows)
    for distribution in registry.skipped:
        say(f"not loaded: {distribution} is installed, but not allowed (plugins in the configuration, or ION_PLUGINS)")


def _fields(info: PluginInfo) -> dict[str, Any]:
    return {
        "distribution": info.distribution,
        "version": info.version,
        "entryPoint": info.entry_point,
        "providers": {kind.value: list(names) for kind, names in info.providers.items()},
        "commands": list(info.commands),
        "observes": list(info.observes),
        "problem": info.problem,
    }


def _provides(info: PluginInfo) -> Iterator[tuple[str, str]]:
    """What it provides and how that is called; a line of its own for why it, or a part of it, cannot be used."""
    yield from ((kind.value, ", ".join(names)) for kind, names in info.providers.items())
    if info.commands:
        yield "command", ", ".join(info.commands)
    if info.observes:
        yield "observes", ", ".join(info.observes)
    if info.problem:
        yield "PROBLEM", info.problem
    elif not (info.providers or info.commands or info.observes):
        yield "-", "-"
