"""Real ``ion-core serve`` processes on three nodes with quorum queues, while nodes fail: nothing is lost or done twice.

They need root and a few minutes, and are run by ``make test-rabbitmq``. How long a failure is felt is reported, and is
nothing that a test could promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import APART, RabbitCluster
from flow import BAD, SCRIPTS, Flow, Outcome

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SOME, MANY = 10, 40
OUTAGE = 30.0
PUBLISH_MANY = """
import asyncio, os
from pathlib import Path
from ion_core.app import App
from ion_core.config import load_config

async def publish():
    async with App.open(load_config(Path("ion.yaml"), environ=os.environ)) as app:
        intake = await app.intake()
        for n in range(200):
            await intake.publish("work.asked", name="test", event_id=f"work-{n}")

asyncio.run(publish())
"""


@pytest.fixture
def cluster(nodes: RabbitCluster) -> RabbitCluster:
    """Leave all of its nodes running and connected."""
    nodes.healed()
    return nodes


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitCluster]:
    cluster = RabbitCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


def assert_each_ended_once(outcome: Outcome, what: str) -> None:
    print(f"{what}: {outcome}")
    assert len(outcome.letters) == outcome.events[BAD], "every event of what fails is a dead letter"
    assert set(outcome.letters.values()) == {1}, "and one only, however many messages there were"


MINORITY = "cut off from the other nodes"
"""It goes on taking connections and answering heartbeats, and confirms nothing."""
FAILURES: dict[str, tuple[Callable[[RabbitCluster], None], Callable[[RabbitCluster], None]]] = {
    "killed": (lambda it: it.nodes[APART].kill(), lambda it: it.nodes[APART].start()),
    "frozen": (lambda it: it.nodes[APART].freeze(), lambda it: it.nodes[APART].thaw()),
    "cut off": (lambda it: it.cut_off(APART), lambda it: it.joined_again(APART)),
    MINORITY: (
        lambda it: it.cut_off_from_nodes(APART),
        lambda it: it.joined_again_with_nodes(APART),
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_connected_node_fails(cluster: RabbitCluster, tmp_path: Path, failure: str) -> None:
    fail, mend = FAILURES[failure]
    flow = Flow(tmp_path, failure.replace(" ", "-"), cluster.urls(first=APART))
    with flow.under_way():
        flow.until_more_commits(SOME)
        fail(cluster)
        try:
            flow.until_more_commits(MANY)
            if failure == MINORITY:
                unknown = [set(queue.values()) for queue in flow.listed()]
                assert unknown == [{None}, {None}], "what is not known is no zero"
        finally:
            mend(cluster)
        flow.until_more_commits(SOME)
        assert_each_ended_once(flow.outcome(), f"connected node {failure}")


def test_who_has_no_work_leaves_a_node_that_has_lost_the_others(cluster: RabbitCluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path, "idle", cluster.urls(first=APART))
    with flow.idle("a"):
        flow.pipeline.ion("event", "publish", "work.asked", **flow.environs[0])
        flow.until_commits(1)
        cluster.cut_off_from_nodes(APART)
        try:
            flow.until_said("its node does not reach a queue")
            flow.pipeline.ion("event", "publish", "work.asked", **flow.environs[1])
            flow.until_commits(2)
        finally:
            cluster.joined_again_with_nodes(APART)


def test_who_has_a_backlog_leaves_a_node_that_has_lost_the_others(
    cluster: RabbitCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leads the queue, and tells how much there was, but gives nothing out."""
    monkeypatch.setitem(SCRIPTS, "work", f"{SCRIPTS['work']}; sleep 0.3")
    flow = Flow(tmp_path, "backlog", cluster.urls(first=APART))
    with flow.idle("a"):
        published = flow.pipeline.python("-c", PUBLISH_MANY, **flow.environs[0])
        assert published.returncode == 0, published.stderr
        flow.until_commits(SOME)
        cluster.cut_off_from_nodes(APART)
        try:
            flow.until_said("its node does not reach a queue")
            flow.until_more_commits(MANY)
        finally:
            cluster.joined_again_with_nodes(APART)


def test_two_of_three_nodes_are_down_for_half_a_minute(cluster: RabbitCluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path, "two-down", cluster.urls(first=APART))
    with flow.under_way():
        flow.until_more_commits(SOME)
        for node in cluster.others():
            node.kill()
        time.sleep(OUTAGE)  # which is what is tried
        for node in cluster.others():
            node.begin()
        for node in cluster.others():
            node.answers()
        flow.until_more_commits(MANY)
        assert_each_ended_once(flow.outcome(), "two of three down for 30 s")


def test_serve_is_started_while_the_first_address_is_frozen(cluster: RabbitCluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path, "frozen-first", cluster.urls(first=APART))
    flow.pipeline.ion("serve", "--until-idle", **flow.environs[0])  # declares, with all nodes up as the README says
    cluster.nodes[APART].freeze()
    try:
        cluster.goes_without(APART)
        with flow.under_way():
            flow.until_more_commits(SOME)
            unknown = [it for queue in flow.listed() for it in ("ready", "delayed", "dead") if queue[it] is None]
            assert unknown == [], "the other nodes know"
            cluster.nodes[APART].thaw()
            flow.until_more_commits(SOME)
            assert_each_ended_once(flow.outcome(), "first address frozen from the start")
    finally:
        cluster.nodes[APART].thaw()
