"""``ion-core init``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ion_core.cli.options import PathText, verbose_option
from ion_core.cli.output import out, plain, say, to_json

SCHEMA = "ion.schema.json"
"""Named in the first line of a new project's ion.yaml."""
FIRST = "welcome"
"""The module of a new project."""


@click.command("init")
@click.argument("directory", metavar="[DIRECTORY]", type=PathText(), default=".")
@verbose_option
def command(directory: str) -> None:
    """Start a project: a configuration with one module, and a recorded case.

    In DIRECTORY (default: the working directory) it writes ion.yaml, README.md, .gitignore, a module in Python and a
    recorded case for it, and ion.schema.json, by which editors complete and check ion.yaml. All of it runs as it is. No
    file is written over: one that is there is an error.

    \b
    Example:
      ion-core init pipeline && cd pipeline && ion-core module test
    """
    from ion_core.cli.logging_setup import log_warnings
    from ion_core.cli.module.init import checked_names
    from ion_core.cli.session import plugins_come_in
    from ion_core.config import json_schema
    from ion_core.registry import load_plugins
    from ion_core.scaffold import NewFile, module_entry, module_files, project_files, with_module, write_new

    log_warnings()
    names = checked_names(FIRST, (), ())
    files = project_files(names)
    config = with_module(files["ion.yaml"].content, FIRST, module_entry("python", names), where="ion.yaml")
    with plugins_come_in():
        registry = load_plugins()
    schema = to_json(json_schema(registry), indent=2).encode() + b"\n"
    files |= {"ion.yaml": NewFile(config), SCHEMA: NewFile(schema), **module_files("python", names)}
    for path in write_new(Path(directory), files):
        out(plain(str(path)))
    there = "" if Path(directory) == Path() else f"cd {shlex.quote(directory)}, then: "
    say(f"Try it: {plain(there)}ion-core check; ion-core module test. What more there is to do is in README.md.")
