"""``ion-core replay``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.module.rehearsing import (
    Where,
    load_for,
    module_named,
    rehearsed,
    scratch_for,
    stored_event,
    to_json,
    where_options,
)
from ion_core.cli.named import EventId, ModuleName
from ion_core.cli.options import Text, json_option, with_config
from ion_core.cli.output import JsonArray, out, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import DocumentNotFound, UsageError
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.commits import Commit
    from ion_core.events import Event
    from ion_core.modules import Module
    from ion_core.rehearsal import Rehearsal
    from ion_core.rehearsal.compare import Difference, EventDifference, FileDifference, PairsDifference


@click.command("replay")
@click.argument("event_id", type=EventId())
@click.option(
    "--module", "name", metavar="NAME", type=ModuleName(), help="Only this module. Default: all that committed."
)
@click.option("--image", metavar="IMAGE", type=Text(), help="Run this image instead of the module's.")
@where_options
@json_option
@with_config
@click.pass_context
def command(
    ctx: click.Context,
    options: Options,
    event_id: str,
    name: str | None,
    image: str | None,
    dev: bool,
    runtime: str | None,
    as_json: bool,
) -> None:
    """Run a past event again and compare with what was committed.

    Its inputs are the same; nothing is committed or published. The module runs as it is now, or as --image; compared
    are its files (size and sha256), insights and events, pair by pair. Ends with 0 if all is the same, with 1 if
    anything differs or the module fails. The beginning of an event's id will do. With --json an array, one object for
    each module.

    \b
    Examples:
      ion-core replay 3f2a9c1b
      ion-core replay 3f2a9c1b --module detect --image ghcr.io/acme/detect:1.3
    """
    from ion_core.cli.session import run

    where = Where(dev=dev, runtime=runtime)
    config = load_for(options, where, stored=True, said_by="replay")
    if name is not None:
        module_named(config, name)

    async def work(app: App) -> bool:
        event = await stored_event(app, event_id)
        jobs = await _jobs(app, event, name)
        if image is not None and len(jobs) > 1:
            names = ", ".join(module.name for module, _ in jobs)
            raise UsageError(f"--image: of which module? Give --module with it. Modules that committed: {names}.")
        array, same = JsonArray(), True
        for module, commit in jobs:
            rehearsal, difference = await _replay(app, module, image, event, commit, where)
            same = same and rehearsal.failure is None and not difference
            if as_json:
                array.add(_to_json(commit, rehearsal, difference))
            else:
                for line in _lines(commit, rehearsal, difference):
                    out(line)
        if as_json:
            array.end()
        return same

    ctx.exit(0 if run(config, work) else 1)


async def _jobs(app: App, event: Event, name: str | None) -> list[tuple[Module, Commit]]:
    """The modules that committed for the event, with their commits. Raises DocumentNotFound if there is none.

    One that has another name now is called as it was: the ids of its events come from that.
    """
    from ion_core.jobs import Job

    dataplane = await app.dataplane()
    modules = list(app.config.modules.values()) if name is None else [app.config.modules[name]]
    found = []
    for module in modules:
        for called in (module.name, *module.formerly):
            committed = await dataplane.committed(Job(event=event, module=called).id)
            if committed is not None:
                found.append((replace(module, name=called), committed[0]))
    if not found:
        who = "no module of the configuration" if name is None else f"module {name}"
        raise DocumentNotFound(
            f"{who} has committed anything for event {event.context.event_id!r}, so there is nothing to compare with. "
            "`ion-core debug` prepares what an attempt saw."
        )
    return found


async def _replay(
    app: App, module: Module, image: str | None, event: Event, commit: Commit, where: Where
) -> tuple[Rehearsal, Difference]:
    from ion_core.rehearsal.compare import compare

    if image is not None:
        if not (await app.runtime(module.runtime)).capabilities.images:
            raise UsageError(f"--image: module {module.name} runs where no images run. Give --runtime podman with it.")
        module = replace(module, image=image)
    say(f"replaying {module.name} ...")
    async with (
        scratch_for(app, module, where) as place,
        rehearsed(place, event, await app.dataplane()) as rehearsal,
    ):
        return rehearsal, compare(commit, rehearsal)


def _to_json(commit: Commit, rehearsal: Rehearsal, difference: Difference) -> dict[str, Any]:
    failed = rehearsal.failure is not None
    return {
        "same": not failed and not difference,
        "committed": {"attempt": commit.attempt, "committedAt": commit.committed_at, "image": commit.image},
        "replayed": to_json(rehearsal),
        "difference": None if failed else difference.to_json(),
    }


def _lines(commit: Commit, rehearsal: Rehearsal, difference: Difference) -> Iterator[str]:
    """For people: ``-`` what was committed and is not there any more, ``+`` what was not."""
    name = rehearsal.module.name
    what = f"what attempt {commit.attempt} committed at {commit.committed_at}"
    if rehearsal.failure is not None:
        yield f"{name}: failed, unlike {what}: {plain(str(rehearsal.failure))}"
        return
    if not difference:
        yield f"{name}: the same as {what}"
        return
    yield f"{name}: differs from {what}"
    for file in difference.files:
        yield from _file(file)
    yield from _pairs("insight", difference.insights)
    for event in difference.events:
        yield from _event(event)


def _file(file: FileDifference) -> Iterator[str]:
    for sign, side in (("-", file.before), ("+", file.after)):
        if side is not None:
            yield f"  {sign} file {plain(file.name)}  {counted(side.size, 'byte')}  sha256 {side.sha256[:12]}"


def _pairs(what: str, pairs: PairsDifference, indent: str = "  ") -> Iterator[str]:
    for sign, side in (("-", pairs.removed), ("+", pairs.added)):
        for key, value in side:
            yield f"{indent}{sign} {what} {plain(key)}{f'={plain(value)}' if value else ''}"
    if pairs.reordered:
        yield f"{indent}~ {what}s in another order"


def _event(event: EventDifference) -> Iterator[str]:
    if event.before is None or event.after is None:
        sign, one = ("+", event.after) if event.before is None else ("-", event.before)
        assert one is not None, "it is on one side at least"
        yield f"  {sign} event {one.type}  {event.id}"
        return
    types = event.before.type if event.before.type == event.after.type else f"{event.before.type} -> {event.after.type}"
    yield f"  ~ event {types}  {event.id}"
    yield from _pairs("pair", event.data, "      ")
    yield from _pairs("file", event.files, "      ")
