"""``ion-core event publish``, ``create``, ``peek`` and ``get``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ion_core.cli.event_input import FilePair, KeyValue, files_by_name
from ion_core.cli.options import Options, Text, json_option, with_config
from ion_core.cli.output import out, out_array, out_json, out_table, plain, say

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
module_option = click.option("--module", metavar="NAME", type=Text(), required=True, help="The module whose queue.")


@click.group("event")
def command() -> None:
    """Publish events; look at those that wait."""


@command.command("publish")
@click.argument("event_type", metavar="TYPE", type=Text(None))
@data_option
@file_option
@click.option("--event-id", metavar="ID", type=id_text, help="Its id. Default: a new one.")
@click.option("--correlation-id", metavar="ID", type=id_text, help="The flow it belongs to. Default: a new one.")
@json_option
@with_config
def publish(
    options: Options,
    event_type: str,
    data: Sequence[tuple[str, str]],
    files: Sequence[tuple[str, str]],
    event_id: str | None,
    correlation_id: str | None,
    as_json: bool,
) -> None:
    """Publish an event of TYPE. When this returns, it is stored, and it will be handled.

    With --json the event is printed as it travels.

    \b
    Example:
      ion-core event publish photo.received --file me.jpg --data album=holidays
    """
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


@command.command("create")
@click.option("--event-type", metavar="TYPE", type=Text(None), required=True, help="Its type.")
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

    For scripts; people will like `event publish` better. It is printed as it travels.

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
        )

    named = files_by_name(files)
    config = load(options)
    try:
        return run(config, work)
    except InvalidEvent as error:
        raise UsageError("\n".join(plain(problem) for problem in error.problems)) from error


@command.command("peek")
@module_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, help="At most so many. Default: 10.")
@json_option
@with_config
def peek(options: Options, module: str, limit: int, as_json: bool) -> None:
    """Show events that wait for a module, oldest first. They stay where they are.

    \b
    Example:
      ion-core event peek --module detect
    """
    from ion_core.cli.messages import described, queue_of, row
    from ion_core.cli.session import load, run

    async def look(app: App) -> Sequence[Message]:
        return await queue_of(app, module, lambda broker: broker.peek(module, limit=limit), empty=())

    messages = run(load(options), look)
    entries = [{**described(message.body), "attempt": message.attempt} for message in messages]
    if as_json:
        out_array(entries)
        return
    out_table(
        ["TYPE", "EVENT ID", "CORRELATION ID", "ATTEMPT"],
        [row(entry, "type", "eventId", "correlationId", "attempt") for entry in entries],
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
    import sys

    from ion_core.cli.messages import described, queue_of
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
            sys.stdout.flush()
            await delivery.ack()
            return True

    return await queue_of(app, module, take, empty=False)
