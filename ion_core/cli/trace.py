"""``ion-core trace list`` and ``flow``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import Options, Text, json_option, with_config
from ion_core.cli.output import out, out_array_of, out_table, plain, say
from ion_core.errors import DocumentNotFound

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.storage import Document, DocumentStore


@click.group("trace")
def command() -> None:
    """Follow events through the pipeline.

    A flow is an event from outside and everything that followed from it. All of it has one correlation id.
    """


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, help="At most so many. Default: 20.")
@json_option
@with_config
def list_flows(options: Options, limit: int, as_json: bool) -> None:
    """List the flows, the newest first."""
    from ion_core.cli.session import load, run

    async def work(app: App) -> list[list[str]]:
        flows = _newest(await app.documents(), limit)
        if as_json:
            await out_array_of(flows)
            return []
        columns = ("correlationId", "type", "events", "startedAt")
        return [["-" if flow[it] is None else str(flow[it]) for it in columns] async for flow in flows]

    rows = run(load(options), work)
    if as_json:
        return
    out_table(["CORRELATION ID", "TYPE", "EVENTS", "STARTED AT"], rows)
    if not rows:
        say("There are no flows. `ion-core event publish` starts one.")


async def _newest(documents: DocumentStore, limit: int) -> AsyncIterator[dict[str, Any]]:
    """Flows by their newest event; each is read again by itself, so that none has to be kept."""
    from ion_core.events import EVENT_META

    seen: set[str] = set()
    async for document in documents.find(EVENT_META, newest_first=True):
        if document.correlation_id in seen:
            continue
        seen.add(document.correlation_id)
        yield await _in_short(documents, document.correlation_id)
        if len(seen) == limit:
            return


async def _in_short(documents: DocumentStore, correlation_id: str) -> dict[str, Any]:
    """``type`` is that of the first event; ``startedAt`` when its first job began, None if none has."""
    from ion_core.events import EVENT_META, MODULE_LOGS

    first, count, started = None, 0, None
    async for document in documents.find(EVENT_META, correlation_id=correlation_id):
        first = first or document
        count += 1
    async for document in documents.find(MODULE_LOGS, correlation_id=correlation_id):
        started = document.body.get("startedAt")
        break
    return {
        "correlationId": correlation_id,
        "eventId": first.id if first else None,
        "type": first.body.get("type") if first else None,
        "events": count,
        "startedAt": started,
    }


@command.command("flow")
@click.argument("correlation_id", metavar="CORRELATION_ID", type=Text(), required=False)
@click.option("-c", "--correlation-id", "named", metavar="CORRELATION_ID", type=Text(), help="The same, as an option.")
@json_option
@with_config
@click.pass_context
def flow(ctx: click.Context, options: Options, correlation_id: str | None, named: str | None, as_json: bool) -> None:
    """Print a flow: its events, the jobs they started, and how those went.

    A tree for people: below each event the modules that took it, below each module the events it emitted. With --json
    an array of every document of the flow, in the order of storing.

    \b
    Example:
      ion-core trace flow 7c1b0a52-94f1-4d0e-9a53-1c9e6b0f2a11
    """
    from ion_core.cli.session import load, run

    if correlation_id is None and named is None:
        raise click.UsageError("which one? Give its correlation id; `ion-core trace list` shows those there are.", ctx)
    if correlation_id is not None and named is not None and correlation_id != named:
        raise click.UsageError("two different correlation ids are given.", ctx)
    wanted = correlation_id or named or ""
    run(load(options), lambda app: _print_flow(app, wanted, as_json))


async def _print_flow(app: App, correlation_id: str, as_json: bool) -> None:
    from ion_core.cli.flow import FlowReader
    from ion_core.cli.flow_text import lines

    documents = await app.documents()
    found = documents.find(correlation_id=correlation_id)
    first = await anext(aiter(found), None)
    if first is None:
        raise DocumentNotFound(await _unknown(documents, correlation_id))
    if as_json:
        await out_array_of(_bodies(first, found))
        return
    reader = FlowReader(correlation_id, app.config.modules.values())
    reader.add(first)
    async for document in found:
        reader.add(document)
    for line in lines(reader.flow()):
        out(line)


async def _bodies(first: Document, rest: AsyncIterator[Document]) -> AsyncIterator[Any]:
    yield first.body
    async for document in rest:
        yield document.body


async def _unknown(documents: DocumentStore, id: str) -> str:
    """What to say of a correlation id that nothing has: perhaps it is the id of an event."""
    from ion_core.events import EVENT_META

    try:
        event = await documents.get(EVENT_META, id)
    except DocumentNotFound:
        return f"nothing is stored under the correlation id {plain(id)!r}. `ion-core trace list` shows the newest ones."
    return f"{plain(id)!r} is the id of an event. Its flow: ion-core trace flow {plain(event.correlation_id)}"
