"""The reference of every command as Markdown: ``python -m ion_core.cli.reference docs/cli.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ion_core.cli.root import root
from ion_core.cli.whole import PROGRAM

HEAD = """\
# Command line

Made by `python -m ion_core.cli.reference docs/cli.md`; a test compares it with the program.

Results are on stdout, everything said to people on stderr; colour, and lines cut to fit, are for terminals
alone, so output can be piped as it is. The beginning of an id stands for it, where only one begins so.
`--json` prints data for programs: one object, or an array with one element a line. A mistake in the configuration is
a line `file:line:column: key: what is wrong`. What an exit code means is in [Operating](operating.md).

Environment: `ION_CONFIG` names the configuration, `ION_STATE` the state directory, `ION_PLUGINS=off` leaves installed
plugins out, `ION_DEBUG=1` shows tracebacks, and `ION_<SECTION>__<KEY>` sets one key of the configuration, such as
`ION_MESSAGING__PROVIDER`. `NO_COLOR` leaves colour out.
"""


def reference() -> str:
    """The whole page. It depends on nothing but the commands of ion-core itself."""
    parts = [HEAD]
    with _context(root, PROGRAM, None) as top:
        for path, context in _commands(top):
            level = "##" if len(path) < 3 else "###"
            parts.append(f"{level} {' '.join(path)}\n\n```text\n{context.get_help().rstrip()}\n```\n")
    return "\n".join(parts)


def _commands(context: click.Context) -> Iterator[tuple[list[str], click.Context]]:
    yield context.command_path.split(), context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield from _commands(_context(command, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, terminal_width=100, help_option_names=["-h", "--help"])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
