"""Message brokers whose deliveries and dead letters are broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

from ion_core.contracts.messaging import DeadLetter, HoldLimit, Message
from ion_core.embedded.memory.broker import MemoryBroker, MemoryDelivery, MemoryQueue, Stored
from ion_core.errors import (
    DeadLetterNotFound,
    DeliveryLost,
    ProviderError,
)
from tests.teeth.harness import hop
from tests.teeth.messaging import MESSAGING, NOW, Method, broker, delivery, opening


def without_a_header(stored: Stored) -> Stored:
    return replace(stored, message=replace(stored.message, headers=dict([*stored.message.headers.items()][1:])))


@delivery("ack_is_for_good", "ack")
async def ack_is_forgotten(self: Any) -> None:
    self._settle()
    self._broker._put_back(self._name, self._stored, NOW)


@delivery("retry_comes_back_one_attempt_higher", "retry")
async def retry_does_not_count(self: Any, *, delay: timedelta) -> None:
    self._settle()
    self._broker._put_back(self._name, self._stored, delay)


@delivery("retry_comes_back_one_attempt_higher", "retry")
async def retry_is_dropped(self: Any, *, delay: timedelta) -> None:
    self._settle()


@delivery("retry_comes_back_one_attempt_higher", "retry")
async def retry_drops_a_header(self: Any, *, delay: timedelta) -> None:
    self._stored = without_a_header(self._stored)
    await MemoryDelivery.retry(self, delay=delay)


@delivery("retry_waits_for_its_delay", "retry")
async def retry_comes_early(self: Any, *, delay: timedelta) -> None:
    await MemoryDelivery.retry(self, delay=delay / 2)


@delivery("retry_waits_for_its_delay", "retry")
async def retry_caps_its_delay(self: Any, *, delay: timedelta) -> None:
    await MemoryDelivery.retry(self, delay=min(delay, timedelta(seconds=0.2)))


@delivery("a_delayed_message_holds_up_no_other", "retry")
async def delays_block_at_the_head(self: Any, *, delay: timedelta) -> None:
    self._broker.longest = max(getattr(self._broker, "longest", NOW), delay)
    await MemoryDelivery.retry(self, delay=self._broker.longest)


@delivery("release_comes_back_uncounted", "release")
async def release_counts(self: Any) -> None:
    await MemoryDelivery.retry(self, delay=NOW)


@delivery("release_comes_back_uncounted", "release")
async def release_starts_again(self: Any) -> None:
    self._stored = replace(self._stored, message=replace(self._stored.message, attempt=1))
    await MemoryDelivery.release(self)


@delivery("postpone_comes_back_uncounted", "postpone")
async def postpone_counts(self: Any, *, delay: timedelta) -> None:
    await MemoryDelivery.retry(self, delay=delay)


@delivery("postpone_comes_back_uncounted", "postpone")
async def postpone_drops_a_header(self: Any, *, delay: timedelta) -> None:
    self._stored = without_a_header(self._stored)
    await MemoryDelivery.postpone(self, delay=delay)


@delivery("postpone_comes_back_uncounted", "postpone")
async def postpone_is_dropped(self: Any, *, delay: timedelta) -> None:
    self._settle()


@delivery("postpone_waits_for_its_delay", "postpone")
async def postpone_releases(self: Any, *, delay: timedelta) -> None:
    await MemoryDelivery.release(self)


@delivery("a_released_message_keeps_its_place", "release")
async def release_puts_it_behind(self: Any) -> None:
    await MemoryDelivery.postpone(self, delay=NOW)


@delivery("what_is_retried_or_postponed_stands_behind_the_others", "retry")
async def retry_keeps_its_place(self: Any, *, delay: timedelta) -> None:
    self._settle()
    again = replace(self._stored.message, attempt=self.attempt + 1)
    self._broker._put_back(self._name, replace(self._stored, message=again), delay)


@delivery("what_is_retried_or_postponed_stands_behind_the_others", "postpone")
async def postpone_keeps_its_place(self: Any, *, delay: timedelta) -> None:
    self._settle()
    self._broker._put_back(self._name, self._stored, delay)


def cancelled_half_way(effect: str) -> Method:
    async def verb(self: Any, *args: Any, **known: Any) -> None:
        self._check()
        self._settled = True
        await hop()
        await hop()
        self._settled = False
        await getattr(MemoryDelivery, effect)(self, *args, **known)

    verb.__name__ = f"{effect}_is_cancelled_half_way"
    return verb


for effect in ("ack", "retry", "release", "postpone", "dead_letter"):
    delivery("a_cancelled_verb_has_settled_or_not", effect)(cancelled_half_way(effect))

REMOVED = "a_cancelled_verb_has_settled_or_not"


class RemovesThenStores(MemoryDelivery):
    """What was removed cannot be given back."""

    removed = False

    async def retry(self, *, delay: timedelta) -> None:
        self._check()
        self.removed = True
        await hop()
        await MemoryDelivery.retry(self, delay=delay)

    async def release(self) -> None:
        self._settle()
        if not self.removed:
            self._broker._put_back(self._name, self._stored, NOW)


removing = type("Broker", (MemoryBroker,), {"delivery_type": RemovesThenStores})
MESSAGING.add(REMOVED, "retry_removes_then_stores", opening(removing))


@delivery(REMOVED, "postpone")
async def postpone_stores_then_removes(self: Any, *, delay: timedelta) -> None:
    self._check()
    self._broker._put_behind(self._name, self._stored.message, delay)
    await hop()
    self._settle()


@delivery(REMOVED, "dead_letter")
async def buries_then_removes(self: Any, reason: str, *, log_tail: Sequence[str] = ()) -> None:
    self._check()
    self._broker._bury(self._name, self._stored.message, reason, tuple(log_tail))
    await hop()
    self._settle()


@delivery(REMOVED, "release")
async def release_counts_once_it_was_asked_for(self: Any) -> None:
    self._check()
    self._settled = True
    await hop()
    self._settled = False
    await MemoryDelivery.release(self)


@delivery("a_second_verb_is_refused", "_check")
def a_second_verb_passes(self: Any) -> None:
    if self.lost.is_set():
        raise DeliveryLost("lost")


@delivery("a_second_verb_is_refused", "_check")
def a_second_verb_is_lost(self: Any) -> None:
    if self._settled:
        raise DeliveryLost("gone, but not because the broker took it")


@delivery("any_task_may_settle", "_settle")
def belongs_to_a_task(self: Any) -> None:
    self._broker.owner = getattr(self._broker, "owner", asyncio.current_task())
    if self._broker.owner is not asyncio.current_task():
        raise ProviderError("attached to another task")
    MemoryDelivery._settle(self)


@delivery("renewing_holds_it", "renew", lease=timedelta(seconds=0.2))
async def renew_does_nothing(self: Any) -> None:
    self._check()


@delivery("renewing_holds_it", "renew")
async def renew_settles(self: Any) -> None:
    self._settle()


LEASE = timedelta(seconds=0.2)
OURS = "a_delivery_is_ours_for_its_whole_lease"


def leased(name: str, lease: timedelta, **methods: Method) -> None:
    """A broker with that lease, whose deliveries state ``LEASE``."""
    mutant = type("Mutant", (MemoryDelivery,), methods)
    broker = type("Broker", (MemoryBroker,), {"delivery_type": mutant})
    MESSAGING.add(OURS, name, opening(lambda: broker(lease=lease)))


def starts_half_of_it(self: Any) -> None:
    self._stop_lease()
    self._timer = self._broker._call_later(self.lease.total_seconds() / 2, self.take_back)


async def renews_for_the_rest_of_it(self: Any) -> None:
    self._check()


async def renews_for_a_part_of_it(self: Any) -> None:
    self._check()
    starts_half_of_it(self)


leased("half_of_what_it_states", LEASE, _start_lease=starts_half_of_it)
leased("renews_nothing", 5 * LEASE, renew=renews_for_the_rest_of_it)  # what is left of it comes a quarter of it early
leased("renews_for_a_part_of_it", LEASE, renew=renews_for_a_part_of_it)

for name, limit, lease in (
    ("holds_nothing", HoldLimit(longest=NOW, remedy="set it to {}".format), None),
    ("leases_for_longer_than_it_holds", HoldLimit(longest=timedelta(1), remedy="set it to {}".format), timedelta(2)),
    ("knows_no_remedy", HoldLimit(longest=timedelta(1), remedy=lambda wanted: ""), None),
    ("has_one_remedy_for_all", HoldLimit(longest=timedelta(1), remedy=lambda wanted: "Set it higher."), None),
):
    holding = type("Mutant", (MemoryBroker,), {"max_hold": limit})
    MESSAGING.add("max_hold_says_how_long_and_what_to_do", name, opening(partial(holding, lease=lease)))


@delivery("a_delivery_taken_back_says_so", "take_back")
def is_taken_back_in_silence(self: Any) -> None:
    self._broker.queue(self._name).held.discard(self)
    self._broker._put_back(self._name, self._stored, NOW)


@delivery("a_delivery_taken_back_comes_again", "take_back")
def is_lost_for_good(self: Any) -> None:
    self.lost.set()
    self._broker.queue(self._name).held.discard(self)


@delivery("a_delivery_taken_back_comes_again", "take_back")
def counts_what_is_taken_back(self: Any) -> None:
    again = replace(self._stored, message=replace(self._stored.message, attempt=self.attempt + 1))
    self._broker.queue(self._name).held.discard(self)
    self._broker._put_back(self._name, again, NOW)
    self.lost.set()


@delivery("whoever_is_told_that_it_is_lost_finds_lost_set", "take_back")
def is_lost_before_it_says_so(self: Any) -> None:
    self._broker.queue(self._name).held.discard(self)
    self._broker._put_back(self._name, self._stored, NOW)

    async def lost(**known: Any) -> None:
        raise DeliveryLost("gone")

    self.renew = lost


@delivery("no_verb_works_on_a_lost_delivery", "_check")
def lost_does_not_matter(self: Any) -> None:
    self._broker._check()


@delivery("no_verb_works_on_a_lost_delivery", "renew")
async def renew_never_notices(self: Any) -> None:
    return None


@delivery("a_verb_that_failed_has_settled_nothing", "_settle")
def settles_before_it_is_sure(self: Any) -> None:
    settled, self._settled = self._settled, True
    self._broker._check()
    self._settled = settled
    MemoryDelivery._settle(self)


SILENT = "a_subscription_that_nobody_waits_for_outlives_an_outage"


@broker(SILENT, "subscribe")
@asynccontextmanager
async def dies_in_silence(self: Any, queue: str, *, prefetch: int) -> AsyncIterator[Any]:
    """What reads for it has ended in the outage, and nobody was there to be told."""
    async with MemoryBroker.subscribe(self, queue, prefetch=prefetch) as deliveries:

        async def outage() -> None:
            while self.failing is None:  # noqa: ASYNC110
                await asyncio.sleep(0)

        failed = asyncio.create_task(outage())

        async def read() -> AsyncIterator[Any]:
            while not failed.done():
                coming = asyncio.ensure_future(anext(deliveries))
                try:
                    await asyncio.wait({coming, failed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not coming.done():
                        coming.cancel()
                if coming.done() and not coming.cancelled():
                    yield coming.result()
            await asyncio.Event().wait()

        try:
            yield read()
        finally:
            failed.cancel()


@broker("errors_of_the_backend_become_ours", "_check")
def lets_the_librarys_error_out(self: Any) -> None:
    if self.failing is not None:
        raise ConnectionResetError("by the library")


# Dead letters


@broker("a_dead_letter_keeps_everything", "_bury")
def buries_without_log(self: Any, queue: str, message: Message, reason: str, log_tail: tuple[str, ...]) -> None:
    MemoryBroker._bury(self, queue, message, reason, ())


@broker("a_dead_letter_keeps_everything", "_bury")
def buries_with_half_a_reason(self: Any, queue: str, message: Message, reason: str, log_tail: tuple[str, ...]) -> None:
    MemoryBroker._bury(self, queue, message, reason.splitlines()[0], log_tail)


@broker("a_dead_letter_keeps_everything", "_bury")
def buries_with_255_characters(self: Any, queue: str, message: Message, reason: str, log_tail: tuple[str, ...]) -> None:
    MemoryBroker._bury(self, queue, message, reason[:255], log_tail)


@broker("a_dead_letter_keeps_everything", "_bury")
def buries_with_5_lines(self: Any, queue: str, message: Message, reason: str, log_tail: tuple[str, ...]) -> None:
    MemoryBroker._bury(self, queue, message, reason, log_tail[-5:])


@broker("a_dead_letter_keeps_everything", "_bury")
def buries_without_attempts(self: Any, queue: str, message: Message, reason: str, log_tail: tuple[str, ...]) -> None:
    MemoryBroker._bury(self, queue, replace(message, attempt=1), reason, log_tail)


@broker("a_dead_letter_keeps_everything", "_bury")
def buries_without_headers(self: Any, queue: str, message: Message, reason: str, log_tail: tuple[str, ...]) -> None:
    MemoryBroker._bury(self, queue, replace(message, headers={}), reason, log_tail)


@broker("a_dead_letter_keeps_everything", "dead_letters")
async def forgets_when_it_died(self: Any, queue: str, *, limit: int | None = None) -> list[Any]:
    letters = await MemoryBroker.dead_letters(self, queue, limit=limit)
    return [replace(letter, died_at=datetime.fromtimestamp(0, letter.died_at.tzinfo)) for letter in letters]


@broker("it_died_when_it_was_made_a_dead_letter", "dead_letters")
async def dies_whenever_it_is_listed(self: Any, queue: str, *, limit: int | None = None) -> list[Any]:
    letters = await MemoryBroker.dead_letters(self, queue, limit=limit)
    return [replace(letter, died_at=datetime.now(UTC)) for letter in letters]


@broker("it_died_when_it_was_made_a_dead_letter", "dead_letters")
async def dies_in_a_time_zone(self: Any, queue: str, *, limit: int | None = None) -> list[Any]:
    letters = await MemoryBroker.dead_letters(self, queue, limit=limit)
    there = timezone(timedelta(hours=5, minutes=30))
    return [replace(letter, died_at=letter.died_at.astimezone(there)) for letter in letters]


@broker("a_dead_letter_is_not_delivered", "_bury")
def buries_the_living(self: Any, queue: str, message: Message, reason: str, log_tail: tuple[str, ...]) -> None:
    MemoryBroker._bury(self, queue, message, reason, log_tail)
    self._put_back(queue, Stored(number=next(self._numbers), message=message), timedelta(seconds=0.02))


@broker("dead_letters_are_listed_oldest_first", "dead_letters")
async def lists_the_newest_first(self: Any, queue: str, *, limit: int | None = None) -> list[Any]:
    return list(self.queue(queue).dead.values())[::-1][:limit]


@broker("dead_letters_are_listed_oldest_first", "dead_letters")
async def lists_without_limit(self: Any, queue: str, *, limit: int | None = None) -> list[Any]:
    return list(self.queue(queue).dead.values())


@broker("each_dead_letter_is_what_is_listed_of_any_number", "each_dead_letter")
@asynccontextmanager
async def reads_one_page_of_dead_letters(self: Any, queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
    letters = await MemoryBroker.dead_letters(self, queue, limit=100)

    async def reading() -> AsyncIterator[DeadLetter]:
        for letter in letters:
            yield letter

    yield reading()


@broker("each_dead_letter_is_what_is_listed_of_any_number", "each_dead_letter")
@asynccontextmanager
async def loses_the_dead_letter_that_was_read(self: Any, queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
    dead = self.queue(queue).dead

    async def reading() -> AsyncIterator[DeadLetter]:
        while dead:
            yield dead.pop(next(iter(dead)))

    yield reading()


@broker("each_dead_letter_is_what_is_listed_of_any_number", "each_dead_letter")
@asynccontextmanager
async def reads_dead_letters_without_logs(self: Any, queue: str) -> AsyncIterator[AsyncIterator[DeadLetter]]:
    async def reading() -> AsyncIterator[DeadLetter]:
        for letter in await MemoryBroker.dead_letters(self, queue):
            yield replace(letter, log_tail=())

    yield reading()


@broker("one_dead_letter_is_had_by_its_id", "dead_letter")
async def has_the_oldest_dead_letter(self: Any, queue: str, id: str) -> DeadLetter:
    await MemoryBroker.dead_letter(self, queue, id)
    return next(iter(self.queue(queue).dead.values()))  # type: ignore[no-any-return]


@broker("one_dead_letter_is_had_by_its_id", "dead_letter")
async def has_dead_letters_of_others(self: Any, queue: str, id: str) -> DeadLetter:
    for name in self._queues:
        if id in self.queue(name).dead:
            return self.queue(name).dead[id]  # type: ignore[no-any-return]
    raise DeadLetterNotFound(f"no dead letter {id}")


@broker("one_dead_letter_is_had_by_its_id", "dead_letter")
async def takes_the_dead_letter_that_is_asked_for(self: Any, queue: str, id: str) -> DeadLetter:
    letter = await MemoryBroker.dead_letter(self, queue, id)
    self._remove_dead(queue, [id])
    return letter


@broker("as_many_dead_letters_are_listed_as_there_are", "dead_letters")
async def lists_a_hundred(self: Any, queue: str, *, limit: int | None = None) -> list[Any]:
    return list(self.queue(queue).dead.values())[: 100 if limit is None else limit]


@broker("ids_of_dead_letters_stay", "_remove_dead")
def renumbers_dead_letters(self: Any, queue: str, ids: list[str]) -> list[Any]:
    gone = MemoryBroker._remove_dead(self, queue, ids)
    found = self.queue(queue)
    kept = [replace(letter, id=str(number)) for number, letter in enumerate(found.dead.values())]
    found.dead = {letter.id: letter for letter in kept}
    return gone


@broker("redrive_starts_attempts_again", "redrive")
async def redrive_keeps_attempts(self: Any, queue: str, ids: list[str]) -> int:
    letters = self._remove_dead(queue, ids)
    for letter in letters:
        message = Message(body=letter.body, headers=letter.headers, attempt=letter.attempts)
        self._put_back(queue, Stored(number=next(self._numbers), message=message), NOW)
    return len(letters)


for name, unseen in (("for_less_than_nothing", timedelta(-1)), ("for_ever", timedelta(days=1))):
    hiding = type("Mutant", (MemoryBroker,), {"letters_unseen_for": unseen})
    MESSAGING.add("dead_letters_are_unseen_no_longer_than_said", name, opening(hiding))


@broker("dead_letters_are_unseen_no_longer_than_said", "dead_letters")
async def holds_what_it_shows(self: Any, queue: str, *, limit: int | None = None) -> Any:
    there = self.queue(queue)
    held, there.dead = there.dead, {}
    await asyncio.sleep(0)
    there.dead |= held
    return list(held.values())[:limit]


@broker("redrive_starts_attempts_again", "redrive")
async def redrive_drops_headers(self: Any, queue: str, ids: list[str]) -> int:
    dead = self.queue(queue).dead
    dead |= {id: replace(letter, headers={}) for id, letter in dead.items()}
    return await MemoryBroker.redrive(self, queue, ids)


@broker("redrive_starts_attempts_again", "redrive")
async def redrive_copies(self: Any, queue: str, ids: list[str]) -> int:
    before = dict(self.queue(queue).dead)
    moved = await MemoryBroker.redrive(self, queue, ids)
    self.queue(queue).dead.update(before)
    return moved


@broker("redrive_moves_what_is_named_to_its_queue_only", "redrive")
async def redrive_publishes(self: Any, queue: str, ids: list[str]) -> int:
    for letter in (letters := self._remove_dead(queue, ids)):
        await self.publish(next(iter(self.queue(queue).topics)), letter.body, headers=letter.headers)
    return len(letters)


@broker("redrive_moves_what_is_named_to_its_queue_only", "redrive")
async def redrives_everything(self: Any, queue: str, ids: list[str]) -> int:
    return await MemoryBroker.redrive(self, queue, list(self.queue(queue).dead))


async def one_by_one(remove: Method, queue: str, ids: list[str]) -> int:
    return sum([await remove(queue, [id]) for id in ids])


@broker("what_is_redriven_stands_behind_the_others", "redrive")
async def redrives_to_the_front(self: Any, queue: str, ids: list[str]) -> int:
    letters = self._remove_dead(queue, ids)
    for letter in letters:
        message = Message(body=letter.body, headers=letter.headers, attempt=1)
        self._put_back(queue, Stored(number=-1, message=message), NOW)
    return len(letters)


@broker("a_redrive_cut_short_loses_nothing", "redrive")
async def redrive_removes_then_stores(self: Any, queue: str, ids: list[str]) -> int:
    letters = self._remove_dead(queue, ids)
    await hop()
    for letter in letters:
        self._put_behind(queue, Message(body=letter.body, headers=letter.headers, attempt=1), NOW)
    return len(letters)


@broker("an_id_that_is_repeated_is_one", "redrive")
async def counts_what_was_named(self: Any, queue: str, ids: list[str]) -> int:
    await MemoryBroker.redrive(self, queue, ids)
    return len(ids)


@broker("an_id_that_is_repeated_is_one", "purge")
async def misses_what_it_has_just_purged(self: Any, queue: str, ids: list[str]) -> int:
    return await one_by_one(super(type(self), self).purge, queue, ids)


@broker("redrive_of_an_unknown_id_moves_nothing", "redrive")
async def redrives_one_by_one(self: Any, queue: str, ids: list[str]) -> int:
    return await one_by_one(super(type(self), self).redrive, queue, ids)


@broker("redrive_of_an_unknown_id_moves_nothing", "redrive")
async def redrives_what_it_knows(self: Any, queue: str, ids: list[str]) -> int:
    return await MemoryBroker.redrive(self, queue, [id for id in ids if id in self.queue(queue).dead])


@broker("purge_deletes_what_is_named", "purge")
async def purges_everything(self: Any, queue: str, ids: list[str]) -> int:
    await MemoryBroker.purge(self, queue, list(self.queue(queue).dead))
    return len(ids)


@broker("purge_deletes_what_is_named", "purge")
async def purges_nothing(self: Any, queue: str, ids: list[str]) -> int:
    return len(ids)


@broker("purge_of_an_unknown_id_deletes_nothing", "purge")
async def purges_one_by_one(self: Any, queue: str, ids: list[str]) -> int:
    return await one_by_one(super(type(self), self).purge, queue, ids)


async def added(self: Any, queue: str, letters: Sequence[DeadLetter], **instead: Any) -> Sequence[str]:
    changed = [replace(letter, **instead) for letter in letters]
    return await super(type(self), self).add_dead_letters(queue, changed)  # type: ignore[no-any-return]


@broker("dead_letters_can_be_brought_from_elsewhere", "add_dead_letters")
async def has_them_die_now(self: Any, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
    return await added(self, queue, letters, died_at=datetime.now(UTC))


@broker("dead_letters_can_be_brought_from_elsewhere", "add_dead_letters")
async def counts_one_attempt_for_all(self: Any, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
    return await added(self, queue, letters, attempts=1)


@broker("dead_letters_can_be_brought_from_elsewhere", "add_dead_letters")
async def leaves_their_logs_behind(self: Any, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
    return await added(self, queue, letters, log_tail=())


@broker("dead_letters_can_be_brought_from_elsewhere", "add_dead_letters")
async def adds_them_before_the_others(self: Any, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
    numbers, self._numbers = self._numbers, iter(range(-100, 0))
    ids = await added(self, queue, letters)
    self._numbers = numbers
    return ids


@broker("dead_letters_can_be_brought_from_elsewhere", "add_dead_letters")
async def keeps_the_ids_that_they_had(self: Any, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
    await added(self, queue, letters)
    return [letter.id for letter in letters]


@broker("nothing_is_added_to_an_undeclared_queue", "add_dead_letters")
async def makes_the_queue(self: Any, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
    self._queues.setdefault(queue, MemoryQueue())
    return await added(self, queue, letters)


@broker("a_queue_knows_its_own_dead_letters_only", "_remove_dead")
def has_one_graveyard(self: Any, queue: str, ids: list[str]) -> list[Any]:
    for found in self._queues.values():
        if set(ids) <= found.dead.keys():
            return [found.dead.pop(id) for id in ids]
    raise DeadLetterNotFound(", ".join(ids))
