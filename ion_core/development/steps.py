"""Prepare and commit in the development layout, and the files that a flow starts with.

All of it blocks, and runs an event loop of its own: not to be called on one.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ion_core.commits import Commit
from ion_core.contracts.storage import check_key
from ion_core.development.blobs import PlaceBlobs
from ion_core.development.layout import Layout, Place, damaged, id_of, published_by, published_id
from ion_core.development.plane import PlaceInputs, PlaceOutputs
from ion_core.errors import InvalidKey, IonError, OutOfTurn, UsageError
from ion_core.events import Context, Event, StoredFile, event_meta, parse_context
from ion_core.handler.alone import check_ids
from ion_core.handler.committer import Committer
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.preparer import Preparer
from ion_core.jobs import Attempt, Job
from ion_core.modules import Module

FLOW = "dev"
"""The correlation id of what says none."""
ROOT = "init"
"""The name in the context of what ``dev module init`` makes."""
_START = "development.start"
"""The type that an event without a document is taken to have."""


@dataclass(frozen=True)
class Prepared:
    """Whose job was prepared or committed, and what is to be said of it."""

    context: Context
    place: Place
    lines: list[str]


def init(layout: Layout, files: Mapping[str, Path]) -> str:
    """Make a root with these files, by the name that modules see; the id to pass as parent event id.

    Whoever is prepared below it, under an id of choice, finds all of them. Raises InvalidKey for a name that is none,
    PermanentError for what is no regular file, UsageError where the layout cannot be written.
    """
    for name in files:
        if any(other.startswith(f"{check_key(name)}/") for other in files):
            raise UsageError(f"file name {name!r}: is also the directory of another file. Rename one of them.")
    context = Context(name=ROOT, event_id=str(uuid.uuid4()), correlation_id=FLOW)
    with layout.locked():
        place = layout.place_for(context.event_id, "")
        try:
            place.make()
            stored = asyncio.run(_store(place, files))
            root = Event(context=context, type=_START, files=tuple(files))
            place.write("_root.json", event_meta(root, stored))
        except BaseException:
            shutil.rmtree(place.path, ignore_errors=True)
            raise
    return context.event_id


async def _store(place: Place, files: Mapping[str, Path]) -> list[StoredFile]:
    stored = []
    for name, path in files.items():
        info = await PlaceBlobs(place).put(f"_blobs/{name}", path)
        stored.append(StoredFile(name=name, key=f"_blobs/{name}", size=info.size, sha256=info.sha256))
    return stored


def prepare(layout: Layout, asked: Context, types: Sequence[str], workspace: GivenWorkspace) -> Prepared:
    """Fill ``workspace`` with what the event ``asked.event_id`` brings; ``asked.name`` is the module.

    An event that a job of the layout published brings what was published, whatever parent is named or not; one below
    a root brings the root's files; a new one whose parent was published brings what that one does, so that several
    modules may take it; any other starts a flow and brings nothing. ``types`` are remembered for commit.

    Raises OutOfTurn when the event was prepared before, UsageError when ids contradict what is known, and what
    GivenWorkspace.clear and Preparer.prepare raise; nothing is changed then, but for an error of the disk.
    """
    with layout.locked():
        found = layout.find(asked.event_id)
        if found is not None:
            _refuse_again(found, asked, layout)
        asked, inputs, lines = _inputs(layout, asked)
        inputs.check()
        workspace.clear()
        lines += _take_over(layout, workspace, asked.event_id)
        place = layout.place_for(asked.event_id, asked.parent_event_id)
        place.make()
        event = Event(context=replace(asked, name=ROOT), type=_START)
        lines += asyncio.run(Preparer(inputs).prepare(event, workspace, link=False))
        job = {
            "context": asked.to_json(),
            "eventTypes": list(types),
            "workspace": _real(workspace),
            "preparedAt": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        place.write("_job.json", job)
        place.mark("prepared")
    return Prepared(asked, place, lines)


def _refuse_again(place: Place, asked: Context, layout: Layout) -> None:
    what = f"event {asked.event_id[:80]!r}"
    if place.is_root:
        raise UsageError(
            f"{what}: is where a flow starts, made by `dev module init`. Pass it as the parent event id, and a new id "
            "as the event id."
        )
    if place.is_committed or (place.is_prepared and not place.is_displaced):
        module = _job(place).name
        is_ = "committed" if place.is_committed else "prepared"
        begin = f"emove {place.path} to begin again, with all that followed from it"
        do = f"R{begin}" if place.is_committed else f"Run the module and commit it, or r{begin}"
        other = ""
        if module != asked.name:
            below = ", and this one as its parent" if layout.published(asked.event_id) else ""
            other = f". For another module pass a new event id{below}"
        raise OutOfTurn(f"{what}: is {is_} already, for module {module}. {do}{other}.")


def _inputs(layout: Layout, asked: Context) -> tuple[Context, PlaceInputs, list[str]]:
    """What the event brings, ``asked`` with what is known of it, and what is to be said of that.

    Raises UsageError when they contradict.
    """
    published = layout.published(asked.event_id)
    if published is not None:
        known = parse_context(published.document, what=str(published.place.path), problems=[])
        check_ids(known, asked)
        asked = replace(asked, correlation_id=known.correlation_id, parent_event_id=known.parent_event_id)
        return asked, PlaceInputs(published.place, published.document), []
    if asked.event_id == asked.parent_event_id:
        raise UsageError(
            f"event {asked.event_id[:80]!r}: cannot be its own parent. Pass the event that caused it, or none."
        )
    parent = _known_parent(layout, asked)
    if parent is not None and parent.is_root:
        return _in_flow(asked, FLOW), PlaceInputs(parent, parent.root()), []
    cause = layout.published(asked.parent_event_id) if asked.parent_event_id else None
    if cause is not None:
        flow = parse_context(cause.document, what="", problems=[]).correlation_id
        said = f"nobody published event {asked.event_id}: it is given what {asked.parent_event_id} brings"
        return _in_flow(asked, flow), PlaceInputs(cause.place, cause.document), [said]
    if parent is not None:
        raise _not_published(asked, parent)
    said = f"there is no event {asked.parent_event_id} in {layout.base}: this one starts a flow"
    return _in_flow(asked, FLOW), PlaceInputs(Place(layout.base), None), [said] if asked.parent_event_id else []


def _in_flow(asked: Context, correlation_id: str) -> Context:
    return replace(asked, correlation_id=asked.correlation_id or correlation_id)


def _not_published(asked: Context, parent: Place) -> IonError:
    what = f"event {asked.event_id[:80]!r}: was not published by {asked.parent_event_id[:80]!r}"
    if not parent.is_committed:
        return OutOfTurn(f"{what}, which is not committed yet. Commit that first.")
    ids = [published_id(document) for document in published_by(parent)]
    return UsageError(
        f"{what}. It published: {', '.join(ids) or 'nothing'}. Pass one of these as the event id, or as the parent of "
        "a new one; `dev event list` shows them."
    )


def _known_parent(layout: Layout, asked: Context) -> Place | None:
    """The place of the parent, if anything was made or prepared there."""
    parent = layout.find(asked.parent_event_id) if asked.parent_event_id else None
    return parent if parent is not None and (parent.is_root or parent.is_prepared) else None


def _take_over(layout: Layout, workspace: GivenWorkspace, event_id: str) -> list[str]:
    """Whoever was prepared in this workspace and not committed is displaced: it holds another event now."""
    lines = []
    for place in layout.places():
        job = place.read("_job.json") if place.is_prepared and not place.has_record else None
        if job is not None and job.get("workspace") == _real(workspace) and not place.is_displaced:
            place.write("_job.json", {**job, "displacedBy": event_id})
            lines.append(
                f"event {id_of(place)} had been prepared in {workspace.root} and not committed: it no longer is"
            )
    return lines


def commit(layout: Layout, asked: Context, types: Sequence[str], workspace: GivenWorkspace) -> Prepared:
    """Keep what the module left, whole or not at all; ``types`` are those it may publish, or [] for those of prepare.

    The workspace is left as it is. A commit that was cut short is finished under the same ids. Raises OutOfTurn when
    the event is not prepared, or committed already, UsageError when ids are not those of prepare, OutputRefused naming
    every entry that breaks the module contract; nothing is changed then.
    """
    with layout.locked():
        place = layout.find(asked.event_id)
        if place is None or not (place.is_prepared or place.is_committed):
            raise OutOfTurn(f"event {asked.event_id[:80]!r}: is not prepared. Run prepare first, with the same ids.")
        known = _job(place)
        if place.is_committed:
            raise OutOfTurn(
                f"event {asked.event_id[:80]!r}: is committed already, for module {known.name}: {place.path} has what "
                "it left. Remove that to begin again, with all that followed from it."
            )
        if asked.name and asked.name != known.name:
            raise UsageError(
                f"event {asked.event_id[:80]!r}: was prepared for module {known.name[:80]!r}, not {asked.name[:80]!r}."
            )
        check_ids(known, asked)
        if place.is_displaced:
            raise OutOfTurn(f"event {asked.event_id[:80]!r}: its workspace holds another event now. Prepare it again.")
        job = place.read("_job.json") or {}
        module = Module(name=known.name, publishes=tuple(types or job.get("eventTypes", ())))
        lines = asyncio.run(_commit(place, known, module, workspace, started_at=str(job.get("preparedAt", ""))))
    return Prepared(known, place, lines)


async def _commit(
    place: Place, known: Context, module: Module, workspace: GivenWorkspace, *, started_at: str
) -> list[str]:
    attempt = Attempt(job=Job(event=Event(context=known, type=_START), module=known.name), number=1)
    children = {attempt.job.child_id(name): name for name in _names(workspace.out / "events")}
    outputs = PlaceOutputs(place, children)
    found = await outputs.committed(attempt.job.id)
    if found is not None:
        record, lines = found[0], ["what was cut short is finished"]
    else:
        workspace.check()
        record, lines = await _record(place, attempt, module, workspace, outputs, started_at)
    outputs.publish(record)
    return lines


async def _record(
    place: Place,
    attempt: Attempt,
    module: Module,
    workspace: GivenWorkspace,
    outputs: PlaceOutputs,
    started_at: str,
) -> tuple[Commit, list[str]]:
    place.clear_output()  # of a commit that never got to its record
    committer = Committer(outputs, prefix=lambda _: "_blobs", consume=False)
    committed = await committer.commit(attempt, module, workspace, image=None, started_at=started_at)
    return committed.commit, committed.lines


def _names(directory: Path) -> list[str]:
    """Event files as they are called; what is wrong with them, or with others, is for the committer to say."""
    try:
        return [path.name for path in directory.iterdir() if _is_key(path.name)]
    except OSError:
        return []


def _is_key(name: str) -> bool:
    try:
        return bool(check_key(name))
    except InvalidKey:
        return False


def _job(place: Place) -> Context:
    """Who was prepared at ``place``. Raises OutOfTurn where Ion did not prepare it, StateError if damaged."""
    job = place.read("_job.json")
    if job is None:
        raise OutOfTurn(f"{place.path}: was not prepared by Ion. Remove it and prepare again.")
    problems: list[str] = []
    context = parse_context(job, what="_job.json", problems=problems)
    types = job.get("eventTypes")
    if problems or not isinstance(types, list) or not all(isinstance(event_type, str) for event_type in types):
        raise damaged(place, "_job.json")
    return context


def _real(workspace: GivenWorkspace) -> str:
    return str(workspace.root.resolve())
