"""An event id that was used before: the same again is the same event, anything else is refused and said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ion_core.app.host import Host
from ion_core.contracts.storage import Document
from ion_core.dataplane import DOCUMENT_HEADER, DOCUMENT_STORED
from ion_core.errors import InvalidEvent
from ion_core.events import Context, Event, encode_event
from ion_core.intake import Intake
from ion_core.jobs import Verdict
from tests.acceptance.pipeline import Pipeline
from tests.support.worlds import World, does, messages
from tests.unit.test_service_host import idle

KNOWN: Mapping[str, Any] = {
    "event_id": "e",
    "data": [("a", "1"), ("b", "2")],
    "files": {"x": b"content", "y": b"more"},
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add(does(lambda workspace: None))
    world.add(does(lambda workspace: None), "other", takes="other")
    return world


def stored(world: World) -> tuple[Any, ...]:
    return dict(world.blobs.blobs), dict(world.documents.documents), world.broker.counts("worker").ready


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"files": {"x": b"CONTENT", "y": b"more"}}, "file 'x' has other content"),
        ({"files": {"x": b"longer content", "y": b"more"}}, "file 'x' has 14 bytes, not 7"),
        ({"files": {"x": b"content"}}, "file 'y' is missing"),
        ({"files": {"x": b"content", "y": b"more", "z": b""}}, "file 'z' is new"),
        ({"files": {"y": b"more", "x": b"content"}}, "its files are in another order"),
        ({"data": [("a", "1"), ("b", "3")]}, "data 'b' has another value"),
        ({"data": [("a", "1")]}, "data 'b' is missing"),
        ({"data": [("a", "1"), ("b", "2"), ("c", "3")]}, "data 'c' is new"),
        ({"data": [("b", "2"), ("a", "1")]}, "its data is in another order"),
        ({"event_type": "other"}, "its type is 'in', not 'other'"),
        ({"correlation_id": "another"}, "its correlation id is another"),
        ({"parent_event_id": "another"}, "its parent event id is another"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_id_with_anything_else_is_refused_and_what_differs_is_named(
    other: Mapping[str, Any], differs: str, world: World
) -> None:
    await world.publish(**KNOWN)
    before = stored(world)
    with pytest.raises(InvalidEvent) as refused:
        await world.publish(**{**KNOWN, **other})
    assert str(refused.value).startswith("event id 'e': is that of another event: ")
    assert differs in str(refused.value)
    assert stored(world) == before


async def test_everything_that_differs_is_named_and_no_value_is_shown(world: World) -> None:
    await world.publish(event_id="e", data=[("password", "sesame")], files={"x": b"1"})
    with pytest.raises(InvalidEvent) as refused:
        await world.publish(event_id="e", data=[("password", "hush")], files={"x": b"2"})
    said = str(refused.value)
    assert "data 'password' has another value; file 'x' has other content" in said
    assert "sesame" not in said
    assert "hush" not in said


async def test_the_same_again_is_the_same_event(world: World) -> None:
    first = await world.publish(**KNOWN)
    before = stored(world)
    assert await world.publish(**KNOWN) == first
    assert stored(world) == (*before[:2], 2), "it may not have been published the first time"


@pytest.mark.parametrize(("mode", "said"), [(0o644, "is executable"), (0o755, "is not executable")])
async def test_a_file_that_is_executable_now_or_no_longer_is_another(world: World, mode: int, said: str) -> None:
    """Whether it is one travels to the modules, so it is part of the event."""
    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    path = world.inputs / "tool"
    path.write_bytes(b"#!/bin/sh")
    path.chmod(mode)
    known = await intake.publish("in", name="test", event_id="e", files={"tool": path})
    assert await intake.publish("in", name="test", event_id="e", files={"tool": path}) == known
    path.chmod(mode ^ 0o111)
    with pytest.raises(InvalidEvent, match=f"file 'tool' {said}, other than the stored one"):
        await intake.publish("in", name="test", event_id="e", files={"tool": path})


async def test_a_service_is_refused_it_too(world: World) -> None:
    app: Any = None  # what is asked of it here needs none
    host = Host("gateway", app, Intake(world.dataplane, world.modules), world.dataplane, idle())
    await world.publish(event_id="e", data=[("a", "1")])
    with pytest.raises(InvalidEvent, match="data 'a' has another value"):
        await host.publish("in", event_id="e", data=[("a", "2")])


async def test_two_at_once_with_other_content_do_not_mix(world: World) -> None:
    """One of them is the event, whole; the other is refused, and what it stored meanwhile is gone."""
    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    contents = [b"first", b"other"]
    paths = [world.inputs / str(n) for n in range(2)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    done = await asyncio.gather(
        *(intake.publish("in", name="test", event_id="e", correlation_id="c", files={"x": path}) for path in paths),
        return_exceptions=True,
    )
    [refused] = [it for it in done if isinstance(it, BaseException)]
    assert isinstance(refused, InvalidEvent)
    assert "file 'x' has other content" in str(refused)
    winner = contents[done.index(next(it for it in done if isinstance(it, Event)))]
    [key] = world.blobs.blobs
    _, [file] = await world.dataplane.stored_files(next(it for it in done if isinstance(it, Event)))
    assert file.key == key
    await world.dataplane.blobs.get(key, world.inputs / "got")
    assert (world.inputs / "got").read_bytes() == winner


async def test_two_at_once_with_the_same_content_are_one_event(world: World) -> None:
    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    (world.inputs / "x").write_bytes(b"content")
    first, second = await asyncio.gather(
        *(
            intake.publish("in", name="test", event_id="e", correlation_id="c", files={"x": world.inputs / "x"})
            for _ in range(2)
        )
    )
    assert first == second
    assert len(world.blobs.blobs) == 1


async def send(
    world: World, *, event_type: str = "in", data: tuple[tuple[str, str], ...] = (), mark: bool = True
) -> None:
    """A message as somebody sends it who knows nothing of what is stored."""
    context = Context(name="elsewhere", event_id="e", correlation_id="c")
    headers = {DOCUMENT_HEADER: DOCUMENT_STORED} if mark else {}
    await world.broker.publish("in", encode_event(Event(context=context, type=event_type, data=data)), headers=headers)


@pytest.mark.parametrize("mark", [True, False])
async def test_a_message_that_says_otherwise_than_its_committed_event_is_said(
    mark: bool, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.publish(event_id="e", correlation_id="c", data=[("a", "1")])
    await world.run()
    await send(world, data=(("a", "2"), ("b", "3")), mark=mark)
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED, Verdict.ALREADY_COMMITTED]
    [said] = [text for text in messages(caplog) if "has another value" in text]
    assert "data 'a' has another value; data 'b' is new" in said
    assert "an event id of its own" in said


async def test_a_message_that_says_otherwise_than_its_stored_event_is_said_when_it_runs(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """What is stored is what the module is given, as ever: the difference is not passed over."""
    given: list[str] = []
    world.add(does(lambda workspace: given.append((workspace / "in" / "eventmeta.json").read_text())), "worker")
    del world.modules[0]
    event = await world.publish(event_id="e", correlation_id="c", data=[("a", "1")])
    await world.run()
    await world.documents.delete("commit", world.commits[0].job_id)
    await send(world, data=(("a", "2"),))
    await world.run()
    assert event.data == (("a", "1"),)
    assert given == ['[{"key":"a","value":"1"}]'] * 2
    assert [text for text in messages(caplog) if "data 'a' has another value" in text]


@pytest.mark.parametrize("data", [(("a", "1"),), ()])
async def test_the_same_message_again_is_no_warning(
    data: tuple[tuple[str, str], ...], world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is a thin one, that leaves the data to the document."""
    await world.publish(event_id="e", correlation_id="c", data=[("a", "1")])
    await world.run()
    await send(world, data=data, mark=bool(data))
    await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED, Verdict.ALREADY_COMMITTED]
    assert messages(caplog, logging.WARNING) == []


async def test_a_committed_event_without_a_document_is_no_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.broker.declare("worker", topics=["in"], retry=world.modules[0].retry)
    for value in ("1", "2"):
        await send(world, data=(("a", value),), mark=False)
        await world.run()
    assert world.observed.verdicts == [Verdict.COMMITTED, Verdict.ALREADY_COMMITTED]
    assert messages(caplog, logging.WARNING) == []
    assert not [it for it in world.documents.documents.values() if isinstance(it, Document) and it.kind == "eventMeta"]


def test_event_publish_refuses_it_and_says_what_differs(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    file = pipeline.home / "f.txt"
    publish = ("event", "publish", "whole.received", "--event-id", "e", "--file", "f.txt")
    file.write_text("first")
    pipeline.ion(*publish)
    pipeline.ion(*publish)
    file.write_text("other")
    done = pipeline.ion(*publish, code=2)
    assert "event id 'e': is that of another event: file 'f.txt' has other content. Use a new one." in done.stderr
