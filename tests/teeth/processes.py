"""Broken message brokers of a process that is blocked for too long, or killed: on a file, since memory dies with it.

What such a process opens breaks that process alone: its functions change the provider as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ion_core.embedded.settings import SqliteBrokerSettings
from ion_core.embedded.sqlite import queue as sql
from ion_core.embedded.sqlite.broker import SqliteBroker, open_sqlite_broker
from ion_core.embedded.sqlite.database import Access
from ion_core.embedded.sqlite.delivery import SqliteDelivery, Subscription
from ion_core.testing.process import Opening
from ion_core.testing.processes import ProcessRules
from tests.teeth.harness import Mutants

Broker = AbstractAsyncContextManager[SqliteBroker]
INSERT = "INSERT INTO messages (queue, attempt, topic, headers, body) VALUES (?, ?, '', ?, ?)"
BY_NAME = INSERT.replace("(?,", "((SELECT id FROM queues WHERE name = ?),", 1)
STEP = 0.05
"""Seconds between two steps of what is no whole."""


class Processes(ProcessRules):
    patience = 20.0
    quiet = 0.05
    settings: SqliteBrokerSettings
    broken: Callable[[SqliteBrokerSettings], Broker] = staticmethod(open_sqlite_broker)
    reopen = take_back = outage = None

    def opening(self) -> Opening:
        return self.broken, self.settings


@asynccontextmanager
async def on_a_file(kit: Processes) -> AsyncIterator[SqliteBroker]:
    with TemporaryDirectory() as directory:
        kit.settings = SqliteBrokerSettings(
            path=Path(directory) / "broker", lease=timedelta(seconds=1), poll=timedelta(seconds=0.02)
        )
        async with open_sqlite_broker(kit.settings) as broker:
            yield broker


PROCESSES = Mutants(Processes, "broker", on_a_file)


def of_a_process(rule: str) -> Callable[[Callable[[SqliteBrokerSettings], Broker]], Any]:
    """The function opens the broker in the process that is blocked or killed."""

    def add(opens: Callable[[SqliteBrokerSettings], Broker]) -> Any:
        PROCESSES.add(rule, opens.__name__, broken=staticmethod(opens), patience=10.0)
        return opens

    return add


FENCE = "no_verb_works_on_what_others_have_been_given"


def fenced_by(holder: str) -> None:
    sql.ACK, sql.RELEASE = (it.replace(sql._HOLDER, holder) for it in (sql.ACK, sql.RELEASE))
    sql._HOLDER = holder


@of_a_process(FENCE)
def has_no_fence(settings: SqliteBrokerSettings) -> Broker:
    fenced_by("seq = :seq AND :owner NOTNULL AND :claim NOTNULL")
    return open_sqlite_broker(settings)


@of_a_process(FENCE)
def is_fenced_by_its_consumer(settings: SqliteBrokerSettings) -> Broker:
    fenced_by("seq = :seq AND owner = :owner AND :claim NOTNULL")
    Subscription.forfeit = lambda self, claims: None  # type: ignore[method-assign]
    return open_sqlite_broker(settings)


WHOLE = "a_process_killed_at_work_loses_nothing"


@of_a_process(WHOLE)
def retries_by_removing_first(settings: SqliteBrokerSettings) -> Broker:
    async def retry(self: SqliteDelivery, *, delay: timedelta) -> None:
        await self.ack()
        await asyncio.sleep(STEP)
        values = (self._subscription.queue, self.attempt + 1, self._message.headers, self.body)
        await self._submit(lambda connection: connection.execute(INSERT, values) and None, Access.DURABLE)

    SqliteDelivery.retry = retry  # type: ignore[method-assign]
    return open_sqlite_broker(settings)


@of_a_process(WHOLE)
def redrives_by_removing_first(settings: SqliteBrokerSettings) -> Broker:
    async def redrive(self: SqliteBroker, queue: str, ids: Sequence[str]) -> int:
        letters = [letter for letter in await self.dead_letters(queue) if letter.id in ids]
        await self.purge(queue, ids)
        await asyncio.sleep(STEP)
        for letter in letters:
            values = (queue, 1, "{}", letter.body)
            await self.database.call(lambda it, values=values: it.execute(BY_NAME, values) and None, Access.DURABLE)
        return len(letters)

    SqliteBroker.redrive = redrive  # type: ignore[method-assign]
    return open_sqlite_broker(settings)


@of_a_process(WHOLE)
def publishes_queue_by_queue(settings: SqliteBrokerSettings) -> Broker:
    async def publish(self: SqliteBroker, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        for queue in [queue.name for queue in await self.queues() if topic in queue.topics]:
            values = (queue, 1, "{}", body)
            await self.database.call(lambda it, values=values: it.execute(BY_NAME, values) and None, Access.DURABLE)
            await asyncio.sleep(STEP)

    SqliteBroker.publish = publish  # type: ignore[method-assign]
    return open_sqlite_broker(settings)


@asynccontextmanager
async def looks_at_the_first_hundred(kit: Processes) -> AsyncIterator[SqliteBroker]:
    """Of what was given out: behind those that are still held it finds none, however long they are over."""
    promote = sql.PROMOTE.replace(
        "WHERE queue = :queue AND due IS NOT NULL AND due <= :now",
        "WHERE due <= :now AND seq IN "
        "(SELECT seq FROM messages WHERE queue = :queue AND due IS NOT NULL ORDER BY seq LIMIT 100)",
    )

    async def bury(self: SqliteBroker, dead: Sequence[str]) -> None:
        """Only its lease ends."""

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sql, "PROMOTE", promote)
        patched.setattr(SqliteBroker, "_bury", bury)
        async with on_a_file(kit) as broker:
            yield broker


@asynccontextmanager
async def counts_what_was_held(kit: Processes) -> AsyncIterator[SqliteBroker]:
    """As an attempt that was made."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sql, "CLAIM", sql.CLAIM.replace("claim = :claim", "claim = :claim, attempt = attempt + 1", 1))
        async with on_a_file(kit) as broker:
            yield broker


for broken in (looks_at_the_first_hundred, counts_what_was_held):
    PROCESSES.add("what_a_killed_process_held_comes_back", broken.__name__, broken, patience=3.0)
