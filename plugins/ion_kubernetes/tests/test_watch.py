"""The watch goes on through every way in which one ends, and tells who follows a pod all that counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from ion_kubernetes.api import PODS, Api
from ion_kubernetes.refusals import ApiRefused, ApiUnavailable
from ion_kubernetes.watch import LONGEST_PAUSE, PodState, PodWatch
from plugins.ion_kubernetes.tests.calling import cluster_and_api
from plugins.ion_kubernetes.tests.fake.faults import Fault, How, Order
from plugins.ion_kubernetes.tests.fake.node import Life
from plugins.ion_kubernetes.tests.fake.replay import Replay, running
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes
from plugins.ion_kubernetes.tests.fake.statuses import status
from plugins.ion_kubernetes.tests.pods import pod

OURS = {"app.kubernetes.io/managed-by": "ion"}


@dataclass
class Pauses:
    """Waits for nothing; ``enough`` is set after so many."""

    limit: int = 1
    taken: list[float] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        if len(self.taken) >= self.limit:
            self.enough.set()
        await asyncio.sleep(0)


@dataclass
class World:
    cluster: FakeKubernetes
    api: Api
    watch: PodWatch
    pauses: Pauses

    async def seen(self, name: str) -> PodState:
        """A pod that is made now, once the watch knows it."""
        made = await self.api.create(PODS, pod(name))
        while made["metadata"]["uid"] not in self.watch.pods:  # noqa: ASYNC110 - nobody tells what a test alone asks
            await asyncio.sleep(0)
        return self.watch.pods[made["metadata"]["uid"]]

    def calls(self, what: str) -> int:
        """How often pods were listed (``list``) or watched (``watch``)."""
        gets = [it for it in self.cluster.calls if str(it) == "GET /api/v1/namespaces/ion/pods"]
        return sum(("watch" in it.query) is (what == "watch") for it in gets)


@asynccontextmanager
async def watching(life: Life | None = None, *, silence: float = 90) -> AsyncIterator[World]:
    pauses = Pauses()
    async with cluster_and_api(life) as (cluster, api):
        watch = PodWatch(api, OURS, pause=pauses, silence=silence)
        task = asyncio.create_task(watch.run())
        try:
            await cluster.watched()
            yield World(cluster, api, watch, pauses)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def last_of(watch: PodWatch, made: dict[str, Any]) -> PodState:
    """The last state of a pod that goes."""
    with watch.following(made) as follower:
        return [state async for state in follower.states()][-1]


def module_runs(state: PodState) -> bool:
    return running("module")(state.object["status"])


async def test_a_pod_is_followed_from_its_making_to_its_end() -> None:
    async with watching(Replay("ok")) as it:
        made = await it.api.create(PODS, pod("a"))
        with it.watch.following(made) as follower:
            async for state in follower.states():
                if state.object["status"]["phase"] == "Succeeded":
                    break
            await it.api.delete(PODS, "a")
            rest = [state async for state in follower.states()]
        assert (rest[-1].gone, rest[-1].unseen) == (True, False)
        assert rest[-1].object["status"]["phase"] == "Succeeded", "its last state came with it"
        assert it.watch.pods == {}


async def test_pods_with_other_labels_are_not_seen() -> None:
    async with watching() as it:
        other = pod("other")
        other["metadata"]["labels"] = {"app": "another"}
        await it.api.create(PODS, other)
        mine = await it.seen("mine")
        assert [state.name for state in it.watch.pods.values()] == ["mine"]
        remove = [{"op": "remove", "path": "/metadata/labels/app.kubernetes.io~1managed-by"}]
        with it.watch.following(mine.object) as follower:
            await it.api.patch(PODS, "mine", remove)
            assert [state.gone async for state in follower.states()][-1]


@pytest.mark.parametrize("order", [Order.CUT, Order.EXPIRE])
async def test_what_happened_while_a_watch_was_broken_is_seen_in_a_list(order: Order) -> None:
    async with watching() as it:
        stays, goes = await it.seen("stays"), await it.seen("goes")
        blocked = Fault("^GET .*/pods$", answer=status(503, "ServiceUnavailable", "not now"), times=1_000_000)
        it.cluster.faults = [blocked]
        it.cluster.order(order)
        await blocked.met.wait()
        assert it.watch.trouble is not None
        await it.api.delete(PODS, "goes")
        new = await it.api.create(PODS, pod("new"))
        it.cluster.faults = []
        last = await last_of(it.watch, goes.object)
        assert (last.gone, last.unseen, last.object) == (True, True, goes.object)
        with it.watch.following(new) as follower:
            assert not follower.state.gone
        assert set(it.watch.pods) == {stays.uid, new["metadata"]["uid"]}
        await it.cluster.watched()
        assert it.watch.trouble is None


async def test_a_watch_that_ends_goes_on_where_it_was_without_a_list() -> None:
    async with watching() as it:
        await it.seen("a")
        lists = it.calls("list")
        it.cluster.order(Order.END)
        await it.seen("b")
        assert it.calls("list") == lists
        assert it.pauses.taken == []
        await it.cluster.watched()
        it.cluster.order(Order.BOOKMARK)
        it.cluster.order(Order.END)
        await it.seen("c")
        assert it.calls("list") == lists


async def test_a_watch_that_ends_at_once_again_and_again_is_no_storm() -> None:
    async with watching() as it:
        it.pauses.limit = 12
        while not it.pauses.enough.is_set():
            it.cluster.order(Order.END)
            await asyncio.sleep(0)
        taken = it.pauses.taken[:12]
        assert taken[0] <= 0.2
        assert LONGEST_PAUSE / 2 <= taken[-1] <= LONGEST_PAUSE
        assert all(later > earlier for earlier, later in zip(taken, taken[2:6], strict=False))


async def test_a_server_that_is_restarted_is_found_again(caplog: pytest.LogCaptureFixture) -> None:
    async with watching() as it:
        stays, goes = await it.seen("stays"), await it.seen("goes")
        it.pauses.limit = 5
        await it.cluster.down()
        await it.pauses.enough.wait()
        assert "no whole answer" in str(it.watch.trouble)
        assert set(it.watch.pods) == {stays.uid, goes.uid}, "nothing is known to be gone"
        it.cluster.store.gone(("pods", "ion", "goes"))
        await it.cluster.up()
        assert (await last_of(it.watch, goes.object)).unseen
        with caplog.at_level(logging.INFO):
            await it.seen("new")
        assert "the watch of pods goes on" in caplog.text
    assert [it.message for it in caplog.records].count("the watch of pods ended") <= 1


async def test_a_version_that_a_restart_made_too_old_is_listed_again() -> None:
    async with watching() as it:
        goes = await it.seen("goes")
        lists = it.calls("list")
        it.cluster.store.gone(("pods", "ion", "goes"))
        it.cluster.store.forget()
        it.cluster.order(Order.END)
        assert (await last_of(it.watch, goes.object)).gone
        await it.cluster.watched()
        await it.seen("new")
        assert it.calls("list") <= lists + 1


async def test_a_silent_watch_counts_as_dead() -> None:
    async with watching(silence=0.3) as it:
        goes = await it.seen("goes")
        it.cluster.silence()
        await it.api.delete(PODS, "goes")
        assert (await last_of(it.watch, goes.object)).gone
        assert it.calls("list") >= 2


async def test_a_server_that_asks_for_time_is_given_it() -> None:
    async with watching() as it:
        busy = status(429, "TooManyRequests", "too many requests")
        it.cluster.faults = [Fault("^GET .*/pods$", answer=busy, headers={"Retry-After": "77"})]
        it.pauses.limit = 2
        it.cluster.order(Order.CUT)
        await it.pauses.enough.wait()
        assert it.pauses.taken[1] == 77
        await it.seen("a")


async def test_a_right_that_is_taken_away_is_told_and_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with watching() as it:
        a = await it.seen("a")
        it.cluster.denied = {("watch", "pods")}
        it.pauses.limit = 3
        it.cluster.order(Order.CUT)
        await it.pauses.enough.wait()
        assert a.uid in it.watch.pods
        it.cluster.denied = set()
        await it.seen("b")
    assert [record.message for record in caplog.records].count("the watch of pods ended") == 1


async def test_a_thousand_pods_are_followed_by_one_watch() -> None:
    async with watching() as it:
        made = [await it.api.create(PODS, pod(f"p{number}")) for number in range(1000)]
        followers = [asyncio.create_task(last_of(it.watch, object)) for object in made]
        await asyncio.sleep(0)
        for object in made:
            it.cluster.store.gone(("pods", "ion", object["metadata"]["name"]))
        ended = await asyncio.gather(*followers)
        assert [state.uid for state in ended] == [object["metadata"]["uid"] for object in made]
        assert all(state.gone for state in ended)
        assert len(it.cluster.watches) == 1
        assert (it.calls("watch"), it.calls("list")) == (1, 1)


async def test_a_pod_that_went_before_it_was_followed_is_gone() -> None:
    async with watching() as it:
        made = await it.api.create(PODS, pod("a"))
        await it.api.delete(PODS, "a")
        await it.seen("b")
        last = await last_of(it.watch, made)
        assert (last.gone, last.unseen, last.uid) == (True, True, made["metadata"]["uid"])


async def test_a_pod_that_the_watch_has_not_seen_yet_is_not_gone() -> None:
    async with watching() as it:
        it.cluster.silence()
        made = await it.api.create(PODS, pod("a"))
        with it.watch.following(made) as follower:
            assert not (await anext(follower.states())).gone
            assert made["metadata"]["uid"] in await it.watch.refreshed()
            assert not (await anext(follower.states())).gone
            await it.api.delete(PODS, "a")
            assert await it.watch.refreshed() == {}
            assert (await anext(follower.states())).gone


async def test_what_a_list_has_shown_gone_does_not_come_back_by_a_watch_that_is_late() -> None:
    async with watching() as it:
        a = await it.seen("a")
        it.cluster.silence()
        add = [{"op": "add", "path": "/metadata/labels/x", "value": "y"}]
        await it.api.patch(PODS, "a", add)
        await it.api.delete(PODS, "a")
        assert await it.watch.refreshed() == {}
        assert (await last_of(it.watch, a.object)).gone
        for open_watch in it.cluster.watches:  # now it tells what has been known for long
            open_watch.silent = False
        it.cluster.store.tell()
        b = await it.seen("b")
        assert set(it.watch.pods) == {b.uid}


async def test_many_who_ask_at_a_time_share_a_list_that_began_after_they_asked() -> None:
    async with watching() as it:
        lists = it.calls("list")
        answers = await asyncio.gather(*(it.watch.refreshed() for _ in range(50)))
        assert all(answer == {} for answer in answers)
        assert it.calls("list") - lists <= 2
        made = await it.api.create(PODS, pod("a"))
        assert made["metadata"]["uid"] in await it.watch.refreshed()


async def test_who_asks_hears_that_nobody_answers() -> None:
    async with watching() as it:
        it.cluster.faults = [Fault("^GET .*/pods$", times=1)]
        answers = await asyncio.gather(*(it.watch.refreshed() for _ in range(5)), return_exceptions=True)
        assert isinstance(answers[0], ApiUnavailable)
        it.cluster.denied = {("list", "pods")}
        with pytest.raises(ApiRefused):
            await it.watch.refreshed()


async def test_a_list_that_is_given_up_does_not_hold_up_the_next() -> None:
    async with watching() as it:
        hangs = Fault("^GET .*/pods$", How.HANG)
        it.cluster.faults = [hangs]
        first = asyncio.create_task(it.watch.refreshed())
        await hangs.met.wait()
        second = asyncio.create_task(it.watch.refreshed())
        first.cancel()
        assert await second == {}


async def test_a_cluster_that_was_set_back_is_believed(caplog: pytest.LogCaptureFixture) -> None:
    async with watching() as it:
        a = await it.seen("a")
        it.cluster.store.gone(("pods", "ion", "a"))
        it.cluster.store.version = 500
        it.cluster.store.changes.clear()
        it.cluster.order(Order.CUT)
        last = await last_of(it.watch, a.object)
        assert last.gone
        await it.cluster.watched()
        await it.seen("b")
    assert "was set back" in caplog.text
