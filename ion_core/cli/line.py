"""The command line as click reads it: the command that is meant, called; what click complains of, in our form."""

from __future__ import annotations

import os

import click

from ion_core.cli.output import apart, plain, say
from ion_core.cli.root import root
from ion_core.cli.whole import PROGRAM, Options


def run(arguments: list[str], options: Options) -> int:
    """The exit code. Raises KeyboardInterrupt where a question was not answered, and what the command raises."""
    if "_ION_CORE_COMPLETE" in os.environ:  # a shell asks how a line may go on
        from ion_core.cli.completing import answer

        return answer(root, PROGRAM)
    try:
        with apart(), root.make_context(PROGRAM, arguments, obj=options) as context:
            root.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        return _misused(error)
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return 0


def _misused(error: click.ClickException) -> int:
    """Click's own complaints in our form; a group without a command shows its help."""
    context = getattr(error, "ctx", None)
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return error.exit_code
    message = error.format_message()
    if isinstance(error, click.MissingParameter):
        message = " ".join(message.split())  # what there is to choose from has lines of its own
    say(f"{PROGRAM}: {plain(message)}")
    if isinstance(error, click.MissingParameter) and (example := _example(context)):
        say(f"Such as `{example}`.")
    if context is not None:
        say(f"Try `{context.command_path} --help`.")
    return error.exit_code


def _example(context: click.Context | None) -> str:
    """The first one in the help of its command; '' where that has none of one line."""
    text = "" if context is None else context.command.help or ""
    found = [line.strip() for line in text.splitlines() if line.strip().startswith(f"{PROGRAM} ")]
    return found[0] if found and not found[0].endswith("\\") else ""
