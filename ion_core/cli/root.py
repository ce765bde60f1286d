"""The top of the command line: every command by name, imported only once it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

import ion_core
from ion_core.cli.group import Group
from ion_core.cli.output import give_back
from ion_core.cli.whole import PROGRAM

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@dataclass(frozen=True)
class Listed:
    """A command as ``--help`` lists it. It is the attribute ``command`` of ``ion_core.cli.<module>``."""

    name: str
    module: str
    short_help: str


SECTIONS = {
    "Run a pipeline": (
        Listed("init", "pipeline.init", "Start a project: a configuration with one module, and a recorded case."),
        Listed("serve", "pipeline.serve", "Run the modules: take events, run jobs, commit what they leave."),
        Listed("check", "pipeline.check", "Check a configuration: mistakes, the graph of its modules, its runtimes."),
        Listed("config", "pipeline.config", "Show the configuration in force, or its JSON Schema."),
        Listed("migrate", "pipeline.migrate", "Bring what is stored and what waits to another configuration."),
    ),
    "Events and what became of them": (
        Listed("event", "event.commands", "Publish events; look at those that wait."),
        Listed("trace", "flow.trace", "Follow events through the pipeline."),
        Listed("files", "flow.files", "List the files of a flow, or fetch them into a directory."),
        Listed("why", "flow.why", "Say what happened to an event at each module, why, and what to type next."),
        Listed("logs", "flow.logs", "Print the log of every attempt for an event."),
        Listed("dlq", "event.dlq", "Dead letters: list, group, show, redrive, purge, export or import them."),
        Listed("gc", "flow.gc", "Remove old flows, and files of attempts that never committed."),
    ),
    "Write modules": (
        Listed("dev", "alone.dev", "Run a pipeline on this machine alone, or modules one by one in a directory."),
        Listed("debug", "module.debug", "Open the workspace of an attempt, or a shell in it."),
        Listed("replay", "module.replay", "Run a past event again and compare with what was committed."),
        Listed(
            "handler", "alone.handler", "Prepare and commit a workspace without a dispatcher, by command or by HTTP."
        ),
    ),
    "What there is": (
        Listed(
            "module",
            "module.commands",
            "List the modules; start, run, test, rename or remove one; drain, move or drop queues.",
        ),
        Listed("plugins", "installed.plugins", "List, examine or test the installed plugins; start one."),
        Listed("docs", "installed.docs", "Read the documentation that came with this version."),
        Listed("completion", "installed.completion", "Print what has bash, zsh or fish complete the command line."),
        Listed("version", "installed.version", "Print the version."),
    ),
}

COMMANDS = {listed.name: listed for section in SECTIONS.values() for listed in section}

ALIASES = {"plugin": "plugins"}
"""Other names of commands, which no list has."""

TAKEN = frozenset({*COMMANDS, *ALIASES})
"""Names that no command of a plugin may have."""


class Root(Group):
    """Knows its commands by heart; those of plugins are looked for when a name is not among them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name. One of a plugin finds in its context what is configured."""
        if (listed := COMMANDS.get(ALIASES.get(cmd_name, cmd_name))) is not None:
            command: click.Command = importlib.import_module(f"ion_core.cli.{listed.module}").command
            return command
        from ion_core.cli.session import ConfiguredHere
        from ion_core.contracts.command import ASKED

        ctx.meta[ASKED] = ConfiguredHere()
        return _plugin_command(cmd_name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Without importing any command; those of plugins where none of ours begins so."""
        from click.shell_completion import CompletionItem

        ours = [
            CompletionItem(it.name, help=it.short_help) for it in COMMANDS.values() if it.name.startswith(incomplete)
        ]
        return ours or click.Command.shell_complete(self, ctx, incomplete) or _plugin_commands(incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(listed.name.ljust(width), listed.short_help) for listed in section])


def _plugin_command(name: str) -> click.Command | None:
    """The command of that name that a plugin brings, of the plugins that the configuration allows."""
    from ion_core.cli.session import plugins_allowed

    command = plugins_allowed(None).commands(taken=TAKEN).get(name)
    give_back()  # what it prints is the result
    return command


def _plugin_commands(incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from ion_core.cli.session import plugins_allowed

    found = plugins_allowed(None).commands(taken=TAKEN)
    give_back()
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"{PROGRAM} {ion_core.__version__}")
        ctx.exit()


@click.group(
    cls=Root,
    name=PROGRAM,
    epilog="Plugins may bring more commands: `ion-core plugins list` shows them.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def root() -> None:
    """Chains containerised steps: an event goes in, modules run, committed work comes out."""
