"""``ion-core module run``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ion_core.cli.event.commands import data_option, file_option
from ion_core.cli.event.given import TakesPairs, files_by_name
from ion_core.cli.module.rehearsing import (
    Place,
    Where,
    check_takes,
    load_for,
    module_named,
    rehearsed,
    scratch_for,
    stored_event,
    to_json,
    where_options,
)
from ion_core.cli.named import EventId, EventType, ModuleName
from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import out, out_json, out_table, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import InvalidEvent, UsageError
from ion_core.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from ion_core.app import App
    from ion_core.dataplane import DataPlane
    from ion_core.events import Event
    from ion_core.rehearsal import Rehearsal


@click.command("run", cls=TakesPairs)
@click.argument("name", type=ModuleName())
@click.option("--event", "event_id", metavar="ID", type=EventId(), help="For this event, which is stored.")
@click.option(
    "--type", "event_type", metavar="TYPE", type=EventType(None), help="For an event of this type, made for it."
)
@file_option
@data_option
@where_options
@json_option
@with_config
@click.pass_context
def run(
    ctx: click.Context,
    options: Options,
    name: str,
    event_id: str | None,
    event_type: str | None,
    files: Sequence[tuple[str, str]],
    data: Sequence[tuple[str, str]],
    dev: bool,
    runtime: str | None,
    as_json: bool,
) -> None:
    """Run one module once, and show what it would commit. Nothing is committed, nothing published.

    For an event that is stored (--event: its files are read from the configured stores; the beginning of its id will
    do), or for one made of --type, --file and --data. What the module prints goes to stderr as it comes. Shown are the
    files with their sizes, the insights and the events, or what is wrong: then this ends with 1. The broker is not
    needed; one attempt is made, within the module's timeout.

    \b
    Examples:
      ion-core module run detect --type photo.received --file me.jpg
      ion-core module run detect --event 3f2a9c1b
    """
    from ion_core.cli.session import run as run_app

    if (event_id is None) == (event_type is None):
        raise click.UsageError(
            "for which event? Give either --event ID, or --type TYPE with its --file and --data.", ctx
        )
    if event_id is not None and (files or data):
        raise click.UsageError("--file and --data make a new event: give --type with them, or --event alone.", ctx)
    where = Where(dev=dev, runtime=runtime)
    named = files_by_name(files)
    config = load_for(options, where, stored=event_id is not None, said_by="module run")
    module = module_named(config, name)

    async def work(app: App) -> bool:
        async with scratch_for(app, module, where) as place:
            if event_id is not None:
                event, dataplane = await stored_event(app, event_id), await app.dataplane()
                check_takes(module, event.type)
            else:
                event, dataplane = await _made(app, place, event_type or "", data, named)
            async with rehearsed(place, event, dataplane) as rehearsal:
                out_json(to_json(rehearsal)) if as_json else show(rehearsal)
                return rehearsal.failure is None

    ctx.exit(0 if run_app(config, work) else 1)


async def _made(
    app: App, place: Place, event_type: str, data: Sequence[tuple[str, str]], files: dict[str, Path]
) -> tuple[Event, DataPlane]:
    """An event for this alone, and where it is stored: a place of its own."""
    from ion_core.dataplane import DataPlane
    from ion_core.intake import Intake

    check_takes(place.module, event_type, new=True)
    blobs = await app.blobs_at(place.scratch.path / "blobs")
    dataplane = DataPlane(blobs, await app.documents(), await app.broker(), app.observers)
    try:
        event = Intake(dataplane, [place.module]).checked(event_type, name="cli", data=data, files=files)
    except InvalidEvent as error:
        raise UsageError("\n".join(plain(problem) for problem in error.problems)) from error
    return await dataplane.store(event, files), dataplane


def show(rehearsal: Rehearsal) -> None:
    """What would be committed, for people."""
    name, seconds = rehearsal.module.name, f"{rehearsal.seconds:.3f} s"
    if rehearsal.failure is not None:
        out(f"{name} would commit nothing after {seconds}: {plain(str(rehearsal.failure))}")
        return
    counts = [
        counted(len(found), what)
        for what, found in (("file", rehearsal.files), ("insight", rehearsal.insights), ("event", rehearsal.events))
    ]
    out(f"{name} would commit {', '.join(counts)} after {seconds}")
    for line in rehearsal.committing:
        say(plain(line))
    out_table(["FILE", "BYTES", "SHA256"], [[it.name, f"{it.size:,}", it.sha256] for it in rehearsal.files])
    out_table(["INSIGHT", "VALUE"], [[key, value] for key, value in rehearsal.insights])
    for event in rehearsal.events:
        out(f"event {event.type}  {event.context.event_id}")
        for file in event.files:
            out(f"  file {plain(file)}")
        for key, value in event.data:
            out(f"  {plain(key)}={plain(value)}")
