"""Intake: an event from outside is checked as a whole before anything of it is stored."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from ion_core.errors import IdTaken, InvalidEvent, Unroutable
from ion_core.events import Event
from ion_core.intake import Intake
from ion_core.modules import Gather
from tests.support.worlds import World, does


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(does(lambda workspace: None), "detect", takes="photo.received")
    world.add(does(lambda workspace: None), "blur", takes="face.detected")
    return world


async def problems(world: World, event_type: str = "photo.received", **more: Any) -> list[str]:
    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    with pytest.raises(InvalidEvent) as refused:
        await intake.publish(event_type, **{"name": "test", **more})
    assert not world.blobs.blobs
    assert not world.documents.documents
    assert world.broker.counts("detect").ready == 0
    return list(refused.value.problems)


async def test_ids_are_made_where_none_are_given(world: World) -> None:
    first, second = [await world.publish("photo.received") for _ in range(2)]
    assert first.context.event_id != second.context.event_id
    assert first.context.correlation_id != second.context.correlation_id
    assert first.context.parent_event_id == ""
    assert first.hops == 0


async def test_given_ids_are_kept(world: World) -> None:
    event = await world.publish("photo.received", event_id="e", correlation_id="c", parent_event_id="p")
    assert (event.context.event_id, event.context.correlation_id, event.context.parent_event_id) == ("e", "c", "p")
    assert event.context.name == "test"


async def test_the_module_that_takes_it_is_given_it(world: World) -> None:
    await world.publish("photo.received")
    assert world.broker.counts("detect").ready == 1
    assert world.broker.counts("blur").ready == 0


async def test_a_type_nobody_takes_is_refused_with_the_nearest_and_all(world: World) -> None:
    with pytest.raises(Unroutable) as refused:
        await world.publish("photo.recieved")
    message = str(refused.value)
    assert "'photo.recieved'" in message
    assert "Did you mean 'photo.received'?" in message
    assert "Taken: face.detected, photo.received" in message
    assert not world.documents.documents


async def test_without_modules_nothing_is_taken(tmp_path: Path) -> None:
    with pytest.raises(Unroutable, match="Taken: none"):
        await World(tmp_path).publish("photo.received")


async def test_everything_wrong_is_said_at_once(world: World, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    found = await problems(
        world,
        "Photo",
        event_id="",
        correlation_id="x" * 1025,
        files={"../a": tmp_path / "absent", "b": tmp_path, "c": tmp_path / "fifo"},
    )
    assert [problem.split(" ")[0].rstrip(":") for problem in found] == [
        "event",
        "event",
        "correlation",
        "key",
        f"{tmp_path}/absent",
        f"{tmp_path}",
        f"{tmp_path}/fifo",
    ]
    assert found[1] == "event id: must have 1 to 1,024 characters (got 0)"
    assert found[2] == "correlation id: must have 1 to 1,024 characters (got 1,025)"
    assert found[4].endswith("no such file")
    assert found[5].endswith("is not a regular file")
    assert found[6].endswith("is not a regular file")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "a/../b", "a//b", "a\\b", "a\nb", "x" * 256])
async def test_names_of_files_are_checked(name: str, world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [problem] = await problems(world, files={name: tmp_path / "file"})
    assert problem.startswith("key ")


async def test_a_name_that_would_not_fit_its_key_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [problem] = await problems(world, files={"/".join(["x" * 200] * 4): tmp_path / "file"})
    assert "has more than 768 bytes" in problem


async def test_a_name_cannot_be_file_and_directory(world: World, tmp_path: Path) -> None:
    """In a bucket it can; in the workspace of every module that takes the event it could not."""
    (tmp_path / "file").touch()
    [problem] = await problems(world, files={"a/b": tmp_path / "file", "a": tmp_path / "file"})
    assert problem.startswith("file name 'a': is also the directory of another file")


@pytest.mark.parametrize("what", ["name", "event_id", "correlation_id", "parent_event_id"])
async def test_ids_that_are_no_unicode_are_refused(what: str, world: World) -> None:
    [problem] = await problems(world, **{what: os.fsdecode(b"caf\xe9")})
    assert problem == f"{what.replace('_', ' ')}: is not valid Unicode. Use UTF-8."


async def test_data_that_is_no_unicode_is_refused(world: World) -> None:
    [problem] = await problems(world, data=[("a", "fine"), ("b", os.fsdecode(b"\xff"))])
    assert problem == "data 'b': is not valid Unicode. Pass bytes as a file."


@pytest.mark.parametrize("what", ["event_id", "correlation_id"])
async def test_the_longest_ids_of_any_alphabet_are_taken(what: str, world: World) -> None:
    event = await world.publish("photo.received", files={"a": b"1"}, **{what: "ü/../\x00" * 170})
    [key] = world.blobs.blobs
    assert key.count("/") == (4 if what == "event_id" else 3)
    assert (await world.dataplane.stored_files(event))[1][0].key == key


async def test_the_same_event_id_again_is_the_same_event(world: World) -> None:
    first = await world.publish("photo.received", event_id="e", data=[("a", "b")], files={"x": b"1"})
    stored = dict(world.blobs.blobs), dict(world.documents.documents)
    again = await world.publish("photo.received", event_id="e", data=[("a", "b")], files={"x": b"1"})
    assert again == first, "its correlation id included, which was made the first time"
    assert (world.blobs.blobs, world.documents.documents) == stored
    assert world.broker.counts("detect").ready == 2, "it may not have been published the first time"


async def test_the_same_event_id_at_once_is_the_same_event(world: World) -> None:
    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    first, second = await asyncio.gather(
        *(intake.publish("photo.received", name="test", event_id="e", data=[("a", "b")]) for _ in range(2))
    )
    assert first == second
    assert len(world.documents.documents) == 1


@pytest.mark.parametrize(
    "other",
    [{"event_type": "face.detected"}, {"data": [("a", "c")]}, {"files": {"y": b"1"}}, {"correlation_id": "other"}],
)
async def test_an_event_id_is_not_reused_for_another_event(other: dict[str, Any], world: World) -> None:
    known: dict[str, Any] = {
        "event_type": "photo.received",
        "event_id": "e",
        "data": [("a", "b")],
        "files": {"x": b"1"},
    }
    await world.publish(**known)
    stored = dict(world.blobs.blobs), dict(world.documents.documents)
    with pytest.raises(InvalidEvent, match="event id 'e': is that of"):
        await world.publish(**known | other)
    assert (world.blobs.blobs, world.documents.documents) == stored
    assert world.broker.counts("detect").ready == 1


async def given_away_at_once(world: World, tmp_path: Path, *contents: bytes) -> list[Event | BaseException]:
    """What becomes of events of one id, each with a file that is given away and has one of these contents."""
    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    files = [tmp_path / str(n) for n in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    found = await asyncio.gather(
        *(intake.publish("photo.received", name="test", event_id="e", files={"x": it}, consume=True) for it in files),
        return_exceptions=True,
    )
    assert not any(file.exists() for file in files)
    assert len(world.documents.documents) == 1
    assert len(world.blobs.blobs) == 1, "of the other nothing is left"
    return found


async def test_files_that_are_given_away_are_gone_once_it_is_published(world: World, tmp_path: Path) -> None:
    [event] = await given_away_at_once(world, tmp_path, b"1")
    assert isinstance(event, Event)
    assert event.files == ("x",)


async def test_the_same_event_id_at_once_is_the_same_event_though_its_files_are_gone(
    world: World, tmp_path: Path
) -> None:
    first, second = await given_away_at_once(world, tmp_path, b"1", b"1")
    assert isinstance(first, Event)
    assert first == second


async def test_an_event_id_is_not_given_to_other_files_at_once(world: World, tmp_path: Path) -> None:
    found = await given_away_at_once(world, tmp_path, b"1", b"2")
    [refused] = [it for it in found if isinstance(it, IdTaken)]
    assert refused.differs == ("file 'x' has other content",)
    assert len([it for it in found if isinstance(it, Event)]) == 1


async def test_a_type_that_is_only_gathered_is_refused_with_who_gathers_it(world: World) -> None:
    world.add(
        does(lambda workspace: None), "sheet", takes="ion.gathered.sheet", gather=Gather(events=("face.blurred",))
    )
    with pytest.raises(
        Unroutable, match=r"'face\.blurred'\. sheet is given those that jobs emit.* Taken: face\.detected"
    ):
        await Intake(world.dataplane, world.modules).publish("face.blurred", name="test")
