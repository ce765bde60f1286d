"""What a shell is told of how a line may go on: commands, options, and values from configuration and state.

It is asked at every press of a key. So whatever goes wrong the answer is that there is nothing to say, and nothing is
ever printed beside it: the command itself will say what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from click.shell_completion import BashComplete, CompletionItem, ShellComplete, get_completion_class, split_arg_string

from ion_core.cli.whole import Options
from ion_core.contracts.provider import Reach

if TYPE_CHECKING:
    import click

    from ion_core.app import App
    from ion_core.config import Config

VARIABLE = "_ION_CORE_COMPLETE"
"""Set by the scripts that ``ion-core completion`` prints."""
SHELLS = ("bash", "zsh", "fish")

WITHIN = 1.0
"""Seconds after which what was read by then has to do."""
LOOKED_AT, SHOWN = 1_000, 50
"""Documents of which ids are taken, the newest, and how many of these are shown."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
"""What no shell reads anything into. Ids are any text."""


class _Bash(BashComplete):
    """As click's, but given the line as it was typed, not as bash cuts it: at colons too, of which ids may have some.

    What bash puts in is behind the last of these; so that is what it is told.
    """

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' answer type value
    COMPREPLY=()
    for answer in $(env COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \\
            COMP_WORD="${COMP_WORDS[COMP_CWORD]}" %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r type value <<< "$answer"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
    _put_in_already = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() or len(words) < 2 else words.pop()
        quoted = os.environ.get("COMP_WORD", "").startswith(("'", '"'))
        if ":" in os.environ.get("COMP_BREAKS", "") and not quoted:
            value = incomplete.partition("=")[2] if incomplete.startswith("--") else incomplete
            self._put_in_already = value[: value.rfind(":") + 1]
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{str(item.value).removeprefix(self._put_in_already)}"


def _class_for(shell: str) -> type[ShellComplete] | None:
    return _Bash if shell == "bash" else get_completion_class(shell)


def script(program: click.Command, name: str, shell: str) -> str:
    """What that shell is to read so that it asks."""
    kind = _class_for(shell)
    if kind is None:
        raise LookupError(shell)
    asking = kind(program, {}, name, VARIABLE)
    return asking.source_template % asking.source_vars()


def answer(program: click.Command, name: str) -> int:
    """Answer a shell that asks by ``VARIABLE``; the exit code. It never fails, nor says anything else."""
    shell, _, what = os.environ.get(VARIABLE, "").partition("_")
    kind = _class_for(shell)
    if kind is None or what != "complete":
        return 0
    shell_reads = _be_quiet()
    try:
        found = kind(program, {}, name, VARIABLE).complete()
    except (Exception, SystemExit):  # what it is, the command will say: see above
        return 0
    with os.fdopen(shell_reads, "w", encoding="utf-8") as answered:
        answered.write(found + "\n")
    return 0


def _be_quiet() -> int:
    """What plugins, and whatever they are made of, print goes nowhere, now or as it is flushed.

    Returns the file descriptor where the shell reads.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    shell_reads = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
    return shell_reads


def modules(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    return _fitting(_config(ctx).modules, incomplete)


def event_types(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    found = (types for it in _config(ctx).modules.values() for types in (*it.subscribes, *it.publishes))
    return _fitting(sorted(set(found)), incomplete)


def events(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    return _of_state(ctx, incomplete, flows=False)


def flows(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    return _of_state(ctx, incomplete, flows=True)


def dead_letters(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    config = _config(ctx)
    if not _is_at_hand(config.messaging.location):
        return []
    found: list[CompletionItem] = []

    async def read(app: App) -> None:
        broker = await app.broker()
        for queue in await broker.queues():
            async with broker.each_dead_letter(queue.name) as letters:
                async for letter in letters:
                    if len(found) == SHOWN:
                        return
                    if _fits(letter.id, incomplete):
                        found.append(CompletionItem(letter.id, help=queue.name))

    _run(config, read)
    return found


def queues_of_no_module(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    config = _config(ctx)
    if not _is_at_hand(config.messaging.location):
        return []
    found: list[str] = []

    async def read(app: App) -> None:
        queues = await (await app.broker()).queues()
        found.extend(it.name for it in queues if it.name not in config.modules)

    _run(config, read)
    return _fitting(found[:SHOWN], incomplete)


def cases(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Modules that have recorded cases; once there is a slash, their cases."""
    from ion_core.cases import case_names

    config = _config(ctx)
    names = case_names(config.path.parent, config.modules)
    return _fitting(names if "/" in incomplete else dict.fromkeys(it.partition("/")[0] for it in names), incomplete)


def _of_state(ctx: click.Context, incomplete: str, *, flows: bool) -> list[CompletionItem]:
    """The newest first, each with the type of its event."""
    config = _config(ctx)
    if not _is_at_hand(config.documents.location):
        return []
    found: dict[str, str] = {}

    async def read(app: App) -> None:
        from ion_core.events import EVENT_META

        async for document in (await app.documents()).find(EVENT_META, newest_first=True, limit=LOOKED_AT):
            id = document.correlation_id if flows else document.id
            if _fits(id, incomplete):
                found[id] = str(document.body.get("type", ""))
            if len(found) == SHOWN:
                return

    _run(config, read)
    return [CompletionItem(id, help=type) for id, type in found.items()]


def _config(ctx: click.Context) -> Config:
    """The one of ``--config`` and ``--state-dir`` on the line. Raises ConfigError."""
    from ion_core.cli.session import load

    return load(ctx.find_object(Options) or Options(), logs_already=True)


def _is_at_hand(location: object) -> bool:
    """Whether it can be asked at once: on this machine, or nowhere else that would take its time to answer."""
    reach = getattr(location, "reach", None)
    return reach is not None and reach <= Reach.MACHINE


def _run(config: Config, read: object) -> None:
    from ion_core.app import App

    async def within() -> None:
        try:
            async with asyncio.timeout(WITHIN), App.open(config, reading=True) as app:
                await read(app)  # type: ignore[operator]
        except TimeoutError:
            pass  # what was read by then has to do

    asyncio.run(within())


def _fitting(values: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(it) for it in values if _fits(it, incomplete)]


def _fits(value: str, incomplete: str) -> bool:
    return value.startswith(incomplete) and _PLAIN.fullmatch(value) is not None
