"""Where the process begins and ends: every error becomes text on stderr and an exit code here, and only here."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from ion_core.cli.options import Options
from ion_core.cli.output import plain, say
from ion_core.cli.root import PROGRAM, root
from ion_core.errors import ConfigError, IonError

INTERRUPTED = 130
BROKEN_PIPE = 141
BUG = 70

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of standard output: those of files have been translated by who works with them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ion-core`` with these arguments (those of the process, if not given); the exit code."""
    options = Options(verbose=os.environ.get("ION_DEBUG") == "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments), options)
        sys.stdout.flush()
    except click.ClickException as error:
        code = _misused(error)
    except (click.Abort, KeyboardInterrupt):
        say(f"{PROGRAM}: interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        code = BROKEN_PIPE
    except Exception as error:
        code = _failed(error, options)
    return code


def _run(arguments: list[str], options: Options) -> int:
    if "_ION_CORE_COMPLETE" in os.environ:  # a shell asks how to go on; click answers and exits
        root.main(arguments, prog_name=PROGRAM)
    try:
        with root.make_context(PROGRAM, arguments, obj=options) as context:
            root.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def _misused(error: click.ClickException) -> int:
    """Click's own complaints in our form; a group without a command shows its help."""
    context = getattr(error, "ctx", None)
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return error.exit_code
    say(f"{PROGRAM}: {plain(error.format_message())}")
    if context is not None:
        say(f"Try `{context.command_path} --help`.")
    return error.exit_code


def _failed(error: Exception, options: Options) -> int:
    if options.verbose:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, IonError):
        problems: Sequence[str] = getattr(error, "problems", str(error).split("\n"))
        for problem in problems:
            say(plain(problem) if isinstance(error, ConfigError) else f"{PROGRAM}: {plain(problem)}")
        return error.exit_code
    if isinstance(error, OSError) and error.filename is None and error.errno in NOT_WRITABLE:
        _silence_stdout()
        say(f"{PROGRAM}: standard output: {error.strerror}. What was printed is not complete.")
        return 1
    where = "is above" if options.verbose else "is shown with --verbose, or with ION_DEBUG=1 in the environment"
    say(f"{PROGRAM}: a bug: {type(error).__name__}: {plain(str(error))}. Please report it; its traceback {where}.")
    return BUG


def _silence_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain about it at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open until the process ends
