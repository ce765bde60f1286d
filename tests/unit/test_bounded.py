"""Waits that end."""

from __future__ import annotations

import asyncio
import sys

import pytest

from ion_core.dispatcher.bounded import Backoff, side_by_side, uninterrupted, wait_for_any

LONG = 60.0


class Work:
    """Ends when told to; remembers how."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.done = False

    async def run(self, error: Exception | None = None) -> str:
        self.begun.set()
        await self.may_end.wait()
        self.done = True
        if error is not None:
            raise error
        return "result"


async def test_the_result_is_passed_on() -> None:
    work = Work()
    work.may_end.set()
    assert await uninterrupted(work.run(), within=LONG) == "result"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a task begins in the next turn of the event loop")
async def test_what_need_not_wait_is_done_in_the_same_turn() -> None:
    turns: list[str] = []
    asyncio.get_running_loop().call_soon(turns.append, "next")
    assert await uninterrupted(at_once("result"), within=LONG) == "result"
    assert turns == []


async def test_an_error_is_passed_on() -> None:
    work = Work()
    work.may_end.set()
    with pytest.raises(OSError, match="broken"):
        await uninterrupted(work.run(OSError("broken")), within=LONG)


async def test_cancelled_however_often_it_is_carried_through_then_cancelled() -> None:
    work = Work()
    caller = asyncio.create_task(uninterrupted(work.run(), within=LONG))
    await work.begun.wait()
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()

    work.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.done


async def test_an_error_after_a_cancellation_is_not_hidden() -> None:
    work = Work()
    caller = asyncio.create_task(uninterrupted(work.run(OSError("broken")), within=LONG))
    await work.begun.wait()
    caller.cancel()
    await asyncio.sleep(0)
    work.may_end.set()
    with pytest.raises(OSError, match="broken"):
        await caller


async def test_what_takes_longer_is_cancelled_and_said() -> None:
    work = Work()
    with pytest.raises(TimeoutError, match=r"not done within 0\.01 s"):
        await uninterrupted(work.run(), within=0.01)
    assert not work.done


async def test_what_takes_longer_while_the_caller_is_cancelled_ends_cancelled() -> None:
    work = Work()
    caller = asyncio.create_task(uninterrupted(work.run(), within=0.05))
    await work.begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not work.done


def test_back_off_doubles_up_to_its_most_and_starts_again() -> None:
    backoff = Backoff(first=1.0, most=8.0)
    found = [backoff.next() for _ in range(6)]
    for seconds, nominal in zip(found, [1, 2, 4, 8, 8, 8], strict=True):
        assert 0.8 * nominal <= seconds <= 1.2 * nominal
    backoff.reset()
    assert backoff.next() <= 1.2


def test_back_off_is_bounded_after_very_many_failures() -> None:
    backoff = Backoff(first=1.0, most=8.0)
    assert max(backoff.next() for _ in range(5_000)) <= 8.0 * 1.2


async def test_waiting_for_any_ends_with_the_first() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    waiting = asyncio.create_task(wait_for_any(first, second))
    await asyncio.sleep(0)
    second.set()
    assert await waiting


async def test_waiting_for_any_says_when_none_came() -> None:
    assert not await wait_for_any(asyncio.Event(), timeout=0.01)


async def at_once(said: str) -> str:
    return said


async def test_side_by_side_no_task_is_made_where_the_first_need_not_wait() -> None:
    before = asyncio.all_tasks()
    seen: list[set[asyncio.Task[object]]] = []

    async def looks() -> str:
        seen.append(asyncio.all_tasks())
        return "second"

    assert await side_by_side(at_once("first"), looks()) == ("first", "second")
    assert seen == [before]


async def test_side_by_side_both_are_under_way_at_the_same_time() -> None:
    first, second = Work(), Work()
    both = asyncio.create_task(side_by_side(first.run(), second.run()))
    await first.begun.wait()
    await second.begun.wait()
    second.may_end.set()
    await asyncio.sleep(0)
    first.may_end.set()
    assert await both == ("result", "result")


async def test_side_by_side_a_time_limit_within_the_first_holds_for_it_alone() -> None:
    second = Work()

    async def limited() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            second.may_end.set()
            return "too long"
        raise AssertionError("nobody sets it")

    assert await side_by_side(limited(), second.run()) == ("too long", "result")


@pytest.mark.parametrize("waits", [False, True])
async def test_side_by_side_an_error_of_the_first_is_told_once_the_second_is_over(waits: bool) -> None:
    second = Work()
    second.may_end.set()

    async def fails() -> None:
        if waits:
            await asyncio.sleep(0)
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await side_by_side(fails(), second.run())
    assert second.done


async def test_side_by_side_an_error_of_the_second_is_told_once_the_first_is_over() -> None:
    first, second = Work(), Work()
    both = asyncio.create_task(side_by_side(first.run(), second.run(OSError("broken"))))
    await second.begun.wait()
    second.may_end.set()
    await asyncio.sleep(0)
    assert not both.done()
    first.may_end.set()
    with pytest.raises(OSError, match="broken"):
        await both


async def test_side_by_side_cancelled_it_cancels_both() -> None:
    first, second = Work(), Work()
    both = asyncio.create_task(side_by_side(first.run(), second.run()))
    await second.begun.wait()
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert not first.done
    assert not second.done
    assert asyncio.all_tasks() == {asyncio.current_task()}
