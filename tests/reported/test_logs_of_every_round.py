"""Every attempt ever made keeps its log, also after a redrive, when attempts are counted from one again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.cli.flow.text import lines
from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.storage import Document
from ion_core.dispatcher.attempt_log import AttemptLog
from ion_core.errors import TransientError
from ion_core.events import MODULE_LOGS
from ion_core.flows import Flow, FlowReader
from ion_core.jobs import Outcome, Verdict
from tests.support.worlds import World, attempt, does, fails_first, no_back_off, say


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def redriven(world: World) -> None:
    await world.redrive()
    await world.run()


def flow_of(world: World) -> Flow:
    reader = FlowReader("c", world.modules)
    for document in world.documents.documents.values():
        reader.add(document)
    return reader.flow()


async def test_the_rounds_after_a_redrive_leave_the_logs_of_those_before(world: World) -> None:
    world.add(
        fails_first(5, does(lambda workspace: say("all good"))), retry=RetryPolicy(retries=1, initial=timedelta(0))
    )
    await world.publish()
    await world.run()
    await redriven(world)
    await redriven(world)
    bodies = list(world.logs.values())
    assert [body["attempt"] for body in bodies] == [1, 2, 1, 2, 1, 2]
    printed = [body["logs"].split("Worker logs\n")[1].split("\n")[0] for body in bodies]
    assert printed == [f"about to fail, {n} to go" for n in (4, 3, 2, 1, 0)] + ["all good"]
    assert len({body["token"] for body in bodies}) == 6
    assert bodies[-1]["token"] == world.commits[0].token


async def test_a_flow_shows_the_attempts_of_all_rounds_in_their_order(world: World) -> None:
    world.add(fails_first(3, does(lambda workspace: None)), retry=RetryPolicy(retries=1, initial=timedelta(0)))
    await world.publish()
    await world.run()
    first = min(body["startedAt"] for body in world.logs.values())
    await redriven(world)
    summary, _, job, *attempts = lines(flow_of(world))
    assert first[:19].replace("T", " ") in summary
    assert "committed, attempt 2" in job
    assert [note.split(" in ")[0].strip(" │") for note in attempts] == [
        "attempt 1 retried",
        "attempt 2 dead-lettered",
        "attempt 1 retried",
    ]


async def test_the_attempt_that_committed_is_not_one_of_another_round_with_its_number(world: World) -> None:
    world.add(fails_first(1, does(lambda workspace: None)), retry=RetryPolicy(retries=0))
    await world.publish()
    await world.run()
    await redriven(world)
    [job] = flow_of(world).jobs()
    assert job.last is not None
    assert (job.state, job.last.outcome) == ("committed", "committed")


async def test_a_late_attempt_keeps_its_log_beside_that_of_the_one_that_won() -> None:
    world_documents: dict[str, Document] = {}
    for verdict in (Verdict.COMMITTED, Verdict.ALREADY_COMMITTED):
        log = AttemptLog(attempt())
        document = log.document(Outcome(verdict=verdict))
        world_documents[document.id] = document
    assert len(world_documents) == 2


async def test_being_given_back_over_and_over_before_the_module_ran_leaves_one_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no attempt; what is kept is why the event waits. An outage is not to fill the store."""
    world.add(does(lambda workspace: None))
    await world.publish(files={"input": b"x"})
    get, down = world.blobs.get, [TransientError("away")] * 5

    async def away_at_first(*args: Any, **more: Any) -> None:
        if down:
            raise down.pop()
        await get(*args, **more)

    monkeypatch.setattr(world.blobs, "get", away_at_first)
    with no_back_off(monkeypatch):
        await world.run()
    assert [body["outcome"] for body in world.logs.values()] == ["released", "committed"]


# A commit whose log was lost


def lost(world: World) -> None:
    for id in world.logs:
        del world.documents.documents[MODULE_LOGS, id]


async def test_a_flow_says_that_the_log_of_a_commit_was_lost(world: World) -> None:
    world.add(does(lambda workspace: None))
    await world.publish()
    await world.run()
    lost(world)
    [job] = flow_of(world).jobs()
    assert job.state == "committed"
    assert "its log was lost with the process that ran it" in "\n".join(lines(flow_of(world)))


async def test_an_earlier_attempt_does_not_stand_for_a_commit_whose_log_was_lost(world: World) -> None:
    world.add(fails_first(1, does(lambda workspace: None)))
    await world.publish()
    await world.run()
    del world.documents.documents[MODULE_LOGS, list(world.logs)[-1]]
    [job] = flow_of(world).jobs()
    assert job.last is None
    text = "\n".join(lines(flow_of(world)))
    assert "committed, attempt 2; its log was lost" in text
    assert "attempt 1 retried" in text
