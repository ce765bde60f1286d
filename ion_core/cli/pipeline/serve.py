"""``ion-core serve``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import click

from ion_core.cli.options import with_config
from ion_core.cli.whole import Options
from ion_core.signals import hangup_held, has_terminal

if TYPE_CHECKING:
    from ion_core.app import Watch
    from ion_core.cli.pipeline.status_line import StatusLine
    from ion_core.config import Config

LEVELS = ("debug", "info", "warning", "error")


@click.command("serve")
@with_config
@click.option(
    "--until-idle",
    is_flag=True,
    help="End once nothing is pending: 0 if all went well, 1 if a job was dead-lettered, 75 if the broker took an "
    "event back and nobody can tell what became of it.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    help="What to log; of libraries warnings at least, or all with debug. Default: info, with --verbose debug.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="text for people, json for programs: one object a line. Default: text.",
)
@click.pass_context
def command(ctx: click.Context, options: Options, until_idle: bool, log_level: str | None, log_format: str) -> None:
    """Run the modules: take events, run jobs, commit what they leave.

    Logs to stderr; on a terminal with short ids (in full with --verbose), in colour (unless NO_COLOR is set), and with
    a live line below that counts what runs, waits and is done. The first SIGTERM, SIGINT (Ctrl-C) or SIGQUIT lets
    running jobs finish, the second stops them; their events come back at the next start. A third ends this within
    seconds, and names what hangs. SIGHUP does the same where there is a terminal, which may be closed; without one it
    has services take over from the configuration, read again, what they can, such as secrets.

    \b
    Example:
      ion-core serve --config ion.yaml --until-idle
    """
    from ion_core.cli.session import load, load_again

    line = _log(log_format, log_level or ("debug" if options.verbose else "info"), whole=options.verbose)
    terminal = has_terminal()
    with nullcontext() if terminal else hangup_held():  # it ends no serve that is about to begin, or to end
        config = load(options, logs_already=True)
        again = None if terminal else partial(load_again, options, config)
        ctx.exit(_serve(config, until_idle=until_idle, line=line, again=again))


def _serve(config: Config, *, until_idle: bool, line: StatusLine | None, again: Callable[[], Config] | None) -> int:
    from ion_core import app, ending

    watch = None if line is None else _watch(line)
    return ending.run(app.serve(config, environ=os.environ, until_idle=until_idle, watch=watch, again=again))


def _log(log_format: str, level: str, *, whole: bool) -> StatusLine | None:
    """Set logging up; the live line, where there is a terminal to show it. ``whole``: with ids in full there, too."""
    from ion_core.cli.logging_setup import JsonFormatter, TerminalFormatter, TextFormatter, log_to

    handler: logging.Handler
    line = None
    if log_format == "text" and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from ion_core.cli.pipeline.status_line import StatusLine

        handler = line = StatusLine(sys.stderr)
    else:
        handler = logging.StreamHandler(sys.stderr)
    text = TerminalFormatter if sys.stderr.isatty() and not whole else TextFormatter
    handler.setFormatter(JsonFormatter() if log_format == "json" else text())
    log_to(handler, getattr(logging, level.upper()))
    return line


def _watch(line: StatusLine) -> Watch:
    from ion_core.cli.pipeline.status_line import Counts, keep_showing
    from ion_core.dispatcher import Dispatcher

    async def watch(dispatcher: Dispatcher) -> None:
        await keep_showing(line, Counts(dispatcher))

    return watch
