"""``ion-core logs``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import Options, Text, json_option, with_config
from ion_core.cli.output import JsonArray, out, plain, plain_lines, say
from ion_core.errors import DocumentNotFound, UsageError

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.storage import Document, DocumentStore

SHORTEST = 4
"""Characters that the beginning of an id must have to stand for it."""


@click.command("logs")
@click.argument("event_id", type=Text())
@click.option("--module", metavar="NAME", type=Text(), help="Only those of this module.")
@click.option("--attempt", metavar="N", type=click.IntRange(1), help="Only that of this attempt.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what jobs under way print, as it comes.")
@json_option
@with_config
def command(
    options: Options, event_id: str, module: str | None, attempt: int | None, follow: bool, as_json: bool
) -> None:
    """Print the log of every attempt for an event.

    Of good and bad ones, in the order of storing. The beginning of an event's id will do, as `trace flow` shows it.
    With --json an array of the documents.

    With --follow, jobs that run on this machine are followed line by line until they have ended; where none has run
    yet, the first is waited for. Their logs are stored as ever.

    \b
    Examples:
      ion-core logs 3f2a9c1b --module detect
      ion-core logs 3f2a9c1b --follow
    """
    from ion_core.cli.session import load, run

    if follow and (as_json or attempt is not None):
        raise UsageError("--follow shows lines as they come. Leave out --json and --attempt.")
    run(load(options), lambda app: _print(app, event_id, module, attempt, as_json, follow))


async def _follow(app: App, event_id: str, module: str | None, *, wait: bool) -> None:
    from ion_core.live import watch

    heard, shown = False, None
    async for line in watch(app.state.path, event_id, wait=wait):
        if not line:
            heard = True
            if wait:
                say("No job for this event has run: waiting for the first. Ctrl-C ends this.")
            continue
        if module not in (None, line["module"]):
            continue
        if shown != (shown := (line["module"], line["attempt"])):
            out(plain(f"== {line['module']}, attempt {line['attempt']}: running"))
        out(plain(line["text"]))
        sys.stdout.flush()
    if wait and not heard:
        say("Nothing that could be followed: no `ion-core serve` runs on this machine with this state directory.")


async def _print(app: App, event_id: str, module: str | None, attempt: int | None, as_json: bool, follow: bool) -> None:
    documents = await app.documents()
    event_id, correlation_id = await whole_id(documents, event_id)
    array, count = JsonArray(), 0
    async for context, body in logs_of(documents, event_id, correlation_id):
        if (module or context) != context or attempt not in (None, body.get("attempt")):
            continue
        count += 1
        if as_json:
            array.add(body)
        else:
            _print_log(context, body)
    if as_json:
        array.end()
    elif follow:
        await _follow(app, event_id, module, wait=not count)
    elif not count:
        say(f"No attempt for event {plain(event_id)} has left such a log yet.")


def _print_log(module: str, body: Mapping[str, Any]) -> None:
    started = f"  {body['startedAt']}" if "startedAt" in body else ""
    out(plain(f"== {module}, {body.get('desc') or 'attempt'}{started}"))
    out(plain_lines(str(body.get("logs", "")).rstrip("\n")) + "\n")


async def whole_id(documents: DocumentStore, id: str) -> tuple[str, str | None]:
    """The whole id, and its correlation id: None for an event that left logs but no document of its own."""
    from ion_core.events import EVENT_META

    try:
        return id, (await documents.get(EVENT_META, id)).correlation_id
    except DocumentNotFound:
        pass
    begun: dict[str, str] = {}
    async for document in documents.find(EVENT_META):
        if len(id) >= SHORTEST and document.id.startswith(id):
            begun[document.id] = document.correlation_id
    if len(begun) > 1:
        some = ", ".join(plain(it) for it in sorted(begun)[:5])
        raise UsageError(f"{id!r}: {len(begun)} events have an id that begins so: {some}. Give more of it.")
    for whole, correlation_id in begun.items():
        return whole, correlation_id
    async for _ in logs_of(documents, id, None):
        return id, None
    raise DocumentNotFound(f"no event {id!r}. `ion-core trace flow` shows the events of a flow.")


async def logs_of(
    documents: DocumentStore, event_id: str, correlation_id: str | None
) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    """Module and log document of every attempt for that event; without a correlation id all logs are looked through."""
    from ion_core.events import MODULE_LOGS, parse_context

    document: Document
    async for document in documents.find(MODULE_LOGS, correlation_id=correlation_id):
        context = parse_context(document.body, what="log", problems=[])
        if context.event_id == event_id:
            yield context.name, document.body
