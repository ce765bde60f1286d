"""The register: which queues there are, kept in RabbitMQ, which tells no client without its management plugin.

A durable queue, ``<prefix>.queues``, holds records of what was declared: a module's queue, topics and delays. What all
records of a queue say together holds; it may name a topic or a delay too many, never one too few:

- it is written, and confirmed, before the queue is made or bound, and taken out after that is gone;
- a new record stands there before the ones it replaces are acked, so a crash leaves one too many.

Reading is taking every record and giving it back. Meanwhile another reader would find less than there is: who reads
holds a lock, an exclusive queue, which ends with the connection. Writing needs no lock, so one that somebody holds for
ever keeps nobody from declaring.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity

from ion_core.errors import TransientError
from ion_rabbitmq import envelope
from ion_rabbitmq.closed_frames import Kept
from ion_rabbitmq.counting import Send, times_counted
from ion_rabbitmq.link import Link, NotPermitted
from ion_rabbitmq.locks import locked
from ion_rabbitmq.settings import RabbitSettings
from ion_rabbitmq.topology import Topology

log = logging.getLogger(__name__)

LOOKED_EVERY = 0.02
"""Seconds until it is looked again whether what was taken is back."""
KNOWN_FOR = 10.0
"""Seconds for which what was read is taken for what it says."""
WITHOUT_LOCK_AFTER = 2.0
"""Seconds that who declares waits for another reader, before it writes without having read."""


@dataclass(frozen=True)
class Entry:
    """What the register says of one queue. ``rungs`` are the delays it has waiting queues for, in milliseconds."""

    topics: frozenset[str] = frozenset()
    rungs: frozenset[int] = frozenset()

    def __or__(self, other: Entry) -> Entry:
        return Entry(self.topics | other.topics, self.rungs | other.rungs)


@dataclass
class _Taken:
    """The records as they were taken, by queue, until they are given back."""

    records: dict[str, list[AbstractIncomingMessage]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)

    def add(self, message: AbstractIncomingMessage) -> None:
        read = _read(message.body)
        if read is None:
            log.warning(
                "the register of queues holds what is no record of ours", extra={"id": envelope.letter_id(message)}
            )
            return
        name, entry = read
        self.records.setdefault(name, []).append(message)
        self.entries[name] = self.entries.get(name, Entry()) | entry


class Register:
    """``send`` publishes, ``link`` is what it reads by. Safe for tasks of one event loop, and for any processes."""

    def __init__(self, settings: RabbitSettings, topology: Topology, link: Link, send: Send) -> None:
        self._settings = settings
        self._topology = topology
        self._link = link
        self._send = send
        self._timeout = settings.timeout.total_seconds()
        self._reading = asyncio.Lock()
        self._known: dict[str, Entry] | None = None
        self._known_until = 0.0

    async def read(self) -> Mapping[str, Entry]:
        """Every queue there is. Raises TransientError where another reader does not end."""
        async with self._taking(self._timeout) as taken:
            return taken.entries

    def forget(self) -> None:
        """What was read is out of date."""
        self._known = None

    async def before_declaring(self, name: str, entry: Entry) -> Entry:
        """Have it say ``entry`` of that queue, at least; returns what it says then.

        Nothing is written where it said so already, and nothing read where it was read a moment ago.
        """
        if self._known is None or asyncio.get_running_loop().time() > self._known_until:
            try:
                async with self._taking(WITHOUT_LOCK_AFTER) as taken:
                    self._known = taken.entries
                    self._known_until = asyncio.get_running_loop().time() + KNOWN_FOR
            except (TransientError, NotPermitted) as error:
                log.warning("the register of queues is written unread: %s", error)
                await self.add(name, entry)
                return entry
        known = self._known.get(name)
        if known is None or entry | known != known:
            await self.add(name, entry)
        together = self._known[name] = entry | (known or Entry())
        return together

    async def add(self, name: str, entry: Entry) -> None:
        """Have it say that too."""
        await self._declare()
        await self._send(_record(name, entry), self._topology.register)

    async def replace(self, name: str, entry: Entry | None) -> None:
        """Have it say exactly that of the queue; with None, that there is none."""
        async with self._taking(self._timeout) as taken:
            if entry is not None:
                await self._send(_record(name, entry), self._topology.register)
            await _forget(taken.records.get(name, []))
        if self._known is not None:
            self._known.pop(name, None)
            if entry is not None:
                self._known[name] = entry

    async def _declare(self) -> None:
        """Make it exist. It may be of another type than the queues of modules are now."""
        try:
            async with self._link.borrowed() as channel, asyncio.timeout(self._timeout):
                await self._ready(channel)
        except ChannelNotFoundEntity:
            arguments = self._topology.dead_arguments()
            async with self._link.borrowed() as channel, asyncio.timeout(self._timeout):
                await channel.declare_queue(self._topology.register, durable=True, arguments=arguments)

    async def _ready(self, channel: AbstractChannel) -> int:
        """How many records are there to be taken."""
        queue = await channel.declare_queue(self._topology.register, passive=True)
        return queue.declaration_result.message_count or 0

    @asynccontextmanager
    async def _taking(self, within: float) -> AsyncIterator[_Taken]:
        """Every record, held until the block is left, while nobody else reads."""
        async with self._reading, self._locked(within), self._link.borrowed() as channel:
            taken = _Taken()
            await self._declare()
            try:
                async with asyncio.timeout(self._timeout):
                    queue = await channel.get_queue(self._topology.register, ensure=False)
                    while (message := await queue.get(no_ack=False, fail=False)) is not None:
                        taken.add(message)
                yield taken
                await self._keep_small(taken)
            finally:
                async with asyncio.timeout(self._timeout):
                    await self._give_back(channel, taken)

    async def _keep_small(self, taken: _Taken) -> None:
        """Several records of a queue become one, and one that RabbitMQ has counted a new one, where it can."""
        try:
            for name, messages in taken.records.items():
                if len(messages) > 1 or any(map(times_counted, messages)):
                    await self._send(_record(name, taken.entries[name]), self._topology.register)
                    await _forget(messages)
        except TransientError as error:
            log.warning("RabbitMQ counts that the register of queues was read: %s", error)

    async def _give_back(self, channel: AbstractChannel, taken: _Taken) -> None:
        """Returns once they are back: only then may the next one read."""
        held = [message for messages in taken.records.values() for message in messages]
        for message in held:
            await message.nack(requeue=True)
        while await self._ready(channel) < len(held):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(LOOKED_EVERY)

    @asynccontextmanager
    async def _locked(self, within: float) -> AsyncIterator[None]:
        """While nobody else has it; waits for so many seconds."""
        async with locked(self._link, self._topology.lock, within=within, timeout=self._timeout) as ours:
            if not ours:
                text = f"another process reads {self._topology.register}, and has not ended within {within:g} s"
                raise TransientError(f"{self._settings.place()}: {text}")
            yield


async def _forget(messages: list[AbstractIncomingMessage]) -> None:
    """They are in the register no more."""
    while messages:
        await messages[-1].ack()
        messages.pop()


def _record(name: str, entry: Entry) -> Kept:
    body = {"queue": name, "topics": sorted(entry.topics), "rungs": sorted(entry.rungs)}
    return envelope.record(json.dumps(body, ensure_ascii=False).encode(), uuid.uuid4().hex)


def _read(body: bytes) -> tuple[str, Entry] | None:
    """What a record says; None for what is none."""
    try:
        found = json.loads(body)
        topics, rungs = frozenset(map(str, found["topics"])), frozenset(map(int, found["rungs"]))
        return str(found["queue"]), Entry(topics, rungs)
    except (ValueError, LookupError, TypeError):
        return None
