"""``ion-core dlq list``, ``show``, ``redrive`` and ``purge``."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ion_core.cli.group import Group
from ion_core.cli.named import DeadLetterId, ModuleName
from ion_core.cli.options import Text, check_can_ask, json_option, with_config
from ion_core.cli.output import (
    ago,
    out,
    out_array,
    out_json,
    out_table,
    plain,
    plain_lines,
    results,
    say,
    shortened,
    shown_ids,
    to_json,
)
from ion_core.cli.whole import Options
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.messaging import DeadLetter, MessageBroker

F = TypeVar("F", bound=Callable[..., Any])

SHOWN = ("id", "module", "type", "eventId", "attempts", "diedAt")

module_option = click.option("--module", metavar="NAME", type=ModuleName(), help="Only those of this module.")
reason_option = click.option("--reason", metavar="TEXT", type=Text(), help="Only those whose reason contains TEXT.")


def _chosen(command: F) -> F:
    """What says which dead letters are meant: ids, or --all, or --reason."""
    ids = click.argument("ids", metavar="[ID]…", type=DeadLetterId(), nargs=-1)
    every = click.option("--all", "every", is_flag=True, help="All of the modules of the configuration.")
    return ids(every(reason_option(module_option(command))))


@click.group("dlq", cls=Group)
def command() -> None:
    """Dead letters: list, show, redrive or purge them.

    A dead letter is an event that a module could not handle, kept aside after the last attempt.
    """


@command.command("list")
@module_option
@reason_option
@json_option
@with_config
def list_letters(options: Options, module: str | None, reason: str | None, as_json: bool) -> None:
    """List the dead letters, oldest first; also those in queues that no module of the configuration takes.

    On a terminal ids are short and lines are cut to fit; with --verbose nothing is.
    """
    from ion_core.cli.session import load, run

    config = load(options)
    letters = run(config, lambda app: _find(app, module, reason, strays=True), reading=True)
    entries = [_fields(letter) for letter in letters]
    if as_json:
        out_array(entries)
        return
    _print_list(entries, whole=options.verbose)
    for stray in sorted({letter.queue for letter in letters} - config.modules.keys()):
        text = "no module of this configuration takes it. `ion-core module move` gives what lies there to another."
        say(f"{plain(stray)}: {text}")
    if not entries:
        say("There are no such dead letters." if module or reason else "There are no dead letters.")


def _print_list(entries: Sequence[dict[str, Any]], *, whole: bool) -> None:
    from datetime import UTC, datetime

    here = results().isatty() and not whole
    now, rows = datetime.now(UTC), []
    ids = shown_ids((entry["id"] for entry in entries), whole=whole)
    events = shown_ids((entry["eventId"] for entry in entries if entry["eventId"] is not None), whole=whole)
    for entry in entries:
        cells = {key: _cell(entry[key]) for key in SHOWN}
        cells |= {"id": ids[entry["id"]], "eventId": events.get(entry["eventId"], cells["eventId"])}
        if here:
            cells["diedAt"] = ago(datetime.fromisoformat(entry["diedAt"]), now)
        rows.append([*cells.values(), entry["reason"] if whole else shortened(entry["reason"], 100)])
    headers = ["ID", "MODULE", "TYPE", "EVENT ID", "ATTEMPTS", "AGE" if here else "DIED AT", "REASON"]
    out_table(headers, rows, fit=not whole, cuttable=("MODULE", "TYPE"))


@command.command("show")
@click.argument("id", type=DeadLetterId())
@module_option
@json_option
@with_config
def show(options: Options, id: str, module: str | None, as_json: bool) -> None:
    """Show one dead letter: the event, why it was given up, and the last lines of the module's log."""
    for letter in _run(options, lambda app: _by_id(app, [id], module), reading=True):
        entry = {**_fields(letter), **_content(letter)}
        if as_json:
            out_json(entry, indent=2)
            continue
        for key in (*SHOWN, "correlationId", "reason"):
            out(f"{key + ':':<15}{plain(_cell(entry[key]))}")
        if entry["event"] is None:
            out(f"the body is no event: {plain(entry['unreadable'])}\nbody:\n{plain_lines(entry['body'])}")
        else:
            out(f"event:\n{to_json(entry['event'], indent=2)}")
        if letter.log_tail:
            out("\n".join(["last lines of its log:", *(f"  {plain(line)}" for line in letter.log_tail)]))
        say(f"Once what was wrong is mended: ion-core dlq redrive{options.flags()} {shlex.quote(plain(letter.id))}")


@command.command("redrive")
@_chosen
@json_option
@with_config
def redrive(
    options: Options, ids: Sequence[str], every: bool, reason: str | None, module: str | None, as_json: bool
) -> None:
    """Put dead letters back into their queues; attempts are counted from 1 again.

    \b
    Examples:
      ion-core dlq redrive 17 18
      ion-core dlq redrive --all --module detect
    """

    async def work(app: App) -> int:
        letters = await _selected(app, ids, every, reason, module)
        return await _forgotten(app, letters, (await app.broker()).redrive)

    _check_choice(ids, every, reason)
    count = _run(options, work)
    if as_json:
        out_json({"redriven": count})
        return
    say(f"{count} put back.")


@command.command("purge")
@_chosen
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@with_config
@click.pass_context
def purge(
    ctx: click.Context,
    options: Options,
    ids: Sequence[str],
    every: bool,
    reason: str | None,
    module: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters for good. From then on their events may be published anew.

    \b
    Example:
      ion-core dlq purge --reason "exit code 3" --yes
    """
    _check_choice(ids, every, reason)
    if not yes:
        check_can_ask(ctx, "say --yes to delete them for good")
    letters = _run(options, lambda app: _selected(app, ids, every, reason, module))
    if letters and not yes and not click.confirm(f"Delete {counted(len(letters), 'dead letter')} for good?", err=True):
        say("Nothing was deleted.")
        ctx.exit(1)

    async def work(app: App) -> int:
        return await _forgotten(app, letters, (await app.broker()).purge)

    count = _run(options, work)
    if as_json:
        out_json({"purged": count})
        return
    say(f"{count} deleted.")


def _run(options: Options, work: Callable[[App], Awaitable[Any]], *, reading: bool = False) -> Any:
    from ion_core.cli.session import load, run

    return run(load(options), work, reading=reading)


def _check_choice(ids: Sequence[str], every: bool, reason: str | None) -> None:
    if (bool(ids), every or reason is not None).count(True) != 1:
        raise click.UsageError("say which: their ids (`ion-core dlq list` shows them), or --all, or --reason TEXT.")


async def _selected(
    app: App, ids: Sequence[str], every: bool, reason: str | None, module: str | None
) -> list[DeadLetter]:
    return await (_by_id(app, ids, module) if ids else _find(app, module, reason))


async def _find(app: App, module: str | None, reason: str | None = None, *, strays: bool = False) -> list[DeadLetter]:
    """Of one module or of all in the configuration, oldest first, whose reason has that text.

    With ``strays`` also those in queues that no module of the configuration takes. They may be another configuration's:
    whatever means *all* of them to be changed leaves them alone.
    """
    from ion_core.cli.event.messages import queue_of

    def letters(queue: str) -> Callable[[MessageBroker], Awaitable[Sequence[DeadLetter]]]:
        return lambda broker: broker.dead_letters(queue)

    found: list[DeadLetter] = []
    names = [module] if module else list(app.config.modules)
    if strays and not module:
        names += [queue.name for queue in await (await app.broker()).queues() if queue.name not in names]
    for name in names:
        found += await queue_of(app, name, letters(name), empty=())
    wanted = (reason or "").casefold()
    return sorted((it for it in found if wanted in it.reason.casefold()), key=lambda it: it.died_at)


async def _by_id(app: App, ids: Sequence[str], module: str | None) -> list[DeadLetter]:
    """Exactly those, each given whole or by its beginning, unless it is a number.

    Raises DeadLetterNotFound naming what is not there, UsageError for an id that two queues use, or a beginning that
    several have.
    """
    from ion_core.errors import DeadLetterNotFound, UsageError

    by_id: dict[str, list[DeadLetter]] = {}
    for letter in await _find(app, module, strays=True):
        by_id.setdefault(letter.id, []).append(letter)
    ids = list(dict.fromkeys(whole_letter(id, by_id) for id in ids))
    if missing := [id for id in ids if id not in by_id]:
        names = ", ".join(repr(id[:80]) for id in missing)
        raise DeadLetterNotFound(f"no dead letter {names}. `ion-core dlq list` shows those there are.")
    for id in ids:
        if len(by_id[id]) > 1:
            modules = ", ".join(letter.queue for letter in by_id[id])
            raise UsageError(f"dead letter {id[:80]!r}: more than one module has it: {modules}. Say --module NAME.")
    return [by_id[id][0] for id in ids]


async def _forgotten(app: App, letters: Sequence[DeadLetter], call: Callable[..., Awaitable[int]]) -> int:
    """``call`` once nothing says any more that these are dead, so that their events may be published and run anew."""
    from ion_core.dataplane import forget_rounds

    await forget_rounds(await app.documents(), letters)
    return await _for_each_queue(letters, call)


def whole_letter(id: str, known: Iterable[str]) -> str:
    """The id that is meant, or as it was given. The beginning of a number is another number."""
    from ion_core.cli.ids import fits, is_enough, the_one

    known = list(known)
    if id in known or not is_enough(id):
        return id
    begun = (it for it in known if fits(it, id) and not it.isdecimal())
    return the_one(begun, id, what="dead letters") or id


async def _for_each_queue(letters: Sequence[DeadLetter], call: Callable[[str, Sequence[str]], Awaitable[int]]) -> int:
    by_queue: dict[str, list[str]] = {}
    for letter in letters:
        by_queue.setdefault(letter.queue, []).append(letter.id)
    return sum([await call(queue, ids) for queue, ids in by_queue.items()])


def _fields(letter: DeadLetter) -> dict[str, Any]:
    from ion_core.cli.event.messages import described

    event = described(letter.body)
    return {
        "id": letter.id,
        "module": letter.queue,
        "eventId": event["eventId"],
        "correlationId": event["correlationId"],
        "type": event["type"],
        "reason": letter.reason,
        "attempts": letter.attempts,
        "diedAt": letter.died_at.isoformat(timespec="milliseconds"),
    }


def _content(letter: DeadLetter) -> dict[str, Any]:
    from ion_core.cli.event.messages import described

    content = {key: value for key, value in described(letter.body).items() if key in ("event", "unreadable", "body")}
    return {**content, "headers": dict(letter.headers), "logTail": list(letter.log_tail)}


def _cell(value: Any) -> str:
    return "(unreadable)" if value is None else str(value)
