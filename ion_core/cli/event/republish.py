"""``ion-core event republish``: stored events for a module that came later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.left_queues import remove_left_queues
from ion_core.cli.named import EventType, ModuleName, no_module
from ion_core.cli.options import check_can_ask, json_option, with_config, yes_option
from ion_core.cli.output import out, out_json, plain, say
from ion_core.cli.progress import progress
from ion_core.cli.whole import Options
from ion_core.errors import DocumentsDamaged, UsageError

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.backfill import Owed
    from ion_core.config import Config


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A time: how long ago, or as ISO 8601 writes it; without an offset it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        from ion_core.contracts.settings import parse_duration

        if isinstance(value, datetime):
            return value
        try:
            age: timedelta = parse_duration(value)
            return datetime.now(UTC) - age
        except (ValueError, OverflowError):
            pass
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"must be a duration such as 30d, or a time such as 2026-11-29T06:30 (got {value!r:.60}).")
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@click.command("republish")
@click.option(
    "--type", "event_type", metavar="TYPE", type=EventType(None), required=True, help="The type of the events."
)
@click.option("--since", metavar="TIME", type=Moment(), required=True, help="Stored since then: 30d, or 2026-11-29.")
@click.option("--until", metavar="TIME", type=Moment(), help="And not later than then. Default: now.")
@click.option(
    "--module", metavar="NAME", type=ModuleName(), help="For this module alone. Default: all that take the type."
)
@click.option("--dry-run", is_flag=True, help="Publish nothing, say what would be.")
@yes_option
@json_option
@with_config
@click.pass_context
def republish(
    ctx: click.Context,
    options: Options,
    event_type: str,
    since: datetime,
    until: datetime | None,
    module: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Give stored events to a module that came later: what it has not done, and does not have waiting.

    The events keep their ids, pairs and files, and go into the queues of the modules meant, not of others that take the
    type. What a module has committed, has in its queue or among its dead letters is left out, so the same command twice
    does no harm; after one that was cut short it gives the rest. The time of an event is that of its first job, or of
    what was stored next. Documents that are damaged are named at the end, and hide no others.

    \b
    Example:
      ion-core event republish --type photo.received --since 30d --module catalogue
    """
    from ion_core.cli.session import load, run

    if not yes and not dry_run:
        check_can_ask(ctx, "say --yes to do it, or --dry-run")
    config = load(options)
    names = _names(config, event_type, module)
    damaged: set[str] = set()

    async def look(app: App) -> list[Owed]:
        from ion_core.backfill import owed, stored_events

        await app.intake()
        dataplane = await app.dataplane()
        if not dry_run:
            await remove_left_queues(app)
        events = await stored_events(dataplane, event_type, since=since, until=until, damaged=damaged)
        return [await owed(dataplane, config.modules[name], events) for name in names]

    async def work(app: App) -> None:
        from ion_core.backfill import give

        dataplane = await app.dataplane()
        with app.state.republishing():
            for it in found:
                if it.events:
                    with progress(len(it.events), f"to {it.module.name}") as given:
                        await give(dataplane, it, state_id=app.state.id(), given=given)

    found = run(config, look)
    count = sum(len(it.events) for it in found)
    if not as_json:
        _show(found)
    if not dry_run and count and not yes and not click.confirm(f"Publish {_events(count)}?", err=True):
        say("Nothing was published.")
        ctx.exit(1)
    if not dry_run and count:
        run(config, work)
    if as_json:
        modules = [
            {"module": it.module.name, "events": len(it.events), "committed": it.committed, "waiting": it.waiting}
            for it in found
        ]
        out_json({"type": event_type, "dryRun": dry_run, "modules": modules})
    elif not dry_run:
        say(f"Published {_events(count)}." if count else "There is nothing to publish.")
    if damaged:
        raise DocumentsDamaged(sorted(damaged))


def _names(config: Config, event_type: str, module: str | None) -> list[str]:
    """The modules that are meant, all of which take the type. Raises UsageError."""
    takers = [name for name, it in config.modules.items() if event_type in it.subscribes]
    if module is not None and module not in config.modules:
        raise no_module(module, config.modules)
    if module is not None and module not in takers:
        taken = ", ".join(config.modules[module].subscribes)
        raise UsageError(f"{module}: takes no events of type {event_type[:80]!r}, only {taken}.")
    if not takers:
        taken = ", ".join(sorted({it for one in config.modules.values() for it in one.subscribes}))
        raise UsageError(f"no module takes events of type {event_type[:80]!r}. Taken: {taken or 'none'}.")
    return takers if module is None else [module]


def _show(found: list[Owed]) -> None:
    for it in found:
        line = f"{it.module.name}: {_events(len(it.events))} to be published"
        if it.events:
            first, last = (f"{time:%Y-%m-%d %H:%M}" for time in (it.events[0][0], it.events[-1][0]))
            line += f", of {first} to {last} UTC"
        rest = [f"{count:,} {what}" for count, what in ((it.committed, "done"), (it.waiting, "in its queue")) if count]
        out(plain(f"{line}; {', '.join(rest)} already." if rest else f"{line}."))


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"
