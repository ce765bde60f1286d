"""Where the process begins and ends: every error becomes text on stderr and an exit code here, and only here."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TextIO

from ion_core import reaper
from ion_core.cli import ticket_line
from ion_core.cli.output import apart, hidden, hide_with, plain, say
from ion_core.cli.whole import BUG, PROGRAM, Options
from ion_core.errors import ConfigError, IonError, PluginFailed
from ion_core.signals import interruptible

BROKEN_PIPE = 141

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of standard output: those of files have been translated by who works with them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ion-core`` with these arguments (those of the process, if not given); the exit code."""
    if arguments is None and sys.getfilesystemencoding() != "utf-8":
        _begin_again_in_utf8()
    _open_closed_streams()
    os.umask(os.umask(0o077) | 0o002)  # nothing that everybody may write to, whatever the caller's umask
    hide_with(str)
    if arguments is None and reaper.is_wanted() and (ended := reaper.stand_by()) is not None:
        return ended
    options = Options(verbose=os.environ.get("ION_DEBUG") == "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with interruptible():
            code = _run(sys.argv[1:] if arguments is None else list(arguments), options, ours=arguments is None)
            if code != 128 + signal.SIGHUP:
                sys.stdout.flush()
    except KeyboardInterrupt as error:
        with suppress(OSError):  # the terminal may be what has gone
            say(f"{PROGRAM}: interrupted")
        code = 128 + getattr(error, "number", signal.SIGINT)
    except BrokenPipeError:
        _silence_stdout()
        code = BROKEN_PIPE
    except Exception as error:
        code = _failed(error, options)
    _let_go_of(sys.stdout, sys.stderr)
    if arguments is None and threading.active_count() > 1:
        from ion_core import ending

        ending.finish(code)
    return code


def _run(arguments: list[str], options: Options, *, ours: bool) -> int:
    if (step := ticket_line.read(arguments, os.environ)) is not None:
        with apart(), _seldom_collected() if ours else nullcontext():
            step.run(options)
        return 0
    from ion_core.cli import line  # and so click, which a step does without

    return line.run(arguments, options)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """For a process that does one short thing and ends: what it imports stays, and is not looked through for garbage.

    That is a fifth of such a process, half of it at the end, where all there is would be looked through once more.
    """
    gc.set_threshold(100_000)
    try:
        yield
    finally:
        gc.freeze()


def _failed(error: Exception, options: Options) -> int:
    if options.verbose:
        sys.stderr.write(hidden("".join(traceback.format_exception(error))))
    where = "is above" if options.verbose else "is shown with --verbose, or with ION_DEBUG=1 in the environment"
    if isinstance(error, IonError):
        problems: Sequence[str] = getattr(error, "problems", str(error).split("\n"))
        if isinstance(error, PluginFailed) and error.__cause__ is not None:
            problems = [f"{error} Its traceback {where}."]
        for problem in problems:
            say(plain(problem) if isinstance(error, ConfigError) else f"{PROGRAM}: {plain(problem)}")
        for line in getattr(error, "said", ()):
            say(f"  {plain(line)}")
        return options.exit_code(error)
    if isinstance(error, OSError) and error.filename is None and error.errno in NOT_WRITABLE:
        _silence_stdout()
        done = f" {plain(options.done)}" if options.done else ""
        say(f"{PROGRAM}: standard output: {error.strerror}. What was printed is not complete.{done}")
        return 1
    error = _first(error)
    what = f"{type(error).__name__}: {plain(str(error))}"
    if plugin := _plugin_at_fault(error):
        whose = f"the plugin {plugin} failed: it raised {what}. Please report it to its author"
    else:
        whose = f"a bug: {what}. Please report it"
    say(f"{PROGRAM}: {plain(whose)}; its traceback {where}.")
    return BUG


def _first(error: Exception) -> Exception:
    """Of a group, the first that is none: what a group says of itself tells nobody anything."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _plugin_at_fault(error: Exception) -> str:
    """The plugin whose code raised it, or called what raised it; '' where that was ours."""
    from ion_core.registry import plugin_packages

    packages = [
        str(frame.f_globals.get("__name__", "")).partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    plugins = {**plugin_packages(), "ion_core": ""}
    return next((plugins[package] for package in reversed(packages) if package in plugins), "")


def _begin_again_in_utf8() -> None:
    """Names are bytes of UTF-8, whatever the locale says that they are. Where it says UTF-8 this costs nothing.

    The arguments are the kernel's: what Python made of their bytes need not lead back to them.
    """
    from pathlib import Path

    try:
        arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        arguments = [os.fsencode(argument) for argument in sys.orig_argv]
    if sys.executable and len(arguments) > 1 and not sys.flags.utf8_mode:
        os.execv(sys.executable, [os.fsencode(sys.executable), b"-X", b"utf8", *arguments[1:]])


def _open_closed_streams() -> None:
    """Standard streams that the caller has closed are /dev/null; else the next file opened would take their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)  # as it is, where it has the number already
            os.set_inheritable(number, True)
            if opened != number:
                os.close(opened)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the end
            setattr(sys, name, stream)


def _let_go_of(*streams: TextIO | None) -> None:
    """Of a terminal that is closed: what was not written to it in time does not change the exit code."""
    for stream in streams:
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            if error.errno == errno.EIO and stream is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _silence_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain about it at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open until the process ends
