"""``ion-core serve``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import with_config
from ion_core.cli.whole import Options
from ion_core.signals import hangup_held, has_terminal

if TYPE_CHECKING:
    from ion_core.app import Dispatching, Watch
    from ion_core.cli.logging_setup import Lines
    from ion_core.cli.pipeline.status_line import StatusLine
    from ion_core.config import Config

AUTO = "auto"
MOST_WORKERS = 256
LEVELS = ("debug", "info", "warning", "error")


class WorkersType(click.ParamType):  # type: ignore[type-arg]
    """A number of processes, or ``auto``: as many as there are cores for this one."""

    name = "workers"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value == AUTO:
            return len(os.sched_getaffinity(0))
        if not value.isdecimal() or not 1 <= int(value) <= MOST_WORKERS:
            self.fail(f"must be a number from 1 to {MOST_WORKERS}, or auto (got {value[:40]!r})", param, ctx)
        return int(value)


@click.command("serve")
@with_config
@click.option(
    "--until-idle",
    is_flag=True,
    help="End once nothing is pending: 0 if all went well, 1 if a job was dead-lettered, 75 if the broker took an "
    "event back and nobody can tell what became of it.",
)
@click.option(
    "--workers",
    type=WorkersType(),
    default=1,
    help="So many processes run the jobs, and share what concurrency and warm allow; auto: as many as there are cores. "
    "Default: 1, this one.",
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
def command(
    ctx: click.Context, options: Options, until_idle: bool, workers: int, log_level: str | None, log_format: str
) -> None:
    """Run the modules: take events, run jobs, commit what they leave.

    Logs to stderr; on a terminal with short ids (in full with --verbose), in colour (unless NO_COLOR is set), and with
    a live line below that counts what runs, waits and is done. The first SIGTERM, SIGINT (Ctrl-C) or SIGQUIT lets
    running jobs finish, the second stops them; their events come back at the next start. A third ends this within
    seconds, and names what hangs. SIGHUP does the same where there is a terminal, which may be closed; without one it
    has services take over from the configuration, read again, what they can, such as secrets.

    With --workers a signal to this process is one to all of them. A worker that dies is replaced, and what it had in
    work comes back; services run once, in this process.

    \b
    Example:
      ion-core serve --config ion.yaml --until-idle
    """
    from ion_core.cli.session import load, load_again

    level = log_level or ("debug" if options.verbose else "info")
    lines = _log(log_format, level, whole=options.verbose)
    terminal = has_terminal()
    with nullcontext() if terminal else hangup_held():  # it ends no serve that is about to begin, or to end
        config = load(options, logs_already=True)
        again = None if terminal else partial(load_again, options, config)
        ctx.exit(_serve(config, workers, until_idle=until_idle, lines=lines, again=again))


def _serve(config: Config, workers: int, *, until_idle: bool, lines: Lines, again: Callable[[], Config] | None) -> int:
    from ion_core import app, ending
    from ion_core.cli.pipeline.status_line import StatusLine

    watch = _watch(lines) if isinstance(lines, StatusLine) else None
    if workers == 1:
        return ending.run(app.serve(config, environ=os.environ, until_idle=until_idle, watch=watch, again=again))
    return app.serve_with_workers(
        config,
        workers,
        environ=os.environ,
        log_to=partial(_log_to, lines.formatter, logging.getLogger().level),
        say=lines.say,
        until_idle=until_idle,
        watch=watch,
        again=again,
    )


def _log_to(formatter: logging.Formatter | None, level: int, worker: int, tell: Callable[[str], None]) -> None:
    """In a worker: what it logs is made lines as here, and told instead of printed."""
    from ion_core.cli.logging_setup import Told, log_to

    handler = Told(tell, worker)
    handler.setFormatter(formatter)
    log_to(handler, level)


def _log(log_format: str, level: str, *, whole: bool) -> Lines:
    """Set logging up; where there is a terminal it is a ``StatusLine``. ``whole``: with ids in full there, too."""
    from ion_core.cli.logging_setup import JsonFormatter, Lines, TerminalFormatter, TextFormatter, log_to

    if log_format == "text" and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from ion_core.cli.pipeline.status_line import StatusLine

        handler: Lines = StatusLine(sys.stderr)
    else:
        handler = Lines(sys.stderr)
    text = TerminalFormatter if sys.stderr.isatty() and not whole else TextFormatter
    handler.setFormatter(JsonFormatter() if log_format == "json" else text())
    log_to(handler, getattr(logging, level.upper()))
    return handler


def _watch(line: StatusLine) -> Watch:
    from ion_core.cli.pipeline.status_line import Counts, keep_showing

    async def watch(dispatcher: Dispatching) -> None:
        await keep_showing(line, Counts(dispatcher))

    return watch
