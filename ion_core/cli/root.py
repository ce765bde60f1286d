"""The top of the command line: every command by name, imported only once it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click

import ion_core

PROGRAM = "ion-core"


@dataclass(frozen=True)
class Listed:
    """A command as ``--help`` lists it. It is the attribute ``command`` of ``ion_core.cli.<module>``."""

    name: str
    module: str
    short_help: str


SECTIONS = {
    "Run a pipeline": (
        Listed("init", "init", "Start a project: a configuration with one module, and a recorded case."),
        Listed("serve", "serve", "Run the modules: take events, run jobs, commit what they leave."),
        Listed("check", "check", "Check a configuration: mistakes, the graph of its modules, its runtimes."),
        Listed("config", "config", "Show the configuration in force, or its JSON Schema."),
    ),
    "Events and what became of them": (
        Listed("event", "event", "Publish events; look at those that wait."),
        Listed("trace", "trace", "Follow events through the pipeline."),
        Listed("logs", "logs", "Print the log of every attempt for an event."),
        Listed("dlq", "dlq", "Dead letters: list, show, redrive or purge them."),
        Listed("gc", "gc", "Remove old flows, and files of attempts that never committed."),
    ),
    "Write modules": (
        Listed("dev", "dev", "Run a pipeline on this machine alone, or modules one by one in a directory."),
        Listed("debug", "debug", "Open the workspace of an attempt, or a shell in it."),
        Listed("replay", "replay", "Run a past event again and compare with what was committed."),
        Listed("handler", "handler", "Prepare and commit a workspace without a dispatcher, by command or by HTTP."),
    ),
    "What there is": (
        Listed("module", "module", "List the modules; start, run, record and test one."),
        Listed("plugins", "plugins", "List the installed plugins and what they provide."),
        Listed("version", "version", "Print the version."),
    ),
}

COMMANDS = {listed.name: listed for section in SECTIONS.values() for listed in section}


class Root(click.Group):
    """Knows its commands by heart; those of plugins are looked for when a name is not among them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (listed := COMMANDS.get(cmd_name)) is not None:
            command: click.Command = importlib.import_module(f"ion_core.cli.{listed.module}").command
            return command
        return _plugin_command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        if (command := self.get_command(ctx, name)) is None:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise click.UsageError(f'no command "{name[:80]}".{hint}', ctx)
        return name, command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(listed.name.ljust(width), listed.short_help) for listed in section])


def _plugin_command(name: str) -> click.Command | None:
    """The command of that name that a plugin brings, of the plugins that the configuration allows."""
    from ion_core.cli.session import plugins_allowed

    return plugins_allowed(None).commands(taken=COMMANDS).get(name)


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
