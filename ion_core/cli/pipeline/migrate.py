"""``ion-core migrate``: what one configuration's providers keep, to those of another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.left_queues import remove_left_queues
from ion_core.cli.options import PathText, check_can_ask, json_option, verbose_option, yes_option
from ion_core.cli.output import hide_with, out, out_json, plain, say
from ion_core.cli.progress import progress
from ion_core.cli.whole import Options
from ion_core.errors import ProviderError, UsageError, passing_over_damage
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config
    from ion_core.contracts.messaging import QueueStats
    from ion_core.contracts.storage import Document
    from ion_core.migration import Copied, Moved
    from ion_core.opening import Chosen

_NAMED = 20
"""Of many problems, so many are named."""


@click.command("migrate")
@click.option("--from", "source", metavar="FILE", type=PathText(), required=True, help="The configuration as it was.")
@click.option("--to", "target", metavar="FILE", type=PathText(), required=True, help="The one that is to be served.")
@click.option("--dry-run", is_flag=True, help="Change nothing, say what there is to move.")
@click.option("--with-gaps", is_flag=True, help="Move what waits though documents or files could not be copied.")
@yes_option
@json_option
@verbose_option
@click.pass_context
def command(
    ctx: click.Context, source: str, target: str, dry_run: bool, with_gaps: bool, yes: bool, as_json: bool
) -> None:
    """Bring what is stored and what waits to another configuration.

    Documents and their files are copied, each file against its sha256, and stay where they were. Then waiting events
    and dead letters move, each with its attempts: they are stored there before they are removed here. What both
    configurations share, such as the same document store, is left alone. Queues of modules that only the first one has
    come along. Events that wait for a retry are waited for.

    With --dry-run it is said how much there is, and nothing changed; all documents are read for that.

    Nothing may run meanwhile: it is refused while a `serve` runs on either state directory, or somebody holds an event.
    Cut short, it says how far it has come, and the same again does the rest. When a document or a file could not be
    copied, no event is moved, and the exit code is 1: see to it and migrate again, or say --with-gaps.

    \b
    Example:
      ion-core migrate --from ion.yaml --to cluster.yaml --dry-run
    """
    from ion_core.cli.session import run

    if not yes and not dry_run:
        check_can_ask(ctx, "say --yes to do it, or --dry-run")
    sides = _load(ctx, source, target)
    found = run(sides.source, lambda app: _look(app, sides, counting=dry_run), reading=True)
    if not as_json:
        _show(found, sides)
    if dry_run:
        if as_json:
            out_json({"dryRun": True, "shared": sides.shared, **found.to_json()})
        return
    if len(sides.shared) == len(_PARTS):
        raise UsageError(f"{source} and {target}: keep everything in the same places. There is nothing to move.")
    if not yes and not click.confirm("Stop whatever serves these, then go on. Move it?", err=True):
        say("Nothing was moved.")
        ctx.exit(1)
    moved = run(sides.source, lambda app: _migrate(app, sides, with_gaps))
    if as_json:
        out_json({"dryRun": False, "shared": sides.shared, **moved.to_json()})
    else:
        _tell(moved)
    if moved.problems:
        ctx.exit(1)


# The two sides

_PARTS = {"messaging": "messaging", "storage.blobs": "blobs", "storage.documents": "documents"}
"""Sections, and what the configuration calls them."""


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """Both configurations; ``shared`` are the sections that keep things in the same place in both."""

    source: Config
    target: Config
    shared: Sequence[str]

    def chosen(self, part: str) -> tuple[Chosen, Chosen]:
        """What each chose for that section."""
        return getattr(self.source, _PARTS[part]), getattr(self.target, _PARTS[part])


def _load(ctx: click.Context, source: str, target: str) -> _Sides:
    from ion_core.cli.session import load

    options = [Options(verbose=ctx.ensure_object(Options).verbose) for _ in range(2)]
    options[0].config, options[1].config = source, target
    first, second = load(options[0]), load(options[1], logs_already=True)
    hide_with(first.hidden.with_those_of(second.hidden).masked)
    sides = _Sides(source=first, target=second, shared=())
    shared = [part for part in _PARTS if _is_same(*sides.chosen(part))]
    return _Sides(source=first, target=second, shared=shared)


def _is_same(one: Chosen, other: Chosen) -> bool:
    """Whether both say the same. Others may mean one place: a copy into itself does no harm, and see ``_ready``."""
    return one.provider.name == other.provider.name and bool(one.settings.model_dump() == other.settings.model_dump())


# What there is


@dataclass(kw_only=True)
class _Found:
    """What waits in each queue; ``documents`` of a dry run, None where they stay."""

    queues: Mapping[str, QueueStats]
    documents: int | None = None

    @property
    def waiting(self) -> int:
        return sum(it.ready + it.delayed for it in self.queues.values())

    @property
    def dead(self) -> int:
        return sum(it.dead for it in self.queues.values())

    def to_json(self) -> dict[str, Any]:
        return {"documents": self.documents, "waiting": self.waiting, "deadLetters": self.dead}


async def _look(app: App, sides: _Sides, *, counting: bool = False) -> _Found:
    """Raises IonError where somebody holds an event. With ``counting`` all documents are read."""
    from ion_core.migration import queues_at_rest

    found = _Found(queues={})
    if "messaging" not in sides.shared:
        found.queues = await queues_at_rest(await app.broker(), where=_where(sides.source))
    if counting and "storage.documents" not in sides.shared:
        found.documents = 0
        damaged: list[str] = []
        with passing_over_damage(damaged.extend):
            async for _ in (await app.documents()).find():
                found.documents += 1
        _name(damaged)
    return found


def _where(config: Config) -> str:
    return config.messaging.named(str(config.path))


def _show(found: _Found, sides: _Sides) -> None:
    for part in _PARTS:
        source, target = sides.chosen(part)
        what = "the same in both, left alone" if part in sides.shared else f"to {target.named(target.where)}"
        out(plain(f"{source.named(part)}: {what}."))
    if "messaging" not in sides.shared:
        out(f"There wait {counted(found.waiting, 'event')} and {counted(found.dead, 'dead letter')}.")
    if found.documents is not None:
        out(f"There are {counted(found.documents, 'document')} to be copied, and the files that they name.")


# Doing it


async def _migrate(app: App, sides: _Sides, with_gaps: bool) -> Moved:
    from ion_core.app import App
    from ion_core.migration import Moved

    async with App.open(sides.target) as other:
        with ExitStack() as alone:
            alone.enter_context(app.state.changing())
            if not app.state.path.samefile(other.state.path):
                alone.enter_context(other.state.changing())
            moved = Moved()
            try:
                await _move(app, other, sides, moved, with_gaps)
            except (asyncio.CancelledError, ProviderError) as error:
                if moved != Moved() or isinstance(error, asyncio.CancelledError):
                    say(" ".join([*_done(moved), "The same again does the rest."]))
                raise
            return moved


async def _move(app: App, other: App, sides: _Sides, moved: Moved, with_gaps: bool) -> None:
    """What is refused is refused before anything is copied."""
    from ion_core.migration import move_queues

    queues: Mapping[str, QueueStats] = {}
    if "messaging" not in sides.shared:
        await remove_left_queues(app)
        queues = (await _look(app, sides)).queues
        await _ready(app, other, sides)
    await _copy(app, other, sides, moved, with_gaps)
    moved.stayed = bool(moved.problems) and not with_gaps
    if queues and not moved.stayed:
        source, target = await app.broker(), await other.broker()
        await move_queues(source, target, queues, moved, state_id=other.state.id(), progress=progress)


async def _ready(app: App, other: App, sides: _Sides) -> None:
    """Have the queues of all modules, and nobody who takes from them. Raises UsageError where both are one broker."""
    from ion_core.migration import check_are_two, queues_at_rest

    await other.intake()
    await remove_left_queues(other)
    target = await other.broker()
    await queues_at_rest(target, where=_where(sides.target))
    where = ", ".join(it.named(it.where) for it in sides.chosen("messaging"))
    await check_are_two(await app.broker(), target, state_id=app.state.id(), where=where)


async def _copy(app: App, other: App, sides: _Sides, moved: Moved, with_gaps: bool) -> None:
    from ion_core.migration import PASSING, Share, copied_before, copy_stores

    copies_documents, copies_blobs = (it not in sides.shared for it in ("storage.documents", "storage.blobs"))
    if not copies_documents and not copies_blobs:
        return
    stores = [app.config.documents, other.config.documents, app.config.blobs, other.config.blobs]
    origin = " ".join(it.named(it.where) for it in stores)
    directory = other.state.emptied("migration", PASSING).parent  # of one that was killed there may be files
    documents = await app.documents()
    with progress(Share.WHOLE, "documents and files") as advance:
        share = await Share.of(documents.find(newest_first=True, limit=1), documents.find(limit=1))

        def count(so_far: Copied) -> None:
            moved.documents, moved.files, moved.size = so_far.documents, so_far.files, so_far.size

        def done(so_far: Copied, last: Document) -> None:
            count(so_far)
            advance(share.further(last))

        copied = await copy_stores(
            copied_before(directory, origin),
            documents=(documents, await other.documents() if copies_documents else None),
            blobs=(await app.blobs(), await other.blobs()) if copies_blobs else None,
            directory=directory,
            with_gaps=with_gaps,
            done=done,
        )
    count(copied)
    moved.problems += copied.problems


def _done(moved: Moved) -> Sequence[str]:
    files = f"{counted(moved.files, 'file')} of {moved.size / 1024**2:,.1f} MiB"
    messages = f"{counted(moved.waiting, 'waiting event')} and {counted(moved.dead, 'dead letter')}"
    return [f"Copied {counted(moved.documents, 'document')} and {files}.", f"Moved {messages}."]


def _tell(moved: Moved) -> None:
    for line in _done(moved):
        out(line)
    _name(moved.problems)
    if moved.stayed:
        say(
            "So no waiting event and no dead letter was moved. See to these and migrate again; or say --with-gaps to "
            "move them all the same."
        )


def _name(problems: Sequence[str]) -> None:
    for problem in problems[:_NAMED]:
        say(plain(problem))
    if len(problems) > _NAMED:
        say(f"and {len(problems) - _NAMED:,} more")
