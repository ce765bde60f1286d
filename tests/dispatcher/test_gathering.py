"""A gatherer runs once for its scope, when all beneath it is done: around the whole dispatcher, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.storage import Document
from ion_core.dataplane import forget_rounds_of
from ion_core.errors import TransientError, Unroutable
from ion_core.events import COMMIT, GATHERED, GATHERING, GIVEN_UP, parse_event
from ion_core.gathered import gathered_type
from ion_core.gathering.evaluating import Evaluations
from ion_core.gathering.giving_up import GivingUp
from ion_core.gathering.graph import joined
from ion_core.gathering.waiting import waits_in
from ion_core.intake import Intake
from ion_core.jobs import job_id
from ion_core.modules import Gather
from ion_core.retention import collect
from tests.support.worlds import PATIENCE, World, does, emit, exits

NO_RETRY = RetryPolicy(retries=0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def pairs(workspace: Path) -> dict[str, str]:
    return {it["key"]: it["value"] for it in json.loads((workspace / "in" / "eventmeta.json").read_text())}


def splits(event_type: str, count: int | None = None) -> Any:
    """A module that makes as many events as its event says (``n``), each with a file of one name."""

    def work(workspace: Path) -> None:
        given = pairs(workspace)
        for n in range(int(given["n"]) if count is None else count):
            directory = workspace / "out" / "data" / str(n)
            directory.mkdir()
            (directory / "same.txt").write_text(str(n))
            i = f"{given['i']}.{n}" if "i" in given else str(n)
            more = (("i", i), ("page", str(n % 2)))
            emit(workspace, event_type, *more, files=f"{n}/same.txt", name=f"{n:04}.json")

    return does(work)


def passes_on(event_type: str, *, broken: str = "") -> Any:
    async def program(workspace: Path, env: Mapping[str, str]) -> int:
        given = pairs(workspace)
        if given["i"] == broken:
            return 3
        [file] = [it for it in (workspace / "in" / "data").rglob("*") if it.is_file()]
        (workspace / "out" / "data" / "thumb.txt").write_text(f"thumb of {file.read_text()}")
        emit(workspace, event_type, *((key, given[key]) for key in ("i", "page")), files="thumb.txt")
        return 0

    return program


class Sheets:
    """A gatherer that remembers what it was given."""

    def __init__(self, *emits: str) -> None:
        self.given: list[dict[str, Any]] = []
        self.texts: list[list[str]] = []
        self.pairs: list[dict[str, str]] = []
        self._emits = emits

    async def __call__(self, workspace: Path, env: Mapping[str, str]) -> int:
        told = json.loads((workspace / "in" / "gathered.json").read_text())
        self.given.append(told)
        files = [file for event in told["events"] for file in event["files"]]
        self.texts.append([(workspace / "in" / "data" / file).read_text() for file in files])
        meta = workspace / "in" / "eventmeta.json"
        self.pairs.append(pairs(workspace) if meta.exists() else {})
        for event_type in self._emits:
            emit(workspace, event_type, ("count", str(len(told["events"]))))
        return 0

    @property
    def seen(self) -> list[list[str]]:
        """The ``i`` of the events of each run."""
        return [[dict_of(event)["i"] for event in told["events"]] for told in self.given]


def dict_of(event: Mapping[str, Any]) -> dict[str, str]:
    return {it["key"]: it["value"] for it in event["data"]}


def album(world: World, *, broken: str = "", **gather: Any) -> Sheets:
    sheets = Sheets("sheet.made")
    known: dict[str, Any] = {"events": ("thumb.made",), "within": "album"}
    world.add(splits("photo"), "split", takes="album", emits=["photo"])
    world.add(passes_on("thumb.made", broken=broken), "thumb", takes="photo", emits=["thumb.made"], concurrency=3,
              retry=NO_RETRY)  # fmt: skip
    gathers(world, "sheet", sheets, emits=["sheet.made"], **known | gather)
    return sheets


def gathers(world: World, name: str, program: Any, *, emits: list[str], **gather: Any) -> None:
    world.add(program, name, takes=gathered_type(name), emits=emits, gather=Gather(**gather), retry=NO_RETRY)


def nothing_is_owed(world: World) -> bool:
    return not any(it.pending for it in world.documents.documents.values())


async def test_it_runs_once_with_everything_in_the_order_of_the_tree(world: World) -> None:
    sheets = album(world)
    event = await world.publish("album", data=[("n", "5")])
    await world.run()
    assert sheets.seen == [["0", "1", "2", "3", "4"]]
    assert sheets.texts == [[f"thumb of {n}" for n in range(5)]]
    [told] = sheets.given
    assert [it["files"] for it in told["events"]] == [[f"000{n}/thumb.txt"] for n in range(1, 6)]
    assert [it["directory"] for it in told["events"]] == [f"000{n}" for n in range(1, 6)]
    assert {(it["type"], it["name"]) for it in told["events"]} == {("thumb.made", "thumb")}
    assert told["scope"] == {"eventId": event.context.event_id, "type": "album"}
    assert (told["by"], told["missing"]) == (None, [])
    assert sheets.pairs == [{"n": "5"}]
    assert nothing_is_owed(world)


@pytest.mark.parametrize("count", [0, 1])
async def test_nothing_and_one_are_gathered_as_many_are(world: World, count: int) -> None:
    sheets = album(world)
    await world.publish("album", data=[("n", str(count))])
    await world.run()
    assert [len(it) for it in sheets.seen] == [count]
    assert nothing_is_owed(world)


async def test_where_there_is_nothing_it_can_be_skipped(world: World) -> None:
    sheets = album(world, if_none="skip")
    await world.publish("album", data=[("n", "0")])
    await world.run()
    assert sheets.seen == []
    assert nothing_is_owed(world)


async def test_each_scope_has_a_job_of_its_own(world: World) -> None:
    sheets = album(world)
    for count in (2, 3):
        await world.publish("album", data=[("n", str(count))])
    await world.run()
    assert sorted(len(it) for it in sheets.seen) == [2, 3]


async def test_by_a_pair_there_is_a_job_for_each_value(world: World) -> None:
    sheets = album(world, by="page")
    await world.publish("album", data=[("n", "5")])
    await world.run()
    found = {told["by"]["value"]: seen for told, seen in zip(sheets.given, sheets.seen, strict=True)}
    assert found == {"0": ["0", "2", "4"], "1": ["1", "3"]}
    assert nothing_is_owed(world)


async def test_without_a_scope_it_is_the_first_event_of_the_flow(world: World) -> None:
    sheets = album(world, within=None)
    world.add(exits(0), "other", takes="unrelated", emits=[])
    await world.publish("album", data=[("n", "2")])
    await world.publish("unrelated")
    await world.run()
    assert sheets.seen == [["0", "1"]]


async def test_a_dead_letter_holds_it_back_until_it_is_purged(world: World) -> None:
    sheets = album(world, broken="1")
    event = await world.publish("album", data=[("n", "3")])
    await world.run()
    assert sheets.seen == []
    assert [it.body["context"]["eventId"] for it in world.documents_of(GATHERING) if it.pending] == [
        event.context.event_id
    ]
    assert await world.purge("thumb") == 1
    await world.run()
    assert sheets.seen == [["0", "2"]]
    [missing] = sheets.given[0]["missing"]
    assert (missing["type"], missing["module"], missing["reason"]) == (
        "photo",
        "thumb",
        "exit code 3 (attempt 1, the last)",
    )
    assert nothing_is_owed(world)


async def test_what_it_waits_for_is_told(world: World) -> None:
    album(world, broken="1")
    event = await world.publish("album", data=[("n", "3")])
    await world.run()
    flow, id = event.context.correlation_id, event.context.event_id
    [waits] = await waits_in(world.documents, flow, joined(world.modules))
    [awaited] = waits.awaited
    assert (waits.gatherer, waits.scope, waits.known) == ("sheet", id, True)
    assert (awaited.module, awaited.type, awaited.dead) == ("thumb", "photo", True)
    # Without the gatherer it is said, too, that it waited.
    [waits] = await waits_in(world.documents, flow, joined(world.modules[:2]))
    assert (waits.gatherer, waits.known, waits.awaited) == ("sheet", False, ())
    await world.purge("thumb")
    await world.run()
    assert await waits_in(world.documents, flow, joined(world.modules)) == []


async def test_a_dead_letter_holds_it_back_until_its_job_commits(world: World) -> None:
    sheets = album(world, broken="1")
    await world.publish("album", data=[("n", "3")])
    await world.run()
    world.programs["thumb"] = passes_on("thumb.made")
    await world.redrive("thumb")
    await world.run()
    assert sheets.seen == [["0", "1", "2"]]
    assert sheets.given[0]["missing"] == []


async def test_it_can_go_without_what_was_given_up_and_is_told(world: World) -> None:
    sheets = album(world, broken="1", missing="go")
    await world.publish("album", data=[("n", "3")])
    await world.run()
    assert sheets.seen == [["0", "2"]]
    assert [it["module"] for it in sheets.given[0]["missing"]] == ["thumb"]
    assert nothing_is_owed(world)
    world.programs["thumb"] = passes_on("thumb.made")
    await world.redrive("thumb")
    await world.run()
    assert sheets.seen == [["0", "2"]]  # it was decided
    assert len(world.commits) == 5
    assert nothing_is_owed(world)


async def test_what_is_redriven_is_waited_for_again(world: World) -> None:
    sheets = album(world, broken="1", missing="go")
    go = asyncio.Event()
    thumb = world.programs["thumb"]

    async def waits(workspace: Path, env: Mapping[str, str]) -> int:
        if pairs(workspace)["i"] == "0":
            await go.wait()
        return await thumb(workspace, env)

    world.programs["thumb"] = waits
    await world.publish("album", data=[("n", "3")])
    async with world.serving():
        await world.observed.finishes(3)
        assert await world.dead("thumb")
        thumb = passes_on("thumb.made")
        await world.redrive("thumb")
        await world.observed.finishes(4)
        go.set()
        await world.broker.idle()
    assert sheets.seen == [["0", "1", "2"]]
    assert sheets.given[0]["missing"] == []


async def test_a_first_job_that_is_given_up_is_missing_too(world: World) -> None:
    sheets = album(world, missing="go")
    world.programs["split"] = exits(3)
    await world.publish("album", data=[("n", "3")])
    await world.run()
    assert [(told["events"], [it["module"] for it in told["missing"]]) for told in sheets.given] == [([], ["split"])]


async def test_a_gatherer_within_another_and_what_it_makes_gathered_again(world: World) -> None:
    pages, sheets = Sheets("page.made"), Sheets()
    world.add(splits("photo"), "split", takes="album", emits=["photo"])
    world.add(splits("part", 2), "parts", takes="photo", emits=["part"])
    world.add(passes_on("thumb.made"), "thumb", takes="part", emits=["thumb.made"], concurrency=4)
    gathers(world, "page", pages, emits=["page.made"], events=("thumb.made",), within="photo")
    gathers(world, "sheet", sheets, emits=[], events=("page.made", "thumb.made"), within="album")
    await world.publish("album", data=[("n", "3")])
    await world.run()
    assert sorted(pages.seen) == [[f"{n}.0", f"{n}.1"] for n in range(3)]
    [told] = sheets.given
    assert [it["type"] for it in told["events"]] == ["thumb.made", "thumb.made", "page.made"] * 3
    assert nothing_is_owed(world)


async def test_who_waits_for_a_gatherer_that_is_skipped_need_not(world: World) -> None:
    pages, sheets = Sheets("page.made"), Sheets()
    world.add(splits("photo"), "split", takes="album", emits=["photo"])
    world.add(exits(0), "thumb", takes="photo", emits=["thumb.made"])
    gathers(
        world, "page", pages, emits=["page.made"], events=("thumb.made",), within="photo", if_none="skip"
    )  # fmt: skip
    gathers(world, "sheet", sheets, emits=[], events=("page.made",), within="album")
    await world.publish("album", data=[("n", "2")])
    await world.run()
    assert (pages.given, [told["events"] for told in sheets.given]) == ([], [[]])
    assert nothing_is_owed(world)


async def test_a_scope_within_its_own_kind_is_not_looked_into(world: World) -> None:
    """An album in an album: the thumbnails of the inner one are the inner one's."""
    sheets = Sheets()

    def work(workspace: Path) -> None:
        given = pairs(workspace)
        (workspace / "out" / "data" / "f").write_text(given["i"])
        emit(workspace, "photo", ("i", given["i"]), ("page", "0"), files="f", name="0.json")
        if given["i"] == "outer":
            emit(workspace, "album", ("i", "inner"), name="1.json")

    world.add(does(work), "split", takes="album", emits=["photo", "album"])
    world.add(passes_on("thumb.made"), "thumb", takes="photo", emits=["thumb.made"])
    gathers(world, "sheet", sheets, emits=[], events=("thumb.made",), within="album")
    await world.publish("album", data=[("i", "outer")])
    await world.run()
    assert sorted(sheets.seen) == [["inner"], ["outer"]]


async def test_an_event_that_nobody_takes_and_one_that_leads_elsewhere_are_not_waited_for(world: World) -> None:
    sheets = album(world)

    def work(workspace: Path) -> None:
        (workspace / "out" / "data" / "f").write_text("f")
        emit(workspace, "photo", ("i", "0"), ("page", "0"), files="f", name="0.json")
        emit(workspace, "ends.here", name="1.json")
        emit(workspace, "elsewhere", name="2.json")

    world.programs["split"] = does(work)
    never = asyncio.Event()

    async def forever(workspace: Path, env: Mapping[str, str]) -> int:
        await never.wait()
        return 0

    split = world.modules[0]
    world.modules[0] = type(split)(**vars(split) | {"publishes": ("photo", "ends.here", "elsewhere")})
    world.add(forever, "slow", takes="elsewhere", emits=[])
    await world.publish("album", data=[("n", "1")])
    async with world.serving():
        await world.observed.until(lambda: bool(sheets.given))
        never.set()
        await world.broker.idle()
    assert sheets.seen == [["0"]]


async def test_the_last_two_that_commit_at_the_same_moment_start_it_once(world: World, tmp_path: Path) -> None:
    sheets = album(world)
    await world.publish("album", data=[("n", "6")])
    other = replace(world, work=tmp_path / "another")
    async with world.serving(), other.serving(state_id="another"):
        await world.observed.until(lambda: bool(sheets.given))
        await world.broker.idle()
    assert sheets.seen == [["0", "1", "2", "3", "4", "5"]]
    assert len(world.documents_of(GATHERED)) == 1


async def test_an_event_that_is_published_again_changes_nothing(world: World) -> None:
    sheets = album(world)
    event = await world.publish("album", data=[("n", "2")])
    await world.run()
    before = [it.type for it in world.observed.published]
    await world.publish("album", data=[("n", "2")], event_id=event.context.event_id)
    await world.run()
    assert sheets.seen == [["0", "1"]]
    assert [it.type for it in world.observed.published] == [*before, "album"]


async def test_an_event_that_starts_a_gatherer_is_not_published_by_hand(world: World) -> None:
    album(world)
    with pytest.raises(Unroutable, match=r"no module takes events of type 'ion\.gathered\.sheet'"):
        await world.publish("ion.gathered.sheet")


async def test_what_others_publish_as_such_an_event_is_a_dead_letter(world: World) -> None:
    sheets = album(world)
    await world.dispatcher().recover()
    body = {"context": {"name": "x", "eventId": "e", "correlationId": "c"}, "type": "ion.gathered.sheet"}
    await world.broker.publish("ion.gathered.sheet", json.dumps(body).encode(), headers={})
    await world.run()
    [letter] = await world.dead("sheet")
    assert "Ion has not made it" in letter.reason
    assert sheets.given == []


async def collected(world: World) -> int:
    """How many flows ``gc`` removes."""
    removed = await collect(world.dataplane, world.modules, before=datetime.now(UTC) + timedelta(days=1))
    return removed.flows


async def test_gc_keeps_a_flow_in_which_a_gatherer_waits_and_removes_it_whole_then(world: World) -> None:
    album(world, broken="1")
    await world.publish("album", data=[("n", "2")])
    await world.run()
    assert await collected(world) == 0
    letters = await world.dead("thumb")
    await world.broker.purge("thumb", [it.id for it in letters])  # past Ion
    assert await collected(world) == 0  # it waits still
    sheet = world.modules.pop()
    assert await collected(world) == 1  # nobody does any more
    assert world.documents.documents == {}
    world.modules.append(sheet)


async def test_gc_removes_what_is_done(world: World) -> None:
    album(world)
    await world.publish("album", data=[("n", "2")])
    await world.run()
    assert await collected(world) == 1
    assert world.documents.documents == {}


async def test_a_module_that_is_removed_is_not_waited_for(world: World) -> None:
    """Its jobs are of nobody any more; the next sweep finds that nothing else is left."""
    sheets = album(world, broken="1")
    await world.publish("album", data=[("n", "3")])
    await world.run()
    assert sheets.seen == []
    [thumb] = [it for it in world.modules if it.name == "thumb"]
    world.modules.remove(thumb)
    other = type(thumb)(**vars(thumb) | {"name": "other", "subscribes": ("nothing",)})
    world.modules.append(other)
    await world.run()
    assert sheets.seen == [[]]


async def test_a_module_that_is_added_is_waited_for_until_it_has_what_was_before(world: World) -> None:
    sheets = album(world, broken="1")
    event = await world.publish("album", data=[("n", "2")])
    await world.run()
    world.add(passes_on("thumb.made"), "second", takes="photo", emits=["thumb.made"], retry=NO_RETRY)
    await world.purge("thumb")
    await world.run()
    assert sheets.seen == []
    [waits] = await waits_in(world.documents, event.context.correlation_id, joined(world.modules))
    assert [(it.module, it.dead) for it in waits.awaited] == [("second", False)] * 2
    await world.broker.declare("again", topics=["again"], retry=NO_RETRY)
    for photo in [it for it in world.observed.published if it.type == "photo"]:
        await world.dataplane.publish(photo, topic="again")
    await world.broker.move("again", "second")  # as `event republish` does
    await world.run()
    assert len(sheets.seen) == 1
    assert sorted(sheets.seen[0]) == ["0", "0", "1"]


async def test_other_types_are_gathered_from_then_on(world: World) -> None:
    sheets = album(world, broken="1")
    await world.publish("album", data=[("n", "2")])
    await world.run()
    sheet = world.modules.pop()
    world.modules.append(type(sheet)(**vars(sheet) | {"gather": Gather(events=("photo",), within="album")}))
    await world.run()
    assert sheets.seen == [["0", "1"]]


async def test_a_gatherer_that_came_later_runs_where_something_is_still_to_commit(world: World) -> None:
    sheets = album(world, broken="1")
    sheet = world.modules.pop()
    await world.publish("album", data=[("n", "2")])
    await world.run()
    world.modules.append(sheet)
    await world.run()
    assert sheets.seen == []
    world.programs["thumb"] = passes_on("thumb.made")
    await world.redrive("thumb")
    await world.run()
    assert sheets.seen == [["0", "1"]]


async def test_a_store_that_lists_late_makes_nothing_early_and_forgets_nothing(world: World) -> None:
    """What ``find`` does not show yet is asked for by its id."""

    async def nothing(*arguments: Any, **named: Any) -> Any:
        for it in ():
            yield it

    world.documents.find = nothing  # type: ignore[method-assign]
    sheets = album(world)
    await world.publish("album", data=[("n", "3")])
    await world.run()
    assert sheets.seen == [["0", "1", "2"]]


async def test_two_last_ones_see_each_other_however_they_interleave(world: World, tmp_path: Path) -> None:
    """The last two upstream jobs commit at the same instant in two dispatchers, many times over."""
    sheets = album(world)
    other = replace(world, work=tmp_path / "another")
    for _ in range(25):
        await world.publish("album", data=[("n", "2")])
    async with world.serving(), other.serving(state_id="another"):
        await world.observed.until(lambda: len(sheets.given) >= 25)
        await world.broker.idle()
    assert sheets.seen == [["0", "1"]] * 25
    assert nothing_is_owed(world)


async def test_a_gatherer_that_fails_is_tried_again_and_redriven_as_any_module(world: World) -> None:
    sheets = album(world)
    world.programs["sheet"] = exits(3)
    await world.publish("album", data=[("n", "2")])
    await world.run()
    assert len(await world.dead("sheet")) == 1
    world.programs["sheet"] = sheets
    await world.redrive("sheet")
    await world.run()
    assert sheets.seen == [["0", "1"]]


async def test_a_gatherer_that_is_renamed_goes_on_waiting_and_runs_once(world: World) -> None:
    sheets = album(world, broken="1")
    await world.publish("album", data=[("n", "2")])
    await world.run()
    sheet = world.modules.pop()
    types = (gathered_type("contact"), gathered_type("sheet"))
    world.programs["contact"] = world.programs.pop("sheet")
    renamed = {"name": "contact", "image": "contact", "formerly": ("sheet",), "subscribes": types}
    world.modules.append(type(sheet)(**vars(sheet) | renamed))
    await world.run()
    assert nothing_of_the_old_name_is_owed(world)
    await world.purge("thumb")
    await world.run()
    assert sheets.seen == [["0"]]
    assert nothing_is_owed(world)


def nothing_of_the_old_name_is_owed(world: World) -> bool:
    owed = [it.body["context"]["name"] for it in world.documents_of(GATHERING) if it.pending]
    return owed == ["contact"]


async def test_what_was_decided_under_a_former_name_is_not_decided_again(world: World) -> None:
    sheets = album(world, broken="1", missing="go")
    await world.publish("album", data=[("n", "2")])
    await world.run()
    assert sheets.seen == [["0"]]
    sheet = world.modules.pop()
    types = (gathered_type("contact"), gathered_type("sheet"))
    world.programs["contact"] = world.programs.pop("sheet")
    renamed = {"name": "contact", "image": "contact", "formerly": ("sheet",), "subscribes": types}
    world.modules.append(type(sheet)(**vars(sheet) | renamed))
    world.programs["thumb"] = passes_on("thumb.made")
    await world.redrive("thumb")
    await world.run()
    assert sheets.seen == [["0"]]
    assert nothing_is_owed(world)


async def test_a_first_event_of_others_is_a_scope_too(world: World) -> None:
    """They leave no document, so its type is known from the commit alone."""
    sheets = Sheets()
    world.add(splits("photo", 2), "split", takes="album", emits=["photo"])
    world.add(passes_on("thumb.made"), "thumb", takes="photo", emits=["thumb.made"], retry=NO_RETRY)
    gathers(world, "sheet", sheets, emits=[], events=("thumb.made",), within="album")
    await world.dispatcher().recover()
    body = {"context": {"name": "x", "eventId": "e", "correlationId": "c"}, "type": "album"}
    body |= {"data": [{"key": "i", "value": "0"}]}
    await world.broker.publish("album", json.dumps(body).encode(), headers={})
    await world.run()
    assert sheets.seen == [["0.0", "0.1"]]
    assert sheets.given[0]["scope"] == {"eventId": "e", "type": "album"}


async def test_a_first_commit_that_others_pay_who_know_no_gatherer_is_not_forgotten(world: World) -> None:
    """As while a configuration is replaced: who committed dies, one of the old configuration goes on."""
    sheets = album(world)
    await world.publish("album", data=[("n", "2")])
    create, committed = world.documents.create, asyncio.Event()

    async def dies_after(document: Document) -> None:
        await create(document)
        if document.kind == COMMIT:
            committed.set()
            await asyncio.Event().wait()

    world.documents.create = dies_after  # type: ignore[method-assign]
    async with world.serving(drain_timeout=timedelta(0)) as serving:
        await committed.wait()
        serving.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving.task
        serving.task = asyncio.create_task(asyncio.sleep(0))
    world.documents.create = create  # type: ignore[method-assign]
    sheet = world.modules.pop()
    await world.run()
    assert len(world.commits) == 3
    world.modules.append(sheet)
    await world.run()
    assert sheets.seen == [["0", "1"]]
    assert nothing_is_owed(world)


async def test_what_is_published_into_a_flow_from_outside_is_a_first_event_of_its_own(world: World) -> None:
    sheets = album(world, within=None)
    event = await world.publish("album", data=[("n", "2")], correlation_id="c")
    more = {"correlation_id": "c", "parent_event_id": event.context.event_id}
    await world.publish("photo", data=[("i", "9"), ("page", "0")], files={"same.txt": b"9"}, **more)
    await world.run()
    assert sorted(sheets.seen) == [["0", "1"], ["9"]]


async def test_a_dispatcher_is_not_idle_while_a_gatherer_is_owed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a store did not answer, or another dispatcher died, once a letter was dead."""
    sheets = album(world, broken="1", missing="go")

    async def dead(*arguments: object) -> None:
        raise TransientError("the store does not answer.")

    monkeypatch.setattr(Evaluations, "dead", dead)
    async with world.serving() as serving:
        await world.publish("album", data=[("n", "2")])
        await world.broker.idle()
        assert sheets.given == []
        assert not await serving.dispatcher.idle()
        async with asyncio.timeout(PATIENCE):
            while not await serving.dispatcher.idle():  # noqa: ASYNC110
                await asyncio.sleep(0)
    assert sheets.seen == [["0"]]
    assert nothing_is_owed(world)


async def test_nor_is_it_while_nobody_can_tell_whether_a_letter_was_purged(world: World) -> None:
    album(world, broken="1")
    await world.publish("album", data=[("n", "2")])
    await world.run()
    world.broker.letters_unseen_for = timedelta(hours=1)
    async with world.serving() as serving:
        assert await serving.dispatcher.idle()  # it waits for somebody
        letters = await world.dead("thumb")
        await GivingUp(world.documents, world.broker, lambda module: True).purging(letters)
        assert await serving.dispatcher.idle()
        await world.broker.purge("thumb", [it.id for it in letters])
        assert not await serving.dispatcher.idle()
        assert not await serving.dispatcher.idle()
        await world.documents.delete(GIVEN_UP, job_id(parse_event(letters[0].body).context.event_id, "thumb"))
        assert await serving.dispatcher.idle()


async def test_an_event_that_only_says_that_a_job_made_it_is_a_first_event(world: World, tmp_path: Path) -> None:
    sheets = album(world, within=None)
    event = await world.publish("album", data=[("n", "1")])
    await world.run()
    (tmp_path / "f").write_text("f")
    await Intake(world.dataplane, world.modules).publish(
        "photo",
        name="split",
        parent_event_id=event.context.event_id,
        data=[("i", "outside"), ("page", "0")],
        files={"f": tmp_path / "f"},
    )
    await world.run()
    assert sheets.seen == [["0"], ["outside"]]
    assert nothing_is_owed(world)


async def test_letters_in_a_queue_of_a_former_name_are_given_up_by_a_purge_as_well(world: World) -> None:
    sheets = album(world, broken="1")
    await world.publish("album", data=[("n", "3")])
    await world.run()
    world.modules[1] = replace(world.modules[1], name="small", formerly=("thumb",))
    await world.purge("thumb")
    await world.run()
    assert sheets.seen == [["0", "2"]]
    assert nothing_is_owed(world)


async def test_gc_waits_for_nobody_where_a_purge_died_and_no_gatherer_is_left(world: World) -> None:
    album(world, broken="1")
    await world.publish("album", data=[("n", "2")])
    await world.run()
    letters = await world.dead("thumb")
    await GivingUp(world.documents, world.broker, lambda module: True).purging(letters)
    await world.broker.purge("thumb", [it.id for it in letters])
    world.modules.pop()
    assert await collected(world) == 1


async def test_a_dead_letter_is_told_as_one_after_its_module_was_renamed(world: World) -> None:
    album(world, broken="1")
    event = await world.publish("album", data=[("n", "3")])
    await world.run()
    world.modules[1] = replace(world.modules[1], name="small", formerly=("thumb",))
    await forget_rounds_of(world.documents, "thumb")  # as `module rename` does
    [waits] = await waits_in(world.documents, event.context.correlation_id, joined(world.modules))
    assert [(it.module, it.dead) for it in waits.awaited] == [("small", True)]


async def test_gatherers_in_a_row_have_an_event_of_others_as_their_scope(world: World) -> None:
    """It leaves no document: above what a gatherer made, its type is known from what that was given."""
    sheets, books = Sheets("sheet.made"), Sheets()
    world.add(splits("photo", 2), "split", takes="album", emits=["photo"])
    gathers(world, "sheet", sheets, emits=["sheet.made"], events=("photo",), within="album")
    gathers(world, "book", books, emits=[], events=("sheet.made",), within="album")
    await world.dispatcher().recover()
    body = {"context": {"name": "x", "eventId": "e", "correlationId": "c"}, "type": "album"}
    body |= {"data": [{"key": "i", "value": "0"}]}
    await world.broker.publish("album", json.dumps(body).encode(), headers={})
    await world.run()
    assert [len(told["events"]) for told in sheets.given] == [2]
    assert [len(told["events"]) for told in books.given] == [1]
    assert nothing_is_owed(world)
