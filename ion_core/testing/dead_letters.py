"""The messaging kit's rules for dead letters."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ion_core.contracts.messaging import DeadLetter, MessageBroker
from ion_core.errors import DeadLetterNotFound, QueueNotDeclared
from ion_core.testing.cuts import CUTS, Cutting
from ion_core.testing.kit import only, refused
from ion_core.testing.subscriber import BODY, HEADERS, MANY, BrokerKit

UNSEEN_AT_MOST = timedelta(minutes=10)
CLOCKS = timedelta(milliseconds=50)
"""How far a backend's clock may be from ours, here."""

LINES = [f"{n}: {'what it said ' * 30}" for n in range(20)]
"""As many as Ion keeps of a log."""


def letters(*bodies: str) -> list[DeadLetter]:
    """What died elsewhere, of their bodies."""
    now = datetime.now(UTC)
    return [
        DeadLetter(id="", queue="", body=it.encode(), headers=HEADERS, reason="died", attempts=1, died_at=now)
        for it in bodies
    ]


class DeadLetterRules(BrokerKit):
    """Keeping, listing, redriving and purging."""

    async def test_a_dead_letter_keeps_everything(self, broker: MessageBroker) -> None:
        before = datetime.now(UTC) - timedelta(seconds=2)
        reason, tail = f"exit code 1: …\nnaïve 🙂{' and so on' * 200}", ("first line", *LINES, "", "last line: \t ü")
        async with self.holding(broker) as held:
            await held.delivery.retry(delay=timedelta(0))
            await (await held.subscriber.take()).dead_letter(reason, log_tail=tail)
            letter = only(await broker.dead_letters(held.queue))
        assert (letter.queue, letter.body, dict(letter.headers)) == (held.queue, BODY, HEADERS)
        assert (letter.reason, letter.attempts, tuple(letter.log_tail)) == (reason, 2, tail)
        assert before <= letter.died_at <= datetime.now(UTC) + timedelta(seconds=2)

    async def test_it_died_when_it_was_made_a_dead_letter(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            before = datetime.now(UTC)
            await held.delivery.dead_letter("of age")
            after = datetime.now(UTC)
            first = only(await broker.dead_letters(held.queue))
            await self.a_while()
            again = only(await broker.dead_letters(held.queue))
        assert first.died_at.utcoffset() == timedelta(0), f"{first.died_at!r} is not in UTC"
        assert before - CLOCKS <= first.died_at <= after + CLOCKS
        assert again.died_at == first.died_at, "it has died once"

    async def test_a_dead_letter_is_not_delivered(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"dead") as held:
            await held.subscriber.nothing_comes()
        async with self.subscribed(broker, held.queue) as subscriber:
            await subscriber.nothing_comes()
        await self.counts(broker, held.queue, dead=1)

    async def test_dead_letters_are_listed_oldest_first(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"1", b"2", b"3") as held:
            assert [letter.body for letter in await broker.dead_letters(held.queue)] == [b"1", b"2", b"3"]
            assert [letter.body for letter in await broker.dead_letters(held.queue, limit=2)] == [b"1", b"2"]

    async def test_each_dead_letter_is_what_is_listed_of_any_number(self, broker: MessageBroker) -> None:
        queue = await self.declared(broker, self.fresh("topic"))
        letter = DeadLetter(
            id="", queue="", body=BODY, headers=HEADERS, reason="", attempts=2, died_at=datetime.now(UTC)
        )
        some = [replace(letter, reason=f"of {n}", log_tail=[f"line {n}"]) for n in range(MANY)]
        ids = await self.within(broker.add_dead_letters(queue, some), "adding dead letters")
        expected = list(await broker.dead_letters(queue))
        assert [it.id for it in expected] == list(ids)
        async with broker.each_dead_letter(queue) as letters:
            async for first in letters:
                assert first == expected[0]
                break
        for _ in range(2):
            assert await self.read(broker.each_dead_letter(queue)) == expected, "oldest first, each once"
        await self.counts(broker, queue, dead=MANY)

    async def test_one_dead_letter_is_had_by_its_id(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"1", b"2", b"3") as held, self.dead(broker, b"other") as other:
            letters = await broker.dead_letters(held.queue)
            for letter in (letters[2], letters[0]):
                assert await broker.dead_letter(held.queue, letter.id) == letter
            for id in ("no-such-id", only(await broker.dead_letters(other.queue)).id):
                with refused(DeadLetterNotFound, naming=id):
                    await broker.dead_letter(held.queue, id)
            assert await broker.dead_letters(held.queue) == letters
            await self.counts(broker, held.queue, dead=3)

    async def test_as_many_dead_letters_are_listed_as_there_are(self, broker: MessageBroker) -> None:
        queue = await self.declared(broker)
        many = letters(*(str(n) for n in range(MANY)))
        await self.within(broker.add_dead_letters(queue, many), f"adding {MANY} dead letters")
        found = await self.within(broker.dead_letters(queue), f"{MANY} dead letters")
        assert [letter.body for letter in found] == [letter.body for letter in many]

    async def test_dead_letters_are_unseen_no_longer_than_said(self, broker: MessageBroker) -> None:
        said = broker.letters_unseen_for
        assert timedelta(0) <= said <= UNSEEN_AT_MOST, f"they may be unseen for {said}"
        async with self.dead(broker, b"1", b"2") as held:
            seen = await asyncio.gather(*(broker.dead_letters(held.queue) for _ in range(3)))
        if not said:
            assert [len(letters) for letters in seen] == [2, 2, 2], "who looks at the same time sees all of them"

    async def test_ids_of_dead_letters_stay(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"1", b"2", b"3") as held:
            before = {letter.id: letter.body for letter in await broker.dead_letters(held.queue)}
            assert len(before) == 3
            await broker.purge(held.queue, [next(iter(before))])
            after = {letter.id: letter.body for letter in await broker.dead_letters(held.queue)}
            assert after == dict(list(before.items())[1:])

    async def test_redrive_starts_attempts_again(self, broker: MessageBroker) -> None:
        async with self.holding(broker) as held:
            await held.delivery.retry(delay=timedelta(0))
            await (await held.subscriber.take()).dead_letter("first death")
            letter = only(await broker.dead_letters(held.queue))
            assert await broker.redrive(held.queue, [letter.id]) == 1
            again = await held.subscriber.take()
            assert (again.attempt, again.body, dict(again.headers)) == (1, BODY, HEADERS)
            assert await broker.dead_letters(held.queue) == []
            await again.dead_letter("second death")
            letter = only(await broker.dead_letters(held.queue))
            assert (letter.attempts, letter.reason) == (1, "second death")

    async def test_redrive_moves_what_is_named_to_its_queue_only(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"1", b"2", b"3") as held:
            neighbour = await self.declared(broker, held.topic)
            ids = [letter.id for letter in await broker.dead_letters(held.queue)]
            assert await broker.redrive(held.queue, [ids[0], ids[2]]) == 2
            assert {d.body for d in await held.subscriber.take_all(2)} == {b"1", b"3"}
            await self.counts(broker, held.queue, unsettled=2, dead=1)
            await self.counts(broker, neighbour)

    async def test_what_is_redriven_stands_behind_the_others(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"dead") as held:
            letter = only(await broker.dead_letters(held.queue))
        await self.publish(broker, held.topic, b"1", b"2")
        await broker.redrive(held.queue, [letter.id])
        await self.publish(broker, held.topic, b"3")
        assert [message.body for message in await broker.peek(held.queue, limit=9)] == [b"1", b"2", b"dead", b"3"]

    async def test_an_id_that_is_repeated_is_one(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"1", b"2", b"3") as held:
            one, two, three = [letter.id for letter in await broker.dead_letters(held.queue)]
            assert await broker.redrive(held.queue, [one, two, one]) == 2
            assert {d.body for d in await held.subscriber.take_all(2)} == {b"1", b"2"}
            assert await broker.purge(held.queue, [three, three]) == 1
            await held.subscriber.nothing_comes()
            await self.counts(broker, held.queue, unsettled=2)

    async def test_a_redrive_cut_short_loses_nothing(self, broker: MessageBroker) -> None:
        queue = await self.declared(broker, self.fresh("topic"))

        async def redrive(number: int) -> int:
            return await broker.redrive(queue, ids[number])

        ids = {n: await broker.add_dead_letters(queue, letters(f"{n} a", f"{n} b")) for n in range(len(CUTS) + 1)}
        cutting = Cutting(self, "redrive")
        await cutting.whole(redrive(len(CUTS)))
        for n, cut in enumerate(CUTS):
            await cutting.short(redrive(n), cut)
        await self.kept(broker, [queue], {f"{n} {which}" for n in ids for which in "ab"})

    async def test_redrive_of_an_unknown_id_moves_nothing(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"1") as held:
            letter = only(await broker.dead_letters(held.queue))
            with refused(DeadLetterNotFound, naming="no-such-id"):
                await broker.redrive(held.queue, [letter.id, "no-such-id"])
            await held.subscriber.nothing_comes()
            assert [kept.id for kept in await broker.dead_letters(held.queue)] == [letter.id]

    async def test_purge_deletes_what_is_named(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"1", b"2", b"3") as held:
            ids = [letter.id for letter in await broker.dead_letters(held.queue)]
            assert await broker.purge(held.queue, [ids[0], ids[2]]) == 2
            await held.subscriber.nothing_comes()
            assert [letter.id for letter in await broker.dead_letters(held.queue)] == [ids[1]]
            await self.counts(broker, held.queue, dead=1)

    async def test_purge_of_an_unknown_id_deletes_nothing(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"1") as held:
            letter = only(await broker.dead_letters(held.queue))
            with refused(DeadLetterNotFound, naming="no-such-id"):
                await broker.purge(held.queue, [letter.id, "no-such-id"])
            assert [kept.id for kept in await broker.dead_letters(held.queue)] == [letter.id]

    async def test_dead_letters_can_be_brought_from_elsewhere(self, broker: MessageBroker) -> None:
        died_at = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
        brought = [
            DeadLetter(
                id="of another broker",
                queue="of another broker",
                body=body,
                headers={**HEADERS, "n": str(n)},
                reason=f"exit code {n}: naïve 🙂",
                attempts=n + 1,
                log_tail=("first line", "", "last line: \t ü"),
                died_at=died_at + timedelta(seconds=n),
            )
            for n, body in enumerate([BODY, b"\x00\xff is no event"])
        ]
        async with self.dead(broker, b"was here") as held:
            ids = list(await broker.add_dead_letters(held.queue, brought))
            there = await broker.dead_letters(held.queue)
            assert [letter.id for letter in there[1:]] == ids, "their new ids, behind those that are there"
            kept = [replace(it, headers=dict(it.headers), log_tail=tuple(it.log_tail)) for it in there[1:]]
            assert kept == [replace(it, id=id, queue=held.queue) for it, id in zip(brought, ids, strict=True)]
            assert await broker.redrive(held.queue, ids[:1]) == 1
            again = await held.subscriber.take()
            assert (again.attempt, again.body, dict(again.headers)) == (1, BODY, {**HEADERS, "n": "0"})
            await again.ack()
            assert await broker.purge(held.queue, ids[1:]) == 1
        await self.counts(broker, held.queue, dead=1)

    async def test_nothing_is_added_to_an_undeclared_queue(self, broker: MessageBroker) -> None:
        with refused(QueueNotDeclared, naming="never-declared"):
            letter = DeadLetter(id="", queue="", body=b"1", reason="r", attempts=1, died_at=datetime.now(UTC))
            await broker.add_dead_letters("never-declared", [letter])

    async def test_a_queue_knows_its_own_dead_letters_only(self, broker: MessageBroker) -> None:
        async with self.dead(broker, b"here") as here, self.dead(broker, b"there") as there:
            mine = only(await broker.dead_letters(here.queue))
            theirs = only(await broker.dead_letters(there.queue))
            assert (mine.body, theirs.body) == (b"here", b"there")
            if mine.id != theirs.id:  # ids need be unique in their queue only
                for call in (broker.redrive, broker.purge):
                    with refused(DeadLetterNotFound):
                        await call(here.queue, [theirs.id])
            await self.counts(broker, there.queue, dead=1)
