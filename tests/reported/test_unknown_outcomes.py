"""An event whose publishing nobody confirmed: its id is said, and under it the same is published once more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ion_core.embedded.memory.broker import MemoryBroker
from ion_core.errors import StorageFull, TransientError
from ion_core.intake import Intake
from tests.support.worlds import World, exits


class Unanswering(MemoryBroker):
    """Has the message, and says nothing, as often as ``error`` is there."""

    error: TransientError | None = TransientError("amqp://there: RabbitMQ does not answer within 10 s")

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        await super().publish(topic, body, headers=headers)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("given", [None, "mine"])
async def test_an_event_whose_outcome_is_unknown_is_named_and_can_be_published_again(
    given: str | None, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.broker = broker = Unanswering()
    world.add(exits(0))
    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    with pytest.raises(TransientError, match=r"within 10 s\. Event id '.+' is stored; .* is unknown") as refused:
        await intake.publish("in", name="cli", event_id=given)
    event_id = str(refused.value).split("'")[1]
    assert event_id == (given or event_id)

    with pytest.raises(TransientError, match=f"Event id '{event_id}' is stored"):
        await intake.publish("in", name="cli", event_id=event_id)
    broker.error = None
    assert (await intake.publish("in", name="cli", event_id=event_id)).context.event_id == event_id
    await world.run()
    assert len(world.commits) == 1


async def test_a_full_broker_is_told_as_it_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.broker = broker = Unanswering()
    broker.error = StorageFull("no space left")
    world.add(exits(0))
    intake = Intake(world.dataplane, world.modules)
    await intake.declare()
    with pytest.raises(StorageFull, match=r"^no space left$"):
        await intake.publish("in", name="cli")
