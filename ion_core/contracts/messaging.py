"""The messaging contract: topics, one queue per module, deliveries held until settled, dead letters.

Every rule is a sentence in ``docs/contracts/messaging.md`` and a test of ``ion_core.testing.messaging``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

MESSAGE_HEADER = "ion-message"
"""The header by which Ion tells messages of one event apart: unlike that of any other call of ``publish``."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often, and how long apart, a failed job is tried again: ``initial * factor**n``, at most ``maximum``.

    ``retries`` is the number of tries after the first. ``jitter`` spreads each delay by up to that share of it, so
    that jobs that failed together do not come back together.
    """

    retries: int = 3
    initial: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    maximum: timedelta = timedelta(minutes=10)
    jitter: float = 0.2

    def delay(self, attempt: int, spread: float) -> timedelta:
        """Delay after failed attempt number ``attempt`` (from 1); ``spread`` is random in [-1, 1]."""
        seconds = self.initial.total_seconds() * self.factor ** min(attempt - 1, 64)
        return timedelta(seconds=min(seconds, self.maximum.total_seconds()) * (1 + self.jitter * spread))

    def delays(self) -> Sequence[timedelta]:
        """The nominal delays, one for each retry: what a broker with fixed-delay queues declares ahead."""
        return [self.delay(n, 0.0) for n in range(1, self.retries + 1)]


@dataclass(frozen=True, kw_only=True)
class QueueStats:
    """Counts of one queue, taken at one moment where the broker can.

    ``ready`` waiting to be delivered · ``delayed`` waiting for a retry's delay · ``unsettled`` delivered and held by
    some subscriber, whichever process that is in, and None where that cannot be known · ``dead`` dead letters kept.
    """

    ready: int
    delayed: int
    unsettled: int | None
    dead: int

    @property
    def pending(self) -> int:
        """What is still to be settled, as far as it is known: what others hold may come on top (``unsettled``)."""
        return self.ready + self.delayed + (self.unsettled or 0)


@dataclass(frozen=True, kw_only=True)
class DeclaredQueue:
    """A queue that exists, whoever declared it, and the topics that it goes on receiving."""

    name: str
    topics: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message as it lies in a queue, looked at without taking it. ``attempt`` as in Delivery."""

    body: bytes
    headers: Mapping[str, str]
    attempt: int


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message kept aside. ``attempts`` is how many were made; ``log_tail`` the last lines of the last one's log.

    ``died_at`` is when ``dead_letter`` was called, in UTC and aware of it, the same whenever it is asked for.
    """

    id: str
    queue: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str
    attempts: int
    log_tail: Sequence[str] = ()
    died_at: datetime


@dataclass(frozen=True, kw_only=True)
class HoldLimit:
    """A broker takes a delivery back that is held for longer than ``longest``, whatever its holder does.

    ``remedy`` is given how long one has to be held and returns a sentence for the broker's operator: what to set, and
    where, so that it may be. The broker is not asked for it.
    """

    longest: timedelta
    remedy: Callable[[timedelta], str]


class Delivery(Protocol):
    """One message, held until exactly one of ``ack``, ``retry``, ``release``, ``postpone``, ``dead_letter`` settles it.

    Delivery is at least once. A second verb raises AlreadySettled; any verb after ``lost`` is set raises DeliveryLost.
    Cancelling who holds it settles nothing. A verb that is cancelled has settled as it was asked, or not at all: the
    next one says which. A verb that raised TransientError did not settle: it may be called again. One that raises
    anything else did neither, and calling it again does not help: the message comes back by itself.
    """

    @property
    def body(self) -> bytes:
        """Raises PermanentError, with the reason, where what others published cannot be read; it is settled as any."""

    @property
    def headers(self) -> Mapping[str, str]:
        """As given to ``publish``, unchanged by retries, releases and redrives."""

    @property
    def attempt(self) -> int:
        """1 + the number of earlier ``retry`` calls; carried with the message, never the broker's own counter."""

    @property
    def lease(self) -> timedelta | None:
        """How long it is ours without ``renew``; None where holding it needs no renewal."""

    @property
    def lost(self) -> asyncio.Event:
        """Set when the broker has taken it back; somebody, perhaps we, will be given it again.

        It is set by the time that the context of its subscription has been left, whatever state the backend is in, and
        by the time that a verb has raised DeliveryLost. Otherwise within seconds of the broker's taking it back, though
        no verb is called.
        """

    async def ack(self) -> None:
        """Done: it never comes back."""

    async def retry(self, *, delay: timedelta) -> None:
        """Failed: it comes back, no earlier than ``delay``, with ``attempt`` one higher. Survives a crash.

        It stands behind every message that was there when it was retried.
        """

    async def release(self) -> None:
        """Not the job's fault (shutdown, no capacity): it comes back at once, in its old place, uncounted."""

    async def postpone(self, *, delay: timedelta) -> None:
        """Not now (what it needs is not to be had): as ``retry``, but ``attempt`` is unchanged. Survives a crash."""

    async def dead_letter(self, reason: str, *, log_tail: Sequence[str] = ()) -> None:
        """Kept aside with body, headers, reason, attempts and log tail until redriven or purged. Survives a crash."""

    async def renew(self) -> None:
        """Hold it for another ``lease``; a no-op where leases do not exist. Raises DeliveryLost if it is gone."""


class MessageBroker(Protocol):
    """Carries messages from topics to queues. Safe for concurrent use by the tasks of one event loop.

    Every method may raise TransientError when the broker does not answer in time, which is half a minute at most;
    nothing else of the backend's own exceptions leaves it. Queue names, topics, header names and values are text of at
    most 255 bytes.
    """

    @property
    def max_hold(self) -> HoldLimit | None:
        """How long one delivery may be held, renewed or not; None where renewing holds it for ever.

        Known once the broker is open, and the same as long as it is. What can be told without connecting, a provider's
        settings may say in a method of this name: ``def max_hold(self) -> HoldLimit | None``.
        """

    @property
    def letters_unseen_for(self) -> timedelta:
        """How long after a settlement that failed its dead letter may still turn up, or be hidden by another process.

        Zero where ``dead_letters`` shows to everybody what is there, and what is not there by then never comes. Ten
        minutes at most. A redelivered message that was to be a dead letter waits so long before it runs again.
        """

    async def declare(self, queue: str, *, topics: Sequence[str], retry: RetryPolicy) -> None:
        """Make ``queue`` exist and receive what is published to any of ``topics`` from now on.

        Idempotent. Called again with other topics it binds to the new ones, and lets go of those no longer named,
        whoever bound it to them, where the broker can tell which they are; without any it goes on holding what it has,
        and receives nothing. Raises ConfigError if the queue exists in a form it cannot use.
        """

    async def queues(self) -> Sequence[DeclaredQueue]:
        """Every queue that was declared and not dropped since, by name: also those of other processes, now ended.

        Where the broker cannot tell of queues that an older version of its provider declared, its page says so.
        """

    async def move(self, queue: str, to: str) -> int:
        """Put what is ready, delayed or dead in ``queue`` into ``to``, another queue; returns how much that was.

        Each with body, headers and attempt, dead letters with all they keep; a delay may start anew and is never cut.
        Each moves whole or not at all; after an error the rest is still in ``queue``: move again. A crash may leave one
        in both. What somebody holds stays where it is, and both keep their topics. Raises QueueNotDeclared for either,
        and then nothing has moved.
        """

    async def drop(self, queue: str) -> None:
        """Delete ``queue`` for good: what waits in it, its dead letters, its topics. Idempotent; other queues stay.

        What somebody holds of it is lost to them and does not come back. Iterating over its deliveries raises
        TransientError: whoever serves it declares it anew, empty.
        """

    async def publish(self, topic: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        """Put a copy into every queue bound to ``topic``; returns only once the broker has them all durably.

        All copies or none. Raises Unroutable when no queue is bound, and MessageRefused for what the broker will never
        take, such as what is larger than its limit. After TransientError the message may or may not be stored: publish
        again. Where the provider then waits for the answer to what it has sent already, it goes by everything but
        ``MESSAGE_HEADER``; what it sends anew has the headers given last.
        """

    def subscribe(self, queue: str, *, prefetch: int) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Be given deliveries of ``queue``, at most ``prefetch`` unsettled at a time, ready ones oldest first.

        Any number of subscribers, in any number of processes, share a queue: each message goes to one of them.
        Messages held by a subscriber that died come back. Leaving the context releases whatever is unsettled, which is
        lost to us by then: ``lost`` is set, and verbs raise DeliveryLost. That holds where the backend is away, too;
        the messages come back when it does. Leaving raises nothing of its own.
        Raises QueueNotDeclared on entry. One task iterates; verbs may be called from any task.

        The iteration has no end. It raises TransientError while the backend is away and QueueNotDeclared when the queue
        was deleted meanwhile: then the caller may iterate on, or leave, declare and subscribe anew. StateError and
        ConfigError it raises for what no waiting mends.
        """

    async def stats(self, queue: str) -> QueueStats:
        """Counts of ``queue``. Raises QueueNotDeclared.

        What a subscriber of this broker was given, and has not been handed out to whoever iterates, counts as ready.
        """

    async def peek(self, queue: str, *, limit: int) -> Sequence[Message]:
        """Up to ``limit`` ready messages, oldest first, without taking them or counting anything."""

    def each_message(self, queue: str) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Every ready message, as ``peek`` shows it, oldest first, one after the other.

        However many there are, no more than some are held in memory. What is ready on entry, and stays so, is given
        once; what becomes ready meanwhile, or is taken, may be given or not. A broker may have to hold what it has
        given until the context is left, whether or not all was read: call nothing else about this queue until then.
        Raises QueueNotDeclared on entry.
        """

    async def dead_letters(self, queue: str, *, limit: int | None = None) -> Sequence[DeadLetter]:
        """Dead letters of ``queue``, oldest first: in the order in which they were kept aside here.

        Ids are stable until redriven or purged. Of many ``each_dead_letter`` holds some only.
        """

    def each_dead_letter(self, queue: str) -> AbstractAsyncContextManager[AsyncIterator[DeadLetter]]:
        """As ``dead_letters``, one after the other, under the terms of ``each_message``."""

    async def dead_letter(self, queue: str, id: str) -> DeadLetter:
        """The one of that id, without what stands behind it. Raises DeadLetterNotFound, and QueueNotDeclared."""

    async def add_dead_letters(self, queue: str, letters: Sequence[DeadLetter]) -> Sequence[str]:
        """Keep these aside in ``queue``, as if each had died there when it did; returns their ids, which are new.

        Each with body, headers, reason, attempts, log tail and time of death; what their ``queue`` and ``id`` say is of
        no matter. Each is durable, whole or not at all; after an error some of them may be there, the first ones. They
        stand behind those that are there. Raises QueueNotDeclared, and MessageRefused as ``publish``.
        """

    async def redrive(self, queue: str, ids: Sequence[str]) -> int:
        """Put these dead letters back into ``queue``, attempts starting again at 1. Each moves whole or not at all.

        They stand behind what is there. Returns how many moved; an id that is named twice is one. Raises
        DeadLetterNotFound, naming them, if any is not there; then none has moved.
        """

    async def purge(self, queue: str, ids: Sequence[str]) -> int:
        """Delete these dead letters for good. Returns and raises as ``redrive``."""
