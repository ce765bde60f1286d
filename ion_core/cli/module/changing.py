"""``ion-core module remove`` and ``rename``: an entry of the configuration, and with it the module's queue."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ion_core.cli.module.queues import check_not_done, check_takes, let_go
from ion_core.cli.named import ModuleName, no_module
from ion_core.cli.options import Text, check_can_ask, json_option, with_config, yes_option
from ion_core.cli.output import out_json, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import ConfigError, IonError, QueueNotDeclared, UsageError

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config
    from ion_core.contracts.messaging import MessageBroker, QueueStats

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Edited:
    """The file before and after, and what it said of the module."""

    path: Path
    before: bytes
    after: bytes
    source: Path | None


@click.command("remove")
@click.argument("name", metavar="NAME", type=ModuleName())
@click.option("--drop", "dropping", is_flag=True, help="Delete its queue too, with every event and dead letter in it.")
@yes_option
@json_option
@with_config
@click.pass_context
def remove(ctx: click.Context, options: Options, name: str, dropping: bool, yes: bool, as_json: bool) -> None:
    """Take a module out of the configuration, and have its queue collect no more.

    Comments and order of the configuration stay, and so do the module's files and its cases. A queue that has nothing
    in it is deleted; one that has is kept, as `module list` shows, until `module move` or `module drop`. It is refused
    while a `serve` runs on this state directory, or a dispatcher holds events of the module.

    \b
    Example:
      ion-core module remove blur
    """
    config, edited = _edit(options, name, None)

    async def work(app: App) -> QueueStats | None:
        with app.state.changing():
            broker = await app.broker()
            await _not_held(broker, name)
            _write(edited, options, config)
            if await _stats(broker, name) is None:
                return None
            await let_go(broker, name)  # first: what was accepted until then is in the queue, and counts
            stats = await _stats(broker, name)
            if stats is not None and (dropping or _is_empty(stats)):
                await _forget(app, name)
                await broker.drop(name)
            return stats

    what = "delete" if dropping else "keep"
    _ask(ctx, config, name, yes, f"Remove it, and {what} what is in its queue?")
    stats = _run(config, work)
    dropped = stats is not None and (dropping or _is_empty(stats))
    if as_json:
        out_json({"module": name, "queue": stats and vars(stats), "dropped": dropped})
        return
    say(f"modules.{plain(name)} is gone from {plain(str(edited.path))}.")
    if stats is not None and not dropped:
        say(f"Its queue is kept, and collects no more. In it: {_holds(stats)}.")
        say(
            f"`ion-core module move {plain(name)} OTHER` gives that to another, `module drop {plain(name)}` deletes it."
        )
    if left := [path for path in (edited.source, edited.path.parent / "cases" / name) if path and path.is_dir()]:
        say(f"Left as they are: {plain(', '.join(map(str, left)))}.")


@click.command("rename")
@click.argument("name", metavar="OLD", type=ModuleName())
@click.argument("to", metavar="NEW", type=Text())
@yes_option
@json_option
@with_config
@click.pass_context
def rename(ctx: click.Context, options: Options, name: str, to: str, yes: bool, as_json: bool) -> None:
    """Give a module another name: in the configuration, with what waits in its queue and its recorded cases.

    Comments and order of the configuration stay, and so does where the module's files are. Waiting events, retries and
    dead letters come along, each with its attempts. What was done under the old name stays so; `formerly` in its entry
    says that it was this module. It is refused while a `serve` runs on this state directory, or a dispatcher holds
    events of the module: stop those of other machines first. Cut short, the same again does the rest.

    \b
    Example:
      ion-core module rename blur soften
    """
    from ion_core.cli.module.init import checked_names

    checked_names(to, (), ())
    config, edited = _edit(options, name, to)

    async def work(app: App) -> int:
        with app.state.changing():
            broker = await app.broker()
            stats = await _not_held(broker, name)
            if edited.after == edited.before:
                await _is_the_rest(app, edited, stats, name, to)
            else:
                await _nothing_in(broker, to)
                if stats is not None:
                    await check_not_done(app, name)
            renamed = _write(edited, options, config)
            return await _move_along(app, renamed, broker, name, to) if stats is not None else 0

    _ask(ctx, config, name, yes, f"Call it {plain(to)}?")
    moved = _run(config, work)
    cases = _move_cases(edited.path.parent / "cases", name, to)
    if as_json:
        out_json({"module": name, "to": to, "moved": moved, "cases": str(cases) if cases else None})
        return
    say(f"modules.{plain(name)} is modules.{plain(to)} now in {plain(str(edited.path))}; {moved:,} moved to its queue.")
    if cases:
        say(f"Its recorded cases are in {plain(str(cases))}.")
    from ion_core.scaffold import names_formerly, places_that_say

    if not names_formerly(edited.after, to, name, where=str(edited.path)):
        say(plain(f"modules.{to}: add `formerly: [{name}]`, so that what it did until now is known to be its own."))
    for place in places_that_say(edited.after, name, where=str(edited.path)):
        say(plain(f"{place}: still says {name}. Is that the module?"))


def _edit(options: Options, name: str, to: str | None) -> tuple[Config, _Edited]:
    """The configuration in force, and its file as it is to be: without the module, or with it called ``to``."""
    from ion_core.cli.session import load
    from ion_core.config import find_config
    from ion_core.config.reading import read_regular, reason
    from ion_core.scaffold import with_renamed_module, without_module

    config = load(options)
    path = find_config(options.config)
    try:
        raw = read_regular(path, 1 << 21)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {reason(error)}.") from None
    if name not in config.modules:
        if to is not None and to in config.modules:  # cut short: the rest is to do
            return config, _Edited(path=path, before=raw, after=raw, source=None)
        raise no_module(name, config.modules)
    if to is None:
        after = without_module(raw, name, where=str(path))
    else:
        after = with_renamed_module(raw, name, to, where=str(path))
    return config, _Edited(path=path, before=raw, after=after, source=config.modules[name].source)


def _write(edited: _Edited, options: Options, config: Config) -> Config:
    """The configuration as it is from now on; one that cannot be used is not left there, and raises ConfigError."""
    from ion_core.cli.session import load
    from ion_core.scaffold import replace_text

    if edited.after == edited.before:
        return config
    replace_text(edited.path, edited.after)
    try:
        return load(options, logs_already=True)
    except ConfigError:
        replace_text(edited.path, edited.before)
        raise


def _ask(ctx: click.Context, config: Config, name: str, yes: bool, question: str) -> None:
    """Ends the command with 1 where whoever called says no."""
    if yes:
        return
    check_can_ask(ctx)

    async def look(app: App) -> QueueStats | None:
        return await _stats(await app.broker(), name)

    stats = _run(config, look)
    say(f"In the queue of {plain(name)}: {_holds(stats) if stats is not None else 'nothing, there is none'}.")
    if not click.confirm(question, err=True):
        say("Nothing was changed.")
        ctx.exit(1)


def _run(config: Config, work: Callable[[App], Awaitable[T]]) -> T:
    from ion_core.cli.session import run

    return run(config, work)


async def _stats(broker: MessageBroker, name: str) -> QueueStats | None:
    try:
        return await broker.stats(name)
    except QueueNotDeclared:
        return None


async def _not_held(broker: MessageBroker, name: str) -> QueueStats | None:
    """What its queue has, None where there is none. Raises IonError while a dispatcher holds some of it."""
    stats = await _stats(broker, name)
    if stats is not None and stats.unsettled:
        raise IonError(
            f"{name}: a dispatcher holds {stats.unsettled:,} of its events. Stop it first. Nothing was changed."
        )
    return stats


async def _is_the_rest(app: App, edited: _Edited, stats: QueueStats | None, name: str, to: str) -> None:
    """Raises UsageError where nothing is left of ``name`` to be renamed, IonError for what ``to`` does not take."""
    if stats is None and not (edited.path.parent / "cases" / name).is_dir():
        near = difflib.get_close_matches(name, app.config.modules, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no module called {name[:80]!r}, and nothing is left of one.{hint}")
    if stats is not None:  # it may be a queue of another configuration
        await check_takes(app, name, to)


async def _forget(app: App, name: str) -> None:
    """Which of its messages have failed: its queue is empty, or to be, and its name may be given again."""
    from ion_core.dataplane import forget_rounds_of

    await forget_rounds_of(await app.documents(), name)


async def _nothing_in(broker: MessageBroker, to: str) -> None:
    """Raises IonError where a queue of the new name is there with something in it, which is not the module's."""
    stats = await _stats(broker, to)
    if stats is not None and not _is_empty(stats):
        raise IonError(
            f"{to}: there is a queue of that name, which no module takes, with {_holds(stats)} in it. Choose another "
            f"name, or delete it first: `ion-core module drop {to}`. Nothing was changed."
        )


async def _move_along(app: App, renamed: Config, broker: MessageBroker, name: str, to: str) -> int:
    from ion_core.intake import Intake

    await Intake(await app.dataplane(), renamed.modules.values()).declare()  # collects before the old one does no more
    await let_go(broker, name)
    moved = await broker.move(name, to)
    await _forget(app, name)
    if _is_empty(await broker.stats(name)):
        await broker.drop(name)
    return moved


def _move_cases(directory: Path, name: str, to: str) -> Path | None:
    """Where the recorded cases are now; None where there are none, or there is something already."""
    source, target = directory / name, directory / to
    if not source.is_dir():
        return None
    if target.exists():
        say(plain(f"{source}: is left as it is, as {target} is there already."))
        return None
    shutil.move(source, target)
    return target


def _is_empty(stats: QueueStats) -> bool:
    return not stats.pending and not stats.dead


def _holds(stats: QueueStats) -> str:
    counts: Mapping[str, int] = {"waiting": stats.ready, "retrying": stats.delayed, "dead": stats.dead}
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing"
