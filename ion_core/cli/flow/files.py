"""``ion-core files``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.named import FlowOrEventId, ModuleName, no_module, now_and_then
from ion_core.cli.options import PathText, json_option, with_config
from ion_core.cli.output import out, out_array, out_table, plain, say, shown_ids
from ion_core.cli.whole import Options

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.flows import FileOfFlow


@click.command("files")
@click.argument("id", metavar="[CORRELATION_ID|EVENT_ID]", type=FlowOrEventId(), required=False)
@click.option("--get", "directory", metavar="DIR", type=PathText(), help="Fetch them into DIR, which is made.")
@click.option("--module", metavar="NAME", type=ModuleName(), help="Only those that this module made.")
@json_option
@with_config
def command(options: Options, id: str | None, directory: str | None, module: str | None, as_json: bool) -> None:
    """List the files of a flow, or fetch them into a directory.

    What came in, and what the modules made of it: of the newest flow, if no id is given. With an event's id, what that
    brings and what was made of it. The beginning of an id will do.

    With --get each goes to DIR/MODULE/EVENT_ID/NAME, what came in to DIR/_in/EVENT_ID/NAME, from whatever store it lies
    in, and is checked by its sha256. What is there with the same content is left as it is; where there is another file,
    nothing is fetched and the exit code is 2.

    \b
    Examples:
      ion-core files
      ion-core files 3f2a9c1b --module blur --get results
    """
    from ion_core.cli.session import load, run

    files = run(load(options), lambda app: _work(app, id, module, directory), reading=True)
    if as_json:
        out_array([_to_json(it, directory) for it in files])
        return
    if directory is not None:
        from ion_core.flows import path_of

        for it in files:
            out(plain(str(Path(directory) / path_of(it))), whole=True)
        return
    _list(options, files)


def _list(options: Options, files: Sequence[FileOfFlow]) -> None:
    whole = options.verbose
    ids = shown_ids((it.event_id for it in files), whole=whole)
    rows = [
        [it.file.name, f"{it.file.size:,}", f"from {it.module}" if it.came_in else it.module, ids[it.event_id]]
        for it in files
    ]
    out_table(["FILE", "BYTES", "MODULE", "OF EVENT"], rows, fit=not whole, cuttable=("FILE", "MODULE"))


async def _work(app: App, id: str | None, module: str | None, directory: str | None) -> list[FileOfFlow]:
    from ion_core.cli.ids import flow_or_event, newest_flow
    from ion_core.flows import fetch, files_of

    documents = await app.documents()
    event_id: str | None = None
    if id is None:
        correlation_id = await newest_flow(documents)
        if correlation_id is None:
            say("There are no flows. `ion-core event publish` starts one.")
            return []
        say(f"Of the newest flow, {plain(correlation_id)}:")
    else:
        correlation_id, event_id = await flow_or_event(documents, id)
    every = await files_of(documents, correlation_id, event_id)
    files = every if module is None else _made_by(module, app, every)
    if module is not None and not files and module not in app.config.modules:
        raise no_module(module, dict.fromkeys([*app.config.modules, *(it.module for it in every)]))
    if not files:
        say("There are no such files." if module is not None else "There are no files.")
    elif directory is not None:
        with _progress(sum(it.file.size for it in files)) as fetched:
            await fetch(files, Path(directory), blobs=await app.blobs(), fetched=fetched)
    return files


def _made_by(name: str, app: App, files: Sequence[FileOfFlow]) -> list[FileOfFlow]:
    """Those of that module, by whatever name it had; where there is none, what came in from somebody called so."""
    names = now_and_then(name, app.config.modules)
    made = [it for it in files if it.module in names and not it.came_in]
    return made or [it for it in files if it.module == name and name not in app.config.modules]


@contextlib.contextmanager
def _progress(size: int) -> Iterator[Callable[[FileOfFlow], None]]:
    """A bar on the terminal, if there is one, that grows with what it is told was fetched."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb" or not size:
        yield lambda it: None
        return
    with click.progressbar(length=size, label="Fetching", file=sys.stderr, show_eta=False) as bar:
        yield lambda it: bar.update(it.file.size)


def _to_json(it: FileOfFlow, directory: str | None) -> dict[str, Any]:
    said = {
        "name": it.file.name,
        "size": it.file.size,
        "sha256": it.file.sha256,
        "executable": it.file.executable,
        "key": it.file.key,
        "module": it.module,
        "cameIn": it.came_in,
        "eventId": it.event_id,
    }
    if directory is None:
        return said
    from ion_core.flows import path_of

    return said | {"path": str(Path(directory) / path_of(it))}
