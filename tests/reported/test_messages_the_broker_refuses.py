"""A message that the broker never takes, such as one over its limit of size, concerns the job that it is of."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.messaging import MessageBroker
from ion_core.dispatcher.outbox import Outbox
from ion_core.errors import MessageRefused
from ion_core.jobs import Verdict
from tests.support.worlds import World, does, emit, exits, messages

LIMIT = "queue: a message has 70,000 bytes, and 65,536 are taken at most."


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refuse(broker: MessageBroker, monkeypatch: pytest.MonkeyPatch, topic: str) -> list[str]:
    """Have the broker refuse whatever is published to ``topic``, for as long as the list that is returned names it."""
    publish, refused = broker.publish, [topic]

    async def publish_or_refuse(topic: str, body: bytes, **how: Any) -> None:
        if topic in refused:
            raise MessageRefused(LIMIT)
        await publish(topic, body, **how)

    monkeypatch.setattr(broker, "publish", publish_or_refuse)
    return refused


async def test_a_job_whose_event_is_refused_is_a_dead_letter_that_says_why_and_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(world.broker, monkeypatch, "out")
    world.add(does(lambda workspace: emit(workspace, "out")))
    world.add(exits(0), "other", takes="else")
    await world.publish()
    await world.publish("else")
    await world.run()
    [letter] = await world.dead()
    assert LIMIT in letter.reason
    assert "it has committed" in letter.reason
    assert letter.attempts == 1
    assert sorted(verdict.value for verdict in world.observed.verdicts) == ["committed", "dead-lettered"]
    assert len(world.commits) == 2


async def test_redriven_once_it_is_taken_it_publishes_what_it_owes_and_runs_no_second_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refuse(world.broker, monkeypatch, "out")
    world.add(does(lambda workspace: emit(workspace, "out")))
    world.add(exits(0), "next", takes="out", emits=())
    await world.publish()
    await world.run()
    refused.clear()
    await world.redrive()
    world.observed.finished.clear()
    await world.run()
    assert set(world.observed.verdicts) == {Verdict.ALREADY_COMMITTED, Verdict.COMMITTED}


async def test_the_outbox_says_once_what_is_refused_and_pays_what_others_owe(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = refuse(world.broker, monkeypatch, "out")
    world.add(does(lambda workspace: emit(workspace, "out")))
    await world.publish()
    await world.run()
    caplog.clear()
    outbox = Outbox(world.dataplane)
    for _ in range(3):
        assert await outbox.sweep(older_than=timedelta(0)) == 0
    assert [LIMIT in line for line in messages(caplog, logging.ERROR)] == [True]
    refused.clear()
    assert await outbox.sweep(older_than=timedelta(0)) == 1
