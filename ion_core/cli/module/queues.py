"""``ion-core module drain``, ``move`` and ``drop``: what to do with the queue of a module that is gone."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from ion_core.cli.event.messages import described
from ion_core.cli.named import ModuleName, QueueName, no_module
from ion_core.cli.options import check_can_ask, json_option, with_config, yes_option
from ion_core.cli.output import out_json, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import IonError, QueueNotDeclared, UsageError

if TYPE_CHECKING:
    from ion_core.app import App, StrayQueue
    from ion_core.contracts.messaging import MessageBroker

T = TypeVar("T")


@click.command("drain")
@click.argument("name", metavar="NAME", type=QueueName())
@yes_option
@json_option
@with_config
@click.pass_context
def drain(ctx: click.Context, options: Options, name: str, yes: bool, as_json: bool) -> None:
    """Have the queue of a module that is gone collect no more events. What lies in it stays.

    What waits there is still taken where a module of that name is served; starting `serve` with such a module in the
    configuration has it collect again. It is refused for a module of this configuration.

    \b
    Example:
      ion-core module drain oldname
    """
    stray = _asked(ctx, options, name, yes, "Have it collect no more?")

    async def work(app: App) -> None:
        await let_go(await app.broker(), name)

    _done(options, work)
    if as_json:
        out_json({"queue": name, "drained": sorted(stray.topics)})
        return
    say(f"{plain(name)} collects nothing any more. In it: {stray.holds}.")


@click.command("move")
@click.argument("name", metavar="OLD", type=QueueName())
@click.argument("to", metavar="NEW", type=ModuleName())
@yes_option
@json_option
@with_config
@click.pass_context
def move(ctx: click.Context, options: Options, name: str, to: str, yes: bool, as_json: bool) -> None:
    """Give what waits for a module that is gone to another: for one that was renamed.

    NEW is a module of the configuration, which must take the types of what waits. The queue of OLD collects no more
    from then on; its waiting events, retries and dead letters go into NEW's, each with its attempts. What a dispatcher
    holds at that moment stays. Cut short, the same again does the rest.

    \b
    Example:
      ion-core module move oldname newname
    """
    stray = _asked(ctx, options, name, yes, f"Give that to {plain(to)}?", to=to)

    async def work(app: App) -> int:
        broker = await app.broker()
        await check_not_done(app, name)
        await app.intake()  # so that NEW collects before OLD does no more
        await let_go(broker, name)
        return await broker.move(name, to)

    count = _done(options, work)
    if as_json:
        out_json({"queue": name, "to": to, "moved": count})
        return
    say(f"{count:,} moved to {plain(to)}. {plain(name)} is kept: `ion-core module drop {plain(name)}` removes it.")
    if stray.stats.unsettled is None:
        say("It is served somewhere. What a dispatcher holds of it, which the broker does not tell, was not moved.")
    elif stray.stats.unsettled:
        say("What a dispatcher holds of it was not moved; it is served somewhere.")


@click.command("drop")
@click.argument("name", metavar="NAME", type=QueueName())
@yes_option
@json_option
@with_config
@click.pass_context
def drop(ctx: click.Context, options: Options, name: str, yes: bool, as_json: bool) -> None:
    """Delete the queue of a module that is gone, with every event and dead letter in it, for good.

    Their documents and files stay until `gc`. It is refused for a module of this configuration. Where another
    configuration on this broker still serves it, its dispatcher makes the queue again, empty.

    \b
    Example:
      ion-core module drop oldname --yes
    """
    stray = _asked(ctx, options, name, yes, "Delete all of that for good?", listed=False)

    async def work(app: App) -> None:
        from ion_core.dataplane import forget_rounds_of

        await forget_rounds_of(await app.documents(), name)  # first: what is published anew is to run
        await (await app.broker()).drop(name)

    _done(options, work)
    if as_json:
        out_json({"queue": name, "dropped": vars(stray.stats)})
        return
    say(f"{plain(name)} is gone. It held: {stray.holds}.")


def _asked(
    ctx: click.Context, options: Options, name: str, yes: bool, question: str, *, listed: bool = True, to: str = ""
) -> StrayQueue:
    """The queue, once whoever called has said yes; otherwise the command ends with 1."""
    from ion_core.cli.session import load, run

    if not yes:
        check_can_ask(ctx)

    async def look(app: App) -> StrayQueue:
        stray = await _stray(app, name, listed=listed)
        if to:
            await check_takes(app, name, to)
        return stray

    stray = run(load(options), look)
    if not yes:
        say(plain(f"In {name}: {stray.holds}. It collects: {', '.join(sorted(stray.topics)) or 'nothing'}."))
        say("No module of this configuration takes it. Another configuration on this broker may.")
        if not click.confirm(question, err=True):
            say("Nothing was changed.")
            ctx.exit(1)
    return stray


def _done(options: Options, work: Callable[[App], Awaitable[T]]) -> T:
    from ion_core.cli.session import load, run

    return run(load(options), work)


async def _stray(app: App, name: str, *, listed: bool) -> StrayQueue:
    """That queue. Raises UsageError where there is none, for a module's, and for one that should be ``listed``."""
    from ion_core.app import StrayQueue, stray_queues

    if name in app.config.modules:
        raise UsageError(f"{name}: is a module of this configuration, which `serve` has a queue for. Remove it there.")
    broker = await app.broker()
    strays = {stray.name: stray for stray in await stray_queues(broker, app.config.modules)}
    if name in strays:
        return strays[name]
    try:
        stats = await broker.stats(name)
    except QueueNotDeclared:
        near = difflib.get_close_matches(name, strays, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(strays) or "none"
        raise UsageError(f"no queue called {name[:80]!r}.{hint} Those that no module takes: {known}.") from None
    if listed:
        raise UsageError(
            f"{name}: the broker has this queue and does not list it, so nobody can tell what it collects. "
            "Serve a module of that name once, or drop it."
        )
    return StrayQueue(name=name, topics=frozenset(), stats=stats)


async def check_takes(app: App, name: str, to: str) -> None:
    """Raises UsageError where there is no such module, IonError where it would make dead letters of what waits."""
    modules = app.config.modules
    if to not in modules:
        raise no_module(to, modules)
    from ion_core.dataplane import bodies_in

    found = Counter([described(body)["type"] async for body in bodies_in(await app.broker(), name)])
    refused = {it: count for it, count in found.items() if it is not None and it not in modules[to].subscribes}
    if refused:
        those = ", ".join(f"{it} ({count:,})" for it, count in sorted(refused.items()))
        raise IonError(
            f"{to} does not take what waits in {name}: {those}. Nothing was moved. "
            f"Add the types to modules.{to}.subscribes, or drop the queue."
        )


async def check_not_done(app: App, name: str) -> None:
    """Raises IonError where the module has done what is in its queue: under another name it would do that again."""
    from contextlib import suppress

    from ion_core.dataplane import bodies_in
    from ion_core.errors import InvalidEvent
    from ion_core.jobs import Job
    from ion_core.stores import for_each

    dataplane = await app.dataplane()

    async def is_done(job_id: str) -> bool:
        return await dataplane.committed(job_id) is not None

    jobs: list[str] = []
    async for body in bodies_in(dataplane.broker, name):
        with suppress(InvalidEvent):
            jobs.append(Job.of_message(body, name).id)
    if done := sum(await for_each(is_done, jobs)):
        raise IonError(
            f"{name}: has done {done:,} of what is in its queue, and would do that again under another name. Run "
            "`ion-core serve --until-idle` with it first, and redrive or purge its dead letters. Nothing was changed."
        )


async def let_go(broker: MessageBroker, name: str) -> None:
    from ion_core.contracts.messaging import RetryPolicy

    await broker.declare(name, topics=(), retry=RetryPolicy(retries=0))
