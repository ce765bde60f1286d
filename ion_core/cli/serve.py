"""``ion-core serve``."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import click

from ion_core.cli.options import Options, with_config

if TYPE_CHECKING:
    from ion_core.app import Watch
    from ion_core.cli.status_line import StatusLine
    from ion_core.config import Config

LEVELS = ("debug", "info", "warning", "error")


@click.command("serve")
@with_config
@click.option(
    "--until-idle",
    is_flag=True,
    help="End once nothing is pending: 0 if all went well, 1 if a job was dead-lettered.",
)
@click.option("--log-level", type=click.Choice(LEVELS), help="What to log. Default: info, with --verbose debug.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="text for people, json for programs: one object a line. Default: text.",
)
@click.pass_context
def command(ctx: click.Context, options: Options, until_idle: bool, log_level: str | None, log_format: str) -> None:
    """Run the modules: take events, run jobs, commit what they leave.

    Logs to stderr; on a terminal a live line below them counts what runs, waits and is done. The first SIGTERM or
    SIGINT (Ctrl-C) lets running jobs finish, the second stops them; their events come back at the next start.

    \b
    Example:
      ion-core serve --config ion.yaml --until-idle
    """
    from ion_core.cli.session import load

    line = _log(log_format, log_level or ("debug" if options.verbose else "info"))
    config = load(options, logs_already=True)
    ctx.exit(_serve(config, until_idle=until_idle, line=line))


def _serve(config: Config, *, until_idle: bool, line: StatusLine | None) -> int:
    import asyncio

    from ion_core import app

    watch = None if line is None else _watch(line)
    return asyncio.run(app.serve(config, environ=os.environ, until_idle=until_idle, watch=watch))


def _log(log_format: str, level: str) -> StatusLine | None:
    """Set logging up; the live line, where there is a terminal to show it."""
    from ion_core.cli.logging_setup import JsonFormatter, TextFormatter, log_to

    handler: logging.Handler
    line = None
    if log_format == "text" and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from ion_core.cli.status_line import StatusLine

        handler = line = StatusLine(sys.stderr)
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    log_to(handler, getattr(logging, level.upper()))
    return line


def _watch(line: StatusLine) -> Watch:
    from ion_core.cli.status_line import Counts, keep_showing
    from ion_core.dispatcher import Dispatcher

    async def watch(dispatcher: Dispatcher) -> None:
        await keep_showing(line, Counts(dispatcher))

    return watch
