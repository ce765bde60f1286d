"""``ion-core dev``: a pipeline on this machine alone, or modules one by one by hand, in a development directory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.alone.asked import tell
from ion_core.cli.alone.dev_run import run
from ion_core.cli.alone.job_options import MaybeText, Types, development_option, joined, layout_at
from ion_core.cli.event.given import FilePair, files_by_name
from ion_core.cli.group import Group
from ion_core.cli.options import PathText, Text, json_option, verbose_option
from ion_core.cli.output import out, out_array, out_json, out_table, plain, say
from ion_core.errors import UsageError

if TYPE_CHECKING:
    from ion_core.development.layout import Layout, Place

LINK = Path("ion-module")
"""Leads to the place of the module that is selected, for people and editors."""

base_option = click.option(
    "--base-dir",
    "--basedir",
    "base",
    metavar="DIR",
    type=PathText(),
    default="ion",
    help="What the module sees as /ion/. Default: ion.",
)
types_option = click.option(
    "--event-types",
    "types",
    metavar="TYPE,…",
    type=Types(),
    multiple=True,
    help="What the module may publish; repeatable.",
)
parent_help = "The event that caused it. Default: what is known of it, then the selected module's, or none."


@click.group("dev", cls=Group)
def command() -> None:
    """Run a pipeline on this machine alone, or modules one by one in a directory.

    Modules one by one need no configuration: what is prepared and committed lies below .dev (--development.basedir, or
    $DEVELOPMENT_BASEDIR), nested as the events are; `ion-core docs development` walks through it.
    """


command.add_command(run)


@command.group("module")
def module() -> None:
    """Prepare and commit modules, list them, select one."""


@command.group("event")
def event() -> None:
    """Look at what modules published."""


@module.command("init")
@click.option("--files", "listed", metavar="PATH,…", type=Text(None), multiple=True, help="Files; repeatable.")
@development_option
@verbose_option
def init(listed: Sequence[str], development_base: str) -> None:
    """Make the start of a flow from files.

    Prints the id to pass as the first module's parent event id. A module sees a file under its own name, or under
    NAME as NAME=PATH.

    \b
    Example:
      ion-core dev module init --files photo.jpg,notes/album.txt
    """
    from ion_core.development import steps

    paths = [path.strip() for text in listed for path in text.split(",") if path.strip()]
    files = files_by_name([FilePair().convert(path, _parameter("--files"), None) for path in paths])
    out(f"new parent event id: {steps.init(layout_at(development_base), files)}")


@module.command("prepare")
@base_option
@click.option("--name", metavar="NAME", type=Text(), required=True, help="The module.")
@types_option
@click.option("--event-id", metavar="ID", type=Text(), required=True, help="The event; for a first module any new id.")
@click.option("--correlation-id", metavar="ID", type=Text(), help="Its flow. Default: what is known of it, then dev.")
@click.option("--parent-event-id", metavar="ID", type=MaybeText(), default=None, help=parent_help)
@development_option
@verbose_option
def prepare(
    base: str,
    name: str,
    types: Sequence[Sequence[str]],
    event_id: str,
    correlation_id: str | None,
    parent_event_id: str | None,
    development_base: str,
) -> None:
    """Fill the module's world with what an event brings: then run the module.

    in/ and out/ start clean. Below what `dev module init` made, any new id brings its files; an id that a committed
    module published brings that event.

    \b
    Example:
      ion-core dev module prepare --name detect --event-types face.detected --event-id 1 --parent-event-id ID
    """
    from ion_core.development import steps
    from ion_core.events import Context
    from ion_core.handler.given import GivenWorkspace

    layout = layout_at(development_base)
    if parent_event_id is None and layout.published(event_id) is None:
        parent_event_id = layout.selected
    asked = Context(
        name=name, event_id=event_id, correlation_id=correlation_id or "", parent_event_id=parent_event_id or ""
    )
    tell(steps.prepare(layout, asked, joined(types), GivenWorkspace(Path(base))).lines)
    say(f"Now run your module with HANDLER_BASE_DIR={plain(base)}, then commit it.")


@module.command("commit")
@base_option
@click.option("--name", metavar="NAME", type=MaybeText(), default="", help="The module. Default: that of prepare.")
@types_option
@click.option("--event-id", metavar="ID", type=Text(), help="The event. Default: the selected module's.")
@click.option("--correlation-id", metavar="ID", type=Text(), help="Its flow. Default: that of prepare.")
@click.option(
    "--parent-event-id", metavar="ID", type=MaybeText(), default="", help="Its parent. Default: that of prepare."
)
@development_option
@verbose_option
def commit(
    base: str,
    name: str,
    types: Sequence[Sequence[str]],
    event_id: str | None,
    correlation_id: str | None,
    parent_event_id: str,
    development_base: str,
) -> None:
    """Keep what the module left, whole or not at all. What --event-types says replaces what prepare was told.

    \b
    Example:
      ion-core dev module commit --event-id 1
    """
    from ion_core.development import steps
    from ion_core.events import Context
    from ion_core.handler.given import GivenWorkspace

    layout = layout_at(development_base)
    asked = Context(
        name=name,
        event_id=event_id or _selected(layout, "--event-id"),
        correlation_id=correlation_id or "",
        parent_event_id=parent_event_id,
    )
    done = steps.commit(layout, asked, joined(types), GivenWorkspace(Path(base)))
    tell(done.lines)
    say(f"Committed: {plain(str(done.place.path))} has what it left.")


@module.command("list")
@click.option("--root-event-id", metavar="ID", type=MaybeText(), default="", help="Only this one and what followed.")
@json_option
@development_option
@verbose_option
def list_modules(root_event_id: str, as_json: bool, development_base: str) -> None:
    """List what was prepared and committed, each event above what followed from it.

    root: made by `dev module init`. prepared, committed: that was done. displaced: it was prepared, and its workspace
    holds another event now. The selected one has a star.
    """
    from ion_core.development.layout import described

    layout = layout_at(development_base)
    root = _place(layout, root_event_id, "--root-event-id") if root_event_id else None
    places = [place for place in layout.places() if root is None or place.path.is_relative_to(root.path)]
    selected = layout.selected
    modules: list[dict[str, Any]] = [described(layout, place) for place in places]
    for found in modules:
        found["selected"] = found["eventId"] == selected
    if as_json:
        out_array(modules)
        return
    out_table(["EVENT ID", "MODULE", "STATE", "EVENTS", "PATH"], [_row(found) for found in modules])
    if not modules:
        say(f"Nothing was prepared in {plain(development_base)}.")


def _row(found: dict[str, Any]) -> list[str]:
    star = " *" if found["selected"] else ""
    return [
        found["eventId"] + star,
        str(found["module"] or "-"),
        found["state"] or "-",
        str(found["events"]),
        found["path"],
    ]


@module.command("select")
@click.option(
    "--module-id", metavar="ID", type=Text(), required=True, help="Its event id, as `dev module list` has it."
)
@development_option
@verbose_option
def select(module_id: str, development_base: str) -> None:
    """Remember a module for the commands that follow.

    ./ion-module becomes a link to its directory. It is what `dev module commit` commits and what `dev event list`
    lists, and the parent of what `dev module prepare` prepares, where those are told nothing else.
    """
    from ion_core.development.layout import id_of

    layout = layout_at(development_base)
    place = _place(layout, module_id, "--module-id")
    if os.path.lexists(LINK) and not LINK.is_symlink():
        raise UsageError(f"{LINK}: is in the way, it is no link of ours. Move it, or work in another directory.")
    module_id = id_of(place)
    layout.select(module_id)
    try:
        _link_to(place)
    except OSError as error:
        say(f"There is no link {LINK}: {error.strerror}.")
    say(f"Selected: {plain(module_id)}, in {plain(str(place.path))}.")


def _link_to(place: Place) -> None:
    temporary = LINK.with_name(f".{LINK}-{secrets.token_hex(4)}")
    temporary.symlink_to(place.path.resolve())
    temporary.replace(LINK)


@event.command("list")
@click.option("--module-id", metavar="ID", type=Text(), help="The module's event id. Default: the selected module's.")
@json_option
@development_option
@verbose_option
def list_events(module_id: str | None, as_json: bool, development_base: str) -> None:
    """Print the events that a module published.

    Each as it travels, one a line; with --json, as an array.

    \b
    Example:
      ion-core dev event list --module-id 1
    """
    from ion_core.development.layout import event_files

    layout = layout_at(development_base)
    place = _place(layout, module_id or _selected(layout, "--module-id"), "--module-id")
    events = [place.read(f"_events/{name}") for name in event_files(place)] if place.is_committed else []
    if as_json:
        out_array(events)
        return
    for found in events:
        out_json(found)
    if not events:
        say("It published no events." if place.is_committed else "It is not committed, so it has published nothing.")


def _selected(layout: Layout, option: str) -> str:
    event_id = layout.selected
    if event_id is None:
        raise UsageError(f"{option}: is needed, since no module is selected. `dev module list` shows them.")
    return event_id


def _place(layout: Layout, event_id: str, option: str) -> Place:
    """The one for that event, of which the beginning of its id will do. Raises UsageError."""
    from ion_core.cli.ids import SHORTEST, the_one
    from ion_core.development.layout import id_of

    if (place := layout.find(event_id)) is not None:
        return place
    begun = event_id.rstrip("…")
    places = {id_of(it): it for it in layout.places()} if len(begun) >= SHORTEST else {}
    whole = the_one((it for it in places if it.startswith(begun)), event_id, what="events")
    if whole is None:
        raise UsageError(
            f"{option}: nothing in {layout.base} is for event {event_id[:80]!r}. `dev module list` shows what there is."
        )
    return places[whole]


def _parameter(name: str) -> click.Parameter:
    return click.Option([name])
