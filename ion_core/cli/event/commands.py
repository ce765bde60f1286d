"""``ion-core event publish``, ``create``, ``peek`` and ``get``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ion_core.cli.event.given import FilePair, KeyValue, TakesPairs, files_by_name
from ion_core.cli.event.republish import republish
from ion_core.cli.group import Group
from ion_core.cli.named import EventType, ModuleName
from ion_core.cli.options import PathText, Text, json_option, with_config
from ion_core.cli.output import out, out_array, out_json, out_table, plain, results, say, shown_ids
from ion_core.cli.whole import Options

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.messaging import Message
    from ion_core.events import Event

NONE_WAITING = 75
WAIT = 2.0

id_text = Text()
data_option = click.option(
    "--data",
    "data",
    metavar="KEY=VALUE",
    type=KeyValue(),
    multiple=True,
    help="A pair for the modules; repeatable.",
)
file_option = click.option(
    "--file",
    "files",
    metavar="[NAME=]PATH",
    type=FilePair(),
    multiple=True,
    help="A file for the modules, who see it under NAME (default: its own); repeatable.",
)
module_option = click.option(
    "--module", metavar="NAME", type=ModuleName(), required=True, help="The module whose queue."
)


@click.group("event", cls=Group)
def command() -> None:
    """Publish events; look at those that wait."""


command.add_command(republish)


@command.command("publish", cls=TakesPairs)
@click.argument("event_type", metavar="TYPE", type=EventType(None), required=False)
@data_option
@file_option
@click.option("--event-id", metavar="ID", type=id_text, help="Its id. Default: a new one.")
@click.option("--correlation-id", metavar="ID", type=id_text, help="The flow it belongs to. Default: a new one.")
@click.option("--batch", metavar="FILE", type=PathText(), help="An event for each line of JSON of it; - is stdin.")
@click.option("--from-line", metavar="N", type=click.IntRange(1), default=1, help="Of a batch: begin with that line.")
@json_option
@with_config
@click.pass_context
def publish(
    ctx: click.Context,
    options: Options,
    event_type: str | None,
    data: Sequence[tuple[str, str]],
    files: Sequence[tuple[str, str]],
    event_id: str | None,
    correlation_id: str | None,
    batch: str | None,
    from_line: int,
    as_json: bool,
) -> None:
    """Publish an event of TYPE. When this returns, it is stored, and it will be handled.

    With --json the event is printed as it travels. Where $TRACEPARENT names a span (W3C Trace Context), as where a CI
    system or a script is traced, the flow is part of that trace.

    With --batch each line of FILE is an event: {"type": "…", "data": {"KEY": "VALUE"}, "files": ["PATH"]}, of which all
    may be missing but the type, and that too where TYPE is given. "files" may also be {"NAME": "PATH"}; "eventId",
    "correlationId" and "parentEventId" may be there. Every line is checked before the first is published.

    \b
    Example:
      ion-core event publish photo.received --file me.jpg --data album=holidays
      ion-core event publish photo.received --batch events.jsonl
    """
    if batch is not None:
        if data or files or event_id:
            raise click.UsageError("--batch: pairs, files and ids are in its lines, not on the command line.", ctx)
        _publish_batch(options, batch, event_type, correlation_id, from_line, as_json)
        return
    if event_type is None:
        raise click.UsageError("which type? Give TYPE, or --batch FILE.", ctx)
    event = _publish(
        options, event_type, name="cli", data=data, files=files, event_id=event_id, correlation_id=correlation_id
    )
    if as_json:
        out_json(event.to_wire())
        return
    out(f"event id        {plain(event.context.event_id)}")
    out(f"correlation id  {plain(event.context.correlation_id)}")
    import shlex

    say(f"See what becomes of it: ion-core trace flow{options.flags()} {shlex.quote(event.context.correlation_id)}")


def _publish_batch(
    options: Options, name: str, event_type: str | None, correlation_id: str | None, first: int, as_json: bool
) -> None:
    from ion_core.cli.event.batch import publish_batch, read_batch
    from ion_core.cli.session import load, run

    lines = read_batch(name, event_type=event_type, correlation_id=correlation_id, first=first)
    events = run(load(options), lambda app: publish_batch(app, lines, traceparent=_traceparent()))
    options.done = f"The events were published: {len(events):,}."
    if as_json:
        out_array(event.to_wire() for event in events)
        return
    out(f"{len(events):,} event{'' if len(events) == 1 else 's'} published.")
    say(f"See what becomes of them: ion-core trace list{options.flags()}")


@command.command("create", cls=TakesPairs)
@click.option("--event-type", metavar="TYPE", type=EventType(None), required=True, help="Its type.")
@click.option("--event-name", metavar="NAME", type=id_text, default="cli", help="Who it comes from. Default: cli.")
@click.option("--event-id", metavar="ID", type=id_text, help="Its id. Default: a new one.")
@click.option("--correlation-id", metavar="ID", type=id_text, help="The flow it belongs to. Default: a new one.")
@click.option("--parent-event-id", metavar="ID", type=id_text, default=None, help="The event that caused it.")
@click.option("--files", "listed", metavar="PATH,…", type=Text(None), help="Files, separated by commas.")
@file_option
@data_option
@with_config
def create(
    options: Options,
    event_type: str,
    event_name: str,
    event_id: str | None,
    correlation_id: str | None,
    parent_event_id: str | None,
    listed: str | None,
    files: Sequence[tuple[str, str]],
    data: Sequence[tuple[str, str]],
) -> None:
    """Publish an event whose context is given in full, and print it.

    For scripts; people will like `event publish` better. It is printed as it travels. $TRACEPARENT is as there.

    \b
    Example:
      ion-core event create --event-name frontapi --event-id 1 --event-type photo.received --correlation-id 1
    """
    split = [FilePair().convert(path.strip(), None, None) for path in (listed or "").split(",") if path.strip()]
    event = _publish(
        options,
        event_type,
        name=event_name,
        data=data,
        files=[*split, *files],
        event_id=event_id,
        correlation_id=correlation_id,
        parent_event_id=parent_event_id or "",
    )
    out_json(event.to_wire())


def _publish(
    options: Options,
    event_type: str,
    *,
    name: str,
    data: Sequence[tuple[str, str]],
    files: Sequence[tuple[str, str]],
    event_id: str | None,
    correlation_id: str | None,
    parent_event_id: str = "",
) -> Event:
    """Through the intake. What it refuses was given on the command line, so it is misuse."""
    from ion_core.cli.session import load, run
    from ion_core.errors import InvalidEvent, UsageError

    async def work(app: App) -> Event:
        return await (await app.intake()).publish(
            event_type,
            name=name,
            data=data,
            files=named,
            event_id=event_id,
            correlation_id=correlation_id,
            parent_event_id=parent_event_id,
            traceparent=_traceparent(),
        )

    named = files_by_name(files)
    config = load(options)
    try:
        event = run(config, work)
    except InvalidEvent as error:
        raise UsageError("\n".join(plain(problem) for problem in error.problems)) from error
    options.done = f"The event was published: {event.context.event_id}."
    return event


def _traceparent() -> str:
    """The trace that we were started in, by whoever traces what they start; '' where nobody does."""
    return os.environ.get("TRACEPARENT", "")


@command.command("peek")
@module_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, help="At most so many. Default: 10.")
@json_option
@with_config
def peek(options: Options, module: str, limit: int, as_json: bool) -> None:
    """Show events that wait for a module, oldest first. They stay where they are.

    On a terminal ids are short and lines are cut to fit; with --verbose nothing is.

    \b
    Example:
      ion-core event peek --module detect
    """
    from ion_core.cli.event.messages import described, queue_of, row
    from ion_core.cli.session import load, run

    async def look(app: App) -> Sequence[Message]:
        return await queue_of(app, module, lambda broker: broker.peek(module, limit=limit), empty=())

    messages = run(load(options), look, reading=True)
    entries = [{**described(message.body), "attempt": message.attempt} for message in messages]
    if as_json:
        out_array(entries)
        return
    whole = options.verbose
    ids = {
        key: shown_ids((entry[key] for entry in entries if entry[key] is not None), whole=whole)
        for key in ("eventId", "correlationId")
    }
    for entry in entries:
        entry |= {key: shown.get(entry[key]) for key, shown in ids.items()}
    out_table(
        ["TYPE", "EVENT ID", "CORRELATION ID", "ATTEMPT"],
        [row(entry, "type", "eventId", "correlationId", "attempt") for entry in entries],
        fit=not whole,
        cuttable=("TYPE",),
    )
    if not entries:
        say(f"No event waits for {plain(module)}.")


@command.command("get")
@module_option
@click.option("--wait", type=click.FloatRange(0.1, 3600), default=WAIT, help="Seconds to wait for one. Default: 2.")
@with_config
@click.pass_context
def get(ctx: click.Context, options: Options, module: str, wait: float) -> None:
    """Take ONE event out of a module's queue and print it.

    It is printed as it travels, and is gone: the module will not see it. Ends with 75 when none is waiting.

    \b
    Example:
      ion-core event get --module detect
    """
    from ion_core.cli.session import load, run

    if not run(load(options), lambda app: _take(app, module, wait)):
        say(f"No event waits for {plain(module)}.")
        ctx.exit(NONE_WAITING)
    say(f"It is gone from the queue now: {plain(module)} will not see it.")


async def _take(app: App, module: str, wait: float) -> bool:
    """Print one event, then acknowledge it; what could not be printed stays in the queue."""
    import asyncio

    from ion_core.cli.event.messages import described, queue_of
    from ion_core.contracts.messaging import MessageBroker

    async def take(broker: MessageBroker) -> bool:
        async with broker.subscribe(module, prefetch=1) as deliveries:
            try:
                async with asyncio.timeout(wait):
                    delivery = await anext(aiter(deliveries))
            except TimeoutError:
                return False
            found = described(delivery.body)
            out_json(found.get("event") or found)
            results().flush()
            await delivery.ack()
            return True

    return await queue_of(app, module, take, empty=False)
