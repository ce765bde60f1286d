"""What the embedded broker does beyond the rules every broker keeps."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.contracts.messaging import Delivery, QueueStats, RetryPolicy
from ion_core.embedded.settings import SqliteBrokerSettings
from ion_core.embedded.sqlite import queue as sql
from ion_core.embedded.sqlite.broker import SqliteBroker, open_sqlite_broker
from ion_core.embedded.sqlite.database import Access, open_database
from ion_core.errors import DeadLetterNotFound, DeliveryLost, StateError, StorageFull, TransientError

ENOUGH = 20.0
LONG = timedelta(hours=1)
SOON = timedelta(milliseconds=20)


@asynccontextmanager
async def opened(
    path: Path, *, lease: timedelta = LONG, poll: timedelta = SOON, declare: bool = True
) -> AsyncIterator[SqliteBroker]:
    async with open_sqlite_broker(SqliteBrokerSettings(path=path / "db", lease=lease, poll=poll)) as broker:
        if declare:
            await broker.declare("queue", topics=["topic"], retry=RetryPolicy())
        yield broker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[SqliteBroker]:
    async with opened(tmp_path) as broker:
        yield broker


async def publish(broker: SqliteBroker, *bodies: bytes) -> None:
    for body in bodies:
        await broker.publish("topic", body, headers={})


async def take(deliveries: AsyncIterator[Delivery], count: int) -> list[Delivery]:
    async with asyncio.timeout(ENOUGH):
        return [await anext(deliveries) for _ in range(count)]


async def waiting_in_vain(broker: SqliteBroker, deliveries: AsyncIterator[Delivery]) -> asyncio.Future[Delivery]:
    """Somebody who waits, having looked and found nothing."""
    waiting = asyncio.ensure_future(anext(deliveries))
    await asyncio.sleep(0)
    await broker.database.call(lambda connection: None, Access.READ)  # answered in order
    assert not waiting.done()
    return waiting


async def limit_pages(broker: SqliteBroker, pages: int) -> None:
    """Of the whole file, for whichever connection of the broker writes to it."""
    for access, short in ((Access.READ, False), (Access.READ, True), (Access.DURABLE, True)):
        await broker.database.call(
            lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone(), access, short=short
        )


async def run(broker: SqliteBroker, statement: str) -> list[tuple[object, ...]]:
    return await broker.database.call(lambda connection: connection.execute(statement).fetchall(), Access.WRITE)


async def test_brokers_of_one_process_wake_each_other_without_polling(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, poll=LONG) as here,
        opened(tmp_path, poll=LONG) as there,
        there.subscribe("queue", prefetch=5) as deliveries,
    ):
        for body in (b"one", b"two"):
            waiting = await waiting_in_vain(there, deliveries)
            await publish(here, body)
            async with asyncio.timeout(ENOUGH):
                assert (await waiting).body == body


async def test_brokers_of_two_event_loops_wake_each_other_without_polling(broker: SqliteBroker, tmp_path: Path) -> None:
    subscribed, taken = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def elsewhere() -> None:
        async with (
            opened(tmp_path, poll=LONG, declare=False) as there,
            there.subscribe("queue", prefetch=1) as deliveries,
        ):
            waiting = await waiting_in_vain(there, deliveries)
            subscribed.set()
            await (await waiting).ack()
            loop.call_soon_threadsafe(taken.set)

    other = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
    await asyncio.to_thread(subscribed.wait, ENOUGH)
    await publish(broker, b"one")
    async with asyncio.timeout(ENOUGH):
        await taken.wait()
        await other


async def test_a_short_delay_does_not_wait_for_the_next_poll(tmp_path: Path) -> None:
    async with opened(tmp_path, poll=LONG) as broker, broker.subscribe("queue", prefetch=1) as deliveries:
        await publish(broker, b"one")
        (delivery,) = await take(deliveries, 1)
        await delivery.retry(delay=timedelta(milliseconds=50))
        (again,) = await take(deliveries, 1)
        assert again.attempt == 2


async def test_a_delay_is_known_to_whoever_waits_and_to_whoever_comes_later(tmp_path: Path) -> None:
    delay = timedelta(milliseconds=50)
    async with (
        opened(tmp_path, poll=LONG) as here,
        opened(tmp_path, poll=LONG) as there,
        here.subscribe("queue", prefetch=1) as deliveries,
        there.subscribe("queue", prefetch=1) as others,
    ):
        await publish(here, b"one")
        (delivery,) = await take(deliveries, 1)
        waiting = await waiting_in_vain(there, others)
        await delivery.retry(delay=delay)
        async with asyncio.timeout(ENOUGH):
            delivery = await waiting
        await delivery.retry(delay=2 * delay)
    async with opened(tmp_path, poll=LONG) as later, later.subscribe("queue", prefetch=1) as deliveries:
        (delivery,) = await take(deliveries, 1)
        assert delivery.attempt == 3


async def test_an_announcement_during_a_claim_leads_to_another_one(tmp_path: Path) -> None:
    async with opened(tmp_path, poll=LONG) as broker, broker.subscribe("queue", prefetch=1) as deliveries:
        seen: list[str] = []
        trace = lambda connection: connection.set_trace_callback(seen.append)  # noqa: E731
        await broker.database.call(trace, Access.READ, short=True)
        waiting = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)  # now it claims
        broker.announce([1])
        for _ in range(10):
            await asyncio.sleep(0)
        assert len([statement for statement in seen if "RETURNING" in statement]) == 2
        waiting.cancel()
        await asyncio.wait([waiting])


@pytest.mark.parametrize("taker", ["another broker", "the same broker"])
@pytest.mark.parametrize("verb", ["ack", "release", "retry", "dead_letter", "renew"])
async def test_a_verb_on_what_was_given_away_unnoticed_changes_nothing(tmp_path: Path, taker: str, verb: str) -> None:
    async with opened(tmp_path, poll=LONG) as here, opened(tmp_path, poll=LONG) as there:
        await publish(here, b"one")
        second = here if taker == "the same broker" else there
        async with here.subscribe("queue", prefetch=1) as deliveries, second.subscribe("queue", prefetch=1) as others:
            (delivery,) = await take(deliveries, 1)
            await run(here, "UPDATE messages SET due = 0")
            (other,) = await take(others, 1)
            assert not delivery.lost.is_set()
            before = await run(here, "SELECT * FROM messages")
            verbs: dict[str, Callable[[], Coroutine[None, None, None]]] = {
                "ack": delivery.ack,
                "release": delivery.release,
                "renew": delivery.renew,
                "retry": lambda: delivery.retry(delay=LONG),
                "dead_letter": lambda: delivery.dead_letter("why"),
            }
            for _ in range(2):
                with pytest.raises(DeliveryLost):
                    await verbs[verb]()
                assert delivery.lost.is_set()
            assert await run(here, "SELECT * FROM messages") == before
            await other.ack()
        assert await here.stats("queue") == QueueStats(ready=0, delayed=0, unsettled=0, dead=0)


async def test_released_messages_keep_their_place_and_retried_ones_stand_behind(broker: SqliteBroker) -> None:
    await publish(broker, b"1", b"2", b"3", b"4")
    async with broker.subscribe("queue", prefetch=2) as deliveries:
        first, second = await take(deliveries, 2)
        await second.release()
        await first.retry(delay=timedelta(0))
        assert [message.body for message in await broker.peek("queue", limit=9)] == [b"2", b"3", b"4", b"1"]
        assert [(d.body, d.attempt) for d in await take(deliveries, 2)] == [(b"2", 1), (b"3", 1)]


async def test_what_was_claimed_ahead_is_renewed_until_it_is_given_out(tmp_path: Path) -> None:
    async with opened(tmp_path, lease=timedelta(seconds=2)) as broker, opened(tmp_path) as other:
        await publish(broker, b"1", b"2")
        async with broker.subscribe("queue", prefetch=2) as deliveries:
            (first,) = await take(deliveries, 1)
            lease_of_second = "SELECT due FROM messages WHERE body = CAST('2' AS BLOB)"
            before = await run(broker, lease_of_second)
            async with asyncio.timeout(ENOUGH), other.subscribe("queue", prefetch=2) as elsewhere:
                lapsed = await anext(elsewhere)  # nobody renews the first one: it was given out
            assert lapsed.body == b"1"
            async with asyncio.timeout(ENOUGH):
                await first.lost.wait()
            assert await run(broker, lease_of_second) > before
            (second,) = await take(deliveries, 1)
            assert second.body == b"2"
            await second.ack()


async def test_what_nobody_renews_comes_back_to_its_own_subscriber(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, lease=timedelta(milliseconds=50)) as broker,
        broker.subscribe("queue", prefetch=1) as deliveries,
    ):
        await publish(broker, b"one")
        [abandoned] = await take(deliveries, 1)
        [again] = await take(deliveries, 1)
        assert (again.body, again.attempt) == (b"one", 1)
        assert abandoned.lost.is_set()
        await again.ack()


async def test_an_ack_claims_the_next_one_for_whoever_waits_in_the_same_transaction(broker: SqliteBroker) -> None:
    await publish(broker, b"1", b"2", b"3")
    async with broker.subscribe("queue", prefetch=1) as deliveries:
        (first,) = await take(deliveries, 1)
        waiting = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)
        seen: list[str] = []
        trace = lambda connection: connection.set_trace_callback(seen.append)  # noqa: E731
        await broker.database.call(trace, Access.READ, short=True)
        await first.ack()
        async with asyncio.timeout(ENOUGH):
            second = await waiting
        assert second.body == b"2"
        assert seen.count("COMMIT") == 1
        await second.ack()  # nobody waits: the third is left to others
        assert await broker.stats("queue") == QueueStats(ready=1, delayed=0, unsettled=0, dead=0)


async def test_an_ack_that_fails_claims_nothing_and_is_no_error_of_the_iteration(tmp_path: Path) -> None:
    async with opened(tmp_path, poll=LONG) as broker, broker.subscribe("queue", prefetch=1) as deliveries:
        await publish(broker, b"1", b"2")
        (first,) = await take(deliveries, 1)
        waiting = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)
        await run(broker, "UPDATE messages SET claim = -1 WHERE owner IS NOT NULL")
        with pytest.raises(DeliveryLost):
            await first.ack()
        assert first.lost.is_set()
        with pytest.raises(DeliveryLost):
            await first.ack()
        async with asyncio.timeout(ENOUGH):
            second = await waiting
        assert second.body == b"2"
        await second.ack()


async def test_cancelling_whoever_iterates_loses_nothing(broker: SqliteBroker) -> None:
    async with broker.subscribe("queue", prefetch=1) as deliveries:
        for n in range(30):
            waiting = asyncio.ensure_future(anext(deliveries))
            await publish(broker, b"%d" % n)
            for _ in range(n % 6):
                await asyncio.sleep(0)  # a little further each time
            waiting.cancel()
            await asyncio.wait([waiting])
            if waiting.cancelled():
                (delivery,) = await take(deliveries, 1)
            else:
                delivery = waiting.result()
            assert delivery.body == b"%d" % n
            await delivery.ack()


async def test_a_verb_whose_caller_goes_away_settles_all_the_same(broker: SqliteBroker) -> None:
    await publish(broker, b"1", b"2")
    async with broker.subscribe("queue", prefetch=1) as deliveries:
        (delivery,) = await take(deliveries, 1)
        settling = asyncio.create_task(delivery.ack())
        await asyncio.sleep(0)
        settling.cancel()
        await asyncio.wait([settling])
        (following,) = await take(deliveries, 1)
        assert following.body == b"2"
        assert await broker.stats("queue") == QueueStats(ready=0, delayed=0, unsettled=1, dead=0)


async def test_a_full_disk_stops_the_taking_and_resumes(broker: SqliteBroker) -> None:
    await publish(broker, b"1")
    async with broker.subscribe("queue", prefetch=1) as deliveries:
        (delivery,) = await take(deliveries, 1)
        await limit_pages(broker, 1)
        big = b"x" * 1_000_000
        with pytest.raises(StorageFull):
            await publish(broker, big)
        with pytest.raises(StorageFull):
            await delivery.dead_letter("reason" * 100_000)
        await limit_pages(broker, 1_000_000)
        await delivery.dead_letter("another reason")  # it was not settled
        await publish(broker, big)
        (delivery,) = await take(deliveries, 1)
        assert delivery.body == big
        (letter,) = await broker.dead_letters("queue")
        assert letter.reason == "another reason"


async def test_an_error_comes_out_of_the_iteration_which_goes_on_afterwards(broker: SqliteBroker) -> None:
    await publish(broker, b"1")
    async with broker.subscribe("queue", prefetch=1) as deliveries:
        await run(broker, "ALTER TABLE messages RENAME COLUMN claim TO broken")
        with pytest.raises(StateError, match="claim"):
            await take(deliveries, 1)
        await run(broker, "ALTER TABLE messages RENAME COLUMN broken TO claim")
        (delivery,) = await take(deliveries, 1)
        await delivery.ack()


async def test_a_broken_file_ends_the_waiting(broker: SqliteBroker, caplog: pytest.LogCaptureFixture) -> None:
    async with broker.subscribe("queue", prefetch=1) as deliveries:
        waiting = await waiting_in_vain(broker, deliveries)
        await run(broker, "ALTER TABLE messages RENAME TO gone")
        async with asyncio.timeout(ENOUGH):
            for _ in range(3):
                with pytest.raises(StateError, match="no such table"):
                    await waiting
                waiting = asyncio.ensure_future(anext(deliveries))
        await run(broker, "ALTER TABLE gone RENAME TO messages")
        await publish(broker, b"1")
        async with asyncio.timeout(ENOUGH):
            while True:  # one more error may be on its way
                try:
                    delivery = await waiting
                except StateError:
                    waiting = asyncio.ensure_future(anext(deliveries))
                else:
                    break
            await delivery.ack()
    warnings = [record for record in caplog.records if "cannot be used for now" in record.message]
    assert [record.levelno for record in warnings] == [logging.WARNING]
    assert "no such table" in str(vars(warnings[0])["error"])


async def test_after_the_context_is_left_nothing_is_ours(broker: SqliteBroker) -> None:
    await publish(broker, b"1", b"2", b"3")
    async with broker.subscribe("queue", prefetch=3) as deliveries:
        first, second = await take(deliveries, 2)
        await first.ack()
    assert second.lost.is_set()
    assert await broker.stats("queue") == QueueStats(ready=2, delayed=0, unsettled=0, dead=0)
    with pytest.raises(StopAsyncIteration):
        await anext(deliveries)


class Clock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def test_a_clock_that_is_set_back_makes_nothing_wait_longer_than_its_delay(tmp_path: Path) -> None:
    clock = Clock()
    clock.ahead = 7200.0
    async with open_database(tmp_path / "db", sql.SCHEMA) as database:
        broker = SqliteBroker(database, lease=timedelta(seconds=1), poll=SOON, clock=clock)
        await broker.start()
        await broker.declare("queue", topics=["topic"], retry=RetryPolicy())
        await publish(broker, b"1", b"2")
        async with broker.subscribe("queue", prefetch=2) as deliveries:
            first, second = await take(deliveries, 2)
            await first.retry(delay=timedelta(seconds=1))
            clock.ahead = 0.0
            taken = await take(deliveries, 2)  # one's delay and the other's lease end within a second from now
            assert {d.body: d.attempt for d in taken} == {b"1": 2, b"2": 1}
            assert second.lost.is_set()
            await taken[0].retry(delay=LONG)
            assert (await broker.stats("queue")).delayed == 1
        await broker.stop()
    assert 3500 < (await delayed_by(tmp_path)) <= 3600


async def test_a_clock_set_back_while_nothing_ran_is_noticed_at_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as broker, broker.subscribe("queue", prefetch=1) as deliveries:
        await publish(broker, b"1")
        (delivery,) = await take(deliveries, 1)
        await delivery.retry(delay=timedelta(minutes=1))
        await run(broker, "UPDATE messages SET due = due + 7200")
    async with opened(tmp_path):
        assert 50 < (await delayed_by(tmp_path)) <= 60


async def delayed_by(path: Path) -> float:
    async with open_database(path / "db", sql.SCHEMA) as database:
        (due,) = await database.call(lambda c: c.execute("SELECT max(due) FROM messages").fetchone(), Access.READ)
        return float(due) - time.time()


async def kill_all(broker: SqliteBroker, count: int) -> list[str]:
    await asyncio.gather(*(publish(broker, b"%d" % n) for n in range(count)))
    async with broker.subscribe("queue", prefetch=500) as deliveries, asyncio.TaskGroup() as group:
        for delivery in await take(deliveries, count):
            group.create_task(delivery.dead_letter("no"))
    return [letter.id for letter in await broker.dead_letters("queue")]


async def test_who_subscribes_to_a_dropped_queue_is_given_nothing_of_another(tmp_path: Path) -> None:
    async with opened(tmp_path) as broker, opened(tmp_path, declare=False) as other:
        async with broker.subscribe("queue", prefetch=1) as deliveries:
            waiting = await waiting_in_vain(broker, deliveries)
            await other.drop("queue")
            await other.declare("another", topics=["topic"], retry=RetryPolicy())
            await publish(other, b"x")
            with pytest.raises(TransientError, match="the queue was dropped"):
                async with asyncio.timeout(ENOUGH):
                    await waiting
        assert (await other.stats("another")).ready == 1


async def test_what_a_lease_has_run_out_of_is_moved_too(tmp_path: Path) -> None:
    async with opened(tmp_path, lease=SOON, poll=LONG) as broker:
        await publish(broker, b"x")
        await broker.declare("new", topics=[], retry=RetryPolicy())
        async with broker.subscribe("queue", prefetch=1) as deliveries:
            (held,) = await take(deliveries, 1)
            async with asyncio.timeout(ENOUGH):
                while not await broker.move("queue", "new"):  # noqa: ASYNC110 - until the lease has run out
                    await asyncio.sleep(0.005)
            with pytest.raises(DeliveryLost):
                await held.ack()
        assert (await broker.stats("new")).ready == 1


async def test_a_file_of_the_first_version_keeps_its_queues(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as connection:
        for statement in sql.SCHEMA.migrations[0]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {sql.SCHEMA.application_id}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO queues (id, name) VALUES (3, 'gone'), (7, 'queue')")
        connection.execute("INSERT INTO bindings (topic, queue) VALUES ('topic', 7)")
        connection.execute(
            "INSERT INTO messages (queue, attempt, topic, headers, body) VALUES (7, 2, 'topic', '{}', x'6f')"
        )
        connection.commit()
    async with opened(tmp_path, declare=False) as broker:
        assert [(it.name, set(it.topics)) for it in await broker.queues()] == [("gone", set()), ("queue", {"topic"})]
        [message] = await broker.peek("queue", limit=2)
        assert (message.body, message.attempt) == (b"o", 2)
        await broker.drop("queue")
        await broker.declare("new", topics=[], retry=RetryPolicy())
        assert await run(broker, "SELECT id FROM queues WHERE name = 'new'") == [(8,)]


async def test_ids_of_dead_letters_are_never_used_again(broker: SqliteBroker) -> None:
    (old,) = await kill_all(broker, 1)
    await broker.purge("queue", [old])
    (new,) = await kill_all(broker, 1)
    assert new != old
    for id in (old, f"0{new}", f" {new}", "-1", "", "x", "9" * 40, "١"):
        with pytest.raises(DeadLetterNotFound, match=rf"keeps no dead letter '{id}'"):
            await broker.redrive("queue", [new, id])
    assert await broker.redrive("queue", [new, new]) == 1


async def test_many_dead_letters_move_at_once_or_not_at_all(broker: SqliteBroker) -> None:
    def many(connection: sqlite3.Connection) -> None:
        connection.executemany(
            """INSERT INTO dead_letters (queue, died_at, attempts, reason, log_tail, topic, headers, body)
               VALUES (1, 0, 3, '', '[]', 'topic', '{}', ?)""",
            [(b"%d" % n,) for n in range(40_000)],
        )

    await broker.database.call(many, Access.DURABLE)
    ids = [letter.id for letter in await broker.dead_letters("queue")]
    with pytest.raises(DeadLetterNotFound, match=r"'a', 'b'.* and 2 more\. List those there are; none was touched"):
        await broker.redrive("queue", [*"abcdefghijkl", *ids])
    assert (await broker.stats("queue")).dead == 40_000
    assert await broker.redrive("queue", ids[:35_000]) == 35_000
    assert await broker.purge("queue", ids[35_000:]) == 5_000
    assert await broker.stats("queue") == QueueStats(ready=35_000, delayed=0, unsettled=0, dead=0)
    assert [message.body for message in await broker.peek("queue", limit=2)] == [b"0", b"1"]


@pytest.mark.parametrize("declared", [["a"], ["a", "b", "b"], []])
async def test_declare_binds_to_exactly_what_it_names(broker: SqliteBroker, declared: list[str]) -> None:
    await broker.declare("queue", topics=declared, retry=RetryPolicy())
    rows = await run(broker, "SELECT topic FROM bindings ORDER BY topic")
    assert [row[0] for row in rows] == sorted(set(declared))


async def test_every_hot_statement_uses_an_index(broker: SqliteBroker) -> None:
    """So that the time of an event does not depend on how many are stored."""
    holder = {"seq": 1, "owner": "o", "claim": 1, "now": 0.0, "queue": 1, "limit": 1, "due": 0.0, "lease": 1.0}
    statements: list[tuple[str, object]] = [
        (sql.PROMOTE, holder),
        (sql.CLAIM, holder),
        (sql.HELD, {"seqs": "[1]", "owner": "o", "now": 0.0}),
        (sql.LOOK, (json.dumps([1, 2]),)),
        (sql.PUBLISH, ("{}", b"", "topic")),
        (sql.ACK, holder),
        (sql.RELEASE, holder),
    ]
    for statement, values in statements:

        def explain(connection: sqlite3.Connection, statement: str = statement, values: object = values) -> list[str]:
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
            return [str(row[3]) for row in rows.fetchall()]

        plan = await broker.database.call(explain, Access.WRITE)
        scans = [step for step in plan if step.startswith("SCAN") and "json_each" not in step and "asked" not in step]
        assert plan
        assert scans == [], (statement, plan)
        assert not [step for step in plan if "TEMP B-TREE" in step], (statement, plan)
