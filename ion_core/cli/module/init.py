"""``ion-core module init`` and ``library``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ion_core.cli.options import Text, with_config
from ion_core.cli.output import out, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import UsageError
from ion_core.module_library import LIBRARY

if TYPE_CHECKING:
    from ion_core.scaffold import ModuleNames

LANGUAGES = ("python", "sh", "node", "go")


@click.command("init")
@click.argument("name", metavar="NAME", type=Text())
@click.option("--language", type=click.Choice(LANGUAGES), required=True, help="What it is written in.")
@click.option(
    "--subscribes", metavar="TYPE", type=Text(), multiple=True, help="A type it takes. Default: NAME.requested."
)
@click.option(
    "--publishes", metavar="TYPE", type=Text(), multiple=True, help="A type it may publish. Default: NAME.done."
)
@with_config
def init(options: Options, name: str, language: str, subscribes: Sequence[str], publishes: Sequence[str]) -> None:
    """Start a module: its program, a Containerfile, a recorded case, and its entry in the configuration.

    The program is in modules/NAME beside the configuration, the case in cases/NAME. It runs and passes its test as it
    is. Comments and order of the configuration stay, and no file is written over.

    \b
    Example:
      ion-core module init resize --language python --subscribes photo.received --publishes photo.resized
    """
    from ion_core.config import find_config
    from ion_core.config.reading import read_regular, reason
    from ion_core.scaffold import module_entry, module_files, replace_text, with_module, write_new

    names = checked_names(name, subscribes, publishes)
    config = find_config(options.config)
    try:
        raw = read_regular(config, 1 << 21)
    except (OSError, ValueError) as error:
        raise UsageError(f"{config}: cannot be read: {reason(error)}. `ion-core init` starts a project.") from None
    changed = with_module(raw, name, module_entry(language, names), where=str(config))
    written = write_new(config.parent, module_files(language, names))
    replace_text(config, changed)
    for path in written:
        out(plain(str(path)))
    say(f"Added modules.{name} to {plain(str(config))}. Try it: ion-core module test{options.flags()} {name}")


@click.command("library")
@click.argument("language", type=click.Choice(tuple(LIBRARY)))
def library(language: str) -> None:
    """Print the module library for a language: one file to copy beside a module, which needs nothing else.

    \b
    Example:
      ion-core module library python > ion_module.py
    """
    import sys

    from ion_core.module_library import library as text_of

    sys.stdout.write(text_of(language))


def checked_names(name: str, subscribes: Sequence[str], publishes: Sequence[str]) -> ModuleNames:
    """With defaults made of the name. Raises UsageError with everything that is wrong."""
    from ion_core.events import type_problem
    from ion_core.modules import MODULE_NAME
    from ion_core.scaffold import ModuleNames

    takes, makes = tuple(subscribes) or (f"{name}.requested",), tuple(publishes) or (f"{name}.done",)
    problems = []
    if not MODULE_NAME.fullmatch(name):
        wanted = "1 to 63 lower-case letters, digits and hyphens, no hyphen first or last"
        problems.append(f"NAME: must be {wanted} (got {name[:80]!r}).")
    else:
        given = [("--subscribes", it) for it in takes] + [("--publishes", it) for it in makes]
        problems += [f"{flag}: {problem}." for flag, it in given if (problem := type_problem(it))]
    if problems:
        raise UsageError("\n".join(plain(problem) for problem in problems))
    return ModuleNames(name=name, subscribes=tuple(dict.fromkeys(takes)), publishes=tuple(dict.fromkeys(makes)))
