"""``ion-core plugins new``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ion_core.cli.options import PathText, Text, verbose_option
from ion_core.cli.output import out, plain, say
from ion_core.errors import UsageError

KINDS = ("broker", "runtime", "executor", "blobs", "documents", "service", "observer")


@click.command("new")
@click.argument("name", metavar="NAME", type=Text())
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What it provides, or that it observes.")
@click.option("--directory", metavar="DIR", type=PathText(), help="Where it is written. Default: ion-NAME.")
@verbose_option
def new(name: str, kind: str, directory: str | None) -> None:
    """Start a plugin: a distribution with a provider called NAME that works, its tests, its README and a CI file.

    With `--kind observer` it is an observer of that name. Either is small and real, keeps every rule of its contract
    and has a test for each: replace its inside by yours, bit by bit, while the tests stay green. No file is written
    over, and no name taken that one of that kind has among the plugins that are installed.

    \b
    Example:
      ion-core plugins new shelf --kind blobs && cd ion-shelf
      pip install -e '.[test]' && pytest
    """
    from ion_core.cli.logging_setup import log_warnings
    from ion_core.cli.session import plugins_come_in
    from ion_core.registry import BESIDE, load_plugins
    from ion_core.scaffold import PLUGIN_NAME, SKELETONS, plugin_files, write_new

    name = name.removeprefix("ion-")
    if not PLUGIN_NAME.fullmatch(name) or len(name) > 40:
        raise UsageError(
            f'a plugin cannot be called "{name[:80]}": use up to 40 lower-case letters and digits, with single '
            "hyphens between, a letter first."
        )
    if name == "core":
        raise UsageError('a plugin cannot be called "core": ion-core is Ion itself, which it would take the place of.')
    log_warnings()
    with plugins_come_in():
        registry = load_plugins()
    asked = SKELETONS[kind].kind
    place = next((it for it, beside in BESIDE.items() if asked in beside), asked)
    if name in registry.names(place):
        there = f"{registry.kind_of(place, name).one} of {registry.plugin_of(place, name)}"
        raise UsageError(
            f'{asked.one} cannot be called "{name}": {there} is, and a configuration chooses by the name. Take another.'
        )
    where = Path(directory or f"ion-{name}")
    for path in write_new(where, plugin_files(kind, name)):
        out(plain(str(path)))
    there = shlex.quote(str(where))
    say(f"Try it: cd {plain(there)}, then: pip install -e '.[test]'; pytest. What more there is to do is in README.md.")
