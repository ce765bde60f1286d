"""Which dead letters are meant, and how one is described."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ion_core.cli.named import DeadLetterId, EventType, ModuleName
from ion_core.cli.options import Text
from ion_core.cli.whole import Options

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.messaging import DeadLetter, MessageBroker

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which dead letters: these ``ids``, or all that meet every condition given."""

    ids: Sequence[str] = ()
    every: bool = False
    module: str | None = None
    reason: str | None = None
    type: str | None = None

    @property
    def is_narrowed(self) -> bool:
        return (self.module, self.reason, self.type) != (None, None, None)


def narrowed(command: F) -> F:
    """``--module``, ``--reason`` and ``--type``: the command is given ``module``, ``reason`` and ``event_type``."""
    module = click.option("--module", metavar="NAME", type=ModuleName(), help="Only those of this module.")
    reason = click.option(
        "--reason",
        metavar="TEXT",
        type=Text(),
        help="Only those whose reason, or cause as `--by reason` has it, has TEXT.",
    )
    event_type = click.option(
        "--type", "event_type", metavar="TYPE", type=EventType(None), help="Only those of events of this type."
    )
    return module(reason(event_type(command)))


def chosen(command: F) -> F:
    """What says which dead letters are to be changed: ids, or --all, or what narrows."""
    ids = click.argument("ids", metavar="[ID]…", type=DeadLetterId(), nargs=-1)
    every = click.option("--all", "every", is_flag=True, help="All of the modules of the configuration.")
    return ids(every(narrowed(command)))


def run_on(options: Options, work: Callable[[App], Awaitable[Any]], *, reading: bool = False) -> Any:
    from ion_core.cli.session import load, run

    return run(load(options), work, reading=reading)


async def selected(app: App, which: Which) -> list[DeadLetter]:
    """Those that are meant, in brief. Ids alone are taken together with ``module``."""
    return await (by_id(app, which.ids, which.module) if which.ids else find(app, which))


async def find(app: App, which: Which, *, strays: bool = False) -> list[DeadLetter]:
    """Of one module or of all in the configuration, oldest first, that meet the conditions; in brief.

    With ``strays`` also those in queues that no module of the configuration takes. They may be another configuration's:
    whatever means *all* of them to be changed leaves them alone.
    """
    from ion_core.cli.event.messages import queue_of
    from ion_core.letters import brief

    def letters(queue: str) -> Callable[[MessageBroker], Awaitable[list[DeadLetter]]]:
        async def read(broker: MessageBroker) -> list[DeadLetter]:
            async with broker.each_dead_letter(queue) as there:
                return [brief(it) async for it in there if _is_meant(it, which)]

        return read

    found: list[DeadLetter] = []
    for name in await _queues(app, which.module, strays=strays):
        found += await queue_of(app, name, letters(name), empty=[])
    return sorted(found, key=lambda it: it.died_at)


async def each(app: App, which: Which) -> AsyncGenerator[DeadLetter, None]:
    """As ``find`` with strays, whole, and one after the other: queue by queue. Close it where it is left before."""
    from ion_core.cli.event.messages import queue_of

    def is_there(queue: str) -> Callable[[MessageBroker], Awaitable[bool]]:
        async def read(broker: MessageBroker) -> bool:
            await broker.stats(queue)
            return True

        return read

    for name in await _queues(app, which.module, strays=True):
        if await queue_of(app, name, is_there(name), empty=False):
            async with (await app.broker()).each_dead_letter(name) as there:
                async for letter in there:
                    if _is_meant(letter, which):
                        yield letter


def _is_meant(letter: DeadLetter, which: Which) -> bool:
    from ion_core.letters import event_type, says

    if which.reason is not None and not says(letter, which.reason):
        return False
    return which.type is None or event_type(letter) == which.type


async def _queues(app: App, module: str | None, *, strays: bool) -> list[str]:
    names = [module] if module else list(app.config.modules)
    if strays and not module:
        names += [queue.name for queue in await (await app.broker()).queues() if queue.name not in names]
    return names


async def one_by_id(app: App, id: str, module: str | None) -> DeadLetter:
    """As ``by_id``, whole. Of a whole id no other letter is looked at, where the broker finds one by its id."""
    from ion_core.cli.event.messages import queue_of
    from ion_core.errors import DeadLetterNotFound

    def with_id(queue: str, id: str) -> Callable[[MessageBroker], Awaitable[list[DeadLetter]]]:
        async def read(broker: MessageBroker) -> list[DeadLetter]:
            try:
                return [await broker.dead_letter(queue, id)]
            except DeadLetterNotFound:
                return []

        return read

    found: list[DeadLetter] = []
    for name in await _queues(app, module, strays=True):
        found += await queue_of(app, name, with_id(name, id), empty=[])
    if len(found) == 1:
        return found[0]
    [letter] = await by_id(app, [id], module)  # given by its beginning, in two queues, or not there
    return await (await app.broker()).dead_letter(letter.queue, letter.id)


async def by_id(app: App, ids: Sequence[str], module: str | None) -> list[DeadLetter]:
    """Exactly those, in brief, each given whole or by its beginning, unless it is a number.

    Raises DeadLetterNotFound naming what is not there, UsageError for an id that two queues use, or a beginning that
    several have.
    """
    from ion_core.errors import DeadLetterNotFound, UsageError

    by_id: dict[str, list[DeadLetter]] = {}
    for letter in await find(app, Which(module=module), strays=True):
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


def whole_letter(id: str, known: Iterable[str]) -> str:
    """The id that is meant, or as it was given. The beginning of a number is another number."""
    from ion_core.cli.ids import fits, is_enough, the_one

    known = list(known)
    if id in known or not is_enough(id):
        return id
    begun = (it for it in known if fits(it, id) and not it.isdecimal())
    return the_one(begun, id, what="dead letters") or id


def fields(letter: DeadLetter) -> dict[str, Any]:
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
