"""``ion-core dlq export`` and ``import``."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ion_core.cli.event.letters import Which, each, narrowed, run_on
from ion_core.cli.named import no_module
from ion_core.cli.options import PathText, json_option, with_config
from ion_core.cli.output import out_json, plain, say
from ion_core.cli.progress import progress
from ion_core.cli.whole import Options
from ion_core.errors import IonError
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.letters import Exported, Imported


@click.command("export")
@click.argument("file", metavar="FILE", type=PathText())
@narrowed
@click.option("--files", "with_files", is_flag=True, help="The events' documents and files too, in FILE.files beside.")
@json_option
@with_config
def export(
    options: Options,
    file: str,
    module: str | None,
    reason: str | None,
    event_type: str | None,
    with_files: bool,
    as_json: bool,
) -> None:
    """Write dead letters to a file, and leave them where they are.

    It has a line of JSON for each: its message with headers, reason, attempts, the last lines of its log and the time
    of its death. What a message refers to, the event's document and files, stays in the stores unless --files is given.
    A file that is there already is refused. `import` reads it, here or where another configuration is in force.

    \b
    Example:
      ion-core dlq export dead.jsonl --reason "exit code 3"
    """
    from ion_core.letters import export as write

    which = Which(module=module, reason=reason, type=event_type)

    async def work(app: App) -> Exported:
        documents, blobs = (await app.documents(), await app.blobs()) if with_files else (None, None)
        async with aclosing(each(app, which)) as letters:
            return await write(letters, Path(file), documents=documents, blobs=blobs)

    told = run_on(options, work, reading=True)
    if as_json:
        out_json({"letters": told.letters, "documents": told.documents, "files": told.files, "missing": told.missing})
    else:
        beside = f", with {counted(told.documents, 'document')} and {counted(told.files, 'file')}" if with_files else ""
        say(f"{counted(told.letters, 'dead letter')} in {plain(file)}{beside}; they are still where they were.")
    if told.missing:
        raise IonError("\n".join([f"{file}: lacks {counted(len(told.missing), 'file')}:", *told.missing[:20]]))


@click.command("import")
@click.argument("file", metavar="FILE", type=PathText())
@json_option
@with_config
def import_letters(options: Options, file: str, as_json: bool) -> None:
    """Bring dead letters back that were exported; those that are there already stay as they are.

    Each goes among the dead letters of its module, with a new id, and waits there to be shown, redriven or purged. It
    may be repeated, and be cut short: the same again adds the rest. All of the file is checked before anything is
    added.

    \b
    Example:
      ion-core dlq import dead.jsonl
    """
    from ion_core.letters import add, read_export

    found = read_export(Path(file))

    async def work(app: App) -> Imported:
        await app.intake()
        broker = await app.broker()
        known = {*app.config.modules, *(queue.name for queue in await broker.queues())}
        for letter in found.letters:
            if letter.queue not in known:
                raise no_module(letter.queue, app.config.modules)
        with progress(len(found.letters), "importing") as done:
            return await add(found, broker=broker, documents=await app.documents(), blobs=await app.blobs(), done=done)

    told = run_on(options, work)
    if as_json:
        out_json({"imported": told.added, "there": told.there, "documents": told.documents, "files": told.files})
        return
    beside = [counted(count, what) for count, what in ((told.documents, "document"), (told.files, "file")) if count]
    text = f"{counted(told.added, 'dead letter')} imported{f', with {chr(32).join(beside)}' if beside else ''}"
    say(f"{text}; {told.there:,} were there already." if told.there else f"{text}.")
