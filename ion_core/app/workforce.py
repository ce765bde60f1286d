"""Workers: several processes that run the jobs of one ``serve``, kept by this one, which does what is done once."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ion_core import ending, live
from ion_core.app.changes import Changes
from ion_core.contracts.looking import Change, OutboxView, SlotsView
from ion_core.contracts.messaging import RetryPolicy
from ion_core.dispatcher import Dispatcher
from ion_core.dispatcher.health import Red
from ion_core.dispatcher.running import RunningAttempts
from ion_core.errors import ConfigError, IonError, StillPending, TransientError, WorkerEnded
from ion_core.events import Event, parse_context
from ion_core.forking import Forked, ForkServer
from ion_core.jobs import Attempt, Job, Verdict

log = logging.getLogger(__name__)

SILENT_FOR = 30
"""Seconds without a sign of life after which a worker is killed: whatever leases and connections it has are over then,
or are about to be. They are counted one by one, so that those in which we were stopped ourselves are none."""
SILENT_AT_THE_END = 5
"""The same of one whose time to drain is up: it has nothing to do any more that it would not interrupt for this."""

RESTARTS = RetryPolicy(initial=timedelta(milliseconds=100), maximum=timedelta(minutes=1))
"""How long a worker that ended stays away, by how often it did; one that worked for ``maximum`` starts afresh."""

TRIES = 5
"""How often in a row a worker may end before it is ready, before that is taken for good."""

ANSWERS_WITHIN = 30.0
LONGEST = 1 << 26
"""Bytes of what a worker tells at once, such as a line of its log."""


@dataclass(eq=False)
class _Life:
    """A worker from its start to its end."""

    number: int
    process: Forked
    writer: asyncio.StreamWriter
    hearing: asyncio.Task[None] = field(init=False)
    beat: Mapping[str, Any] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failed: Mapping[str, Any] | None = None
    silent: int = 0
    silent_for: int = SILENT_FOR
    killed_as_silent: bool = False
    attempts: dict[str, ExitStack] = field(default_factory=dict)

    def tell(self, **order: Any) -> None:
        """What it is to do. Nothing where it is gone, which is noticed otherwise."""
        if not self.writer.is_closing():
            self.writer.write(json.dumps(order).encode() + b"\n")


@dataclass(frozen=True)
class _ThereAttempt:
    """An attempt that runs in a worker, as who follows it here sees it."""

    state: Path
    worker: int
    attempt: Attempt

    async def follow(self) -> AsyncIterator[str]:
        event_id, whose = self.attempt.job.event.context.event_id, (self.attempt.job.module, self.attempt.number)
        lines, heard = live.watch(self.state, event_id, wait=False, name=live.name_of(self.worker)), False
        async for line in lines:
            heard = True
            if (line.get("module"), line.get("attempt")) == whose:
                yield line["text"]
        if not heard:
            raise ConnectionAbortedError(f"worker {self.worker} has died")


class Workforce:
    """Looks like a dispatcher to whoever uses one. ``ours`` is one here, for what is done once.

    ``say`` prints what a worker has logged; ``drain_timeout`` is how long one may go on after ``stop``.

    Enter it, ``recover``, and ``run``; on leaving no worker is left.
    """

    def __init__(
        self,
        ours: Dispatcher,
        server: ForkServer,
        count: int,
        *,
        state: Path,
        drain_timeout: timedelta,
        changes: Changes,
        say: Callable[[str], None],
    ) -> None:
        self.health = ours.health
        self.attempts = RunningAttempts()
        self._ours = ours
        self._server = server
        self._count = count
        self._state = state
        self._drain = drain_timeout.total_seconds()
        self._changes = changes
        self._say = say
        self._lives: dict[int, _Life] = {}
        self._lived: Counter[int] = Counter()
        """How often each was started."""
        self._counted: Counter[str] = Counter()
        """Attempts that ended how, in lives that are over."""
        self._slots_counted: dict[str, Counter[str]] = {}
        self._asked = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._failure: IonError | None = None
        self._watching: asyncio.Task[None] | None = None
        self._reds: Sequence[Red] = ()
        """What workers have told of, kept for other threads."""
        self._listened = False

    async def __aenter__(self) -> Workforce:
        self.health.others = lambda: self._reds
        self._changes.heard = self._listen
        self._watching = asyncio.create_task(self._watch(), name="workers' signs of life")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._changes.heard = None
        if self._watching is not None:
            self._watching.cancel()
        for life in list(self._lives.values()):
            life.process.kill()
            await self._over(life)

    # What a dispatcher has

    @property
    def running(self) -> int:
        """How many deliveries are being handled."""
        return sum(int(life.beat.get("running", 0)) for life in self._lives.values())

    def slots(self) -> Sequence[SlotsView]:
        """Of all workers together, a view for each module."""
        return [self._slots_of(whole) for whole in self._ours.slots()]

    def _slots_of(self, whole: SlotsView) -> SlotsView:
        found = Counter(self._slots_counted.get(whole.module, {}))
        for life in self._lives.values():
            for view in life.beat.get("slots", ()):
                if view["module"] == whole.module:
                    found.update({name: view[name] for name in ("ready", "found", "reused", "made")})
        return replace(whole, ready=found["ready"], found=found["found"], reused=found["reused"], made=found["made"])

    def outbox(self) -> OutboxView:
        """What commits owe, as it was seen last."""
        return self._ours.outbox()

    def counts(self) -> Mapping[Verdict, int]:
        """How many attempts ended how, since the start, in workers that are gone too."""
        found = Counter(self._counted)
        for life in self._lives.values():
            found.update(life.beat.get("counts", {}))
        return {verdict: found[verdict.value] for verdict in Verdict}

    async def waiting(self) -> int:
        """How many messages wait in the queues of our modules, retries that wait for their delay included."""
        return await self._ours.waiting()

    async def idle(self) -> bool:
        """Whether nothing is pending anywhere, as of a dispatcher.

        No worker has taken anything while the queues were looked at, so that nothing has gone from one that was yet to
        be looked at to one that had been.
        """
        before = await self._at_rest(lost=False)
        if before is None or not await self._ours.idle():
            return False
        return await self._at_rest(lost=True) == before

    async def recover(self, also: Sequence[Path] = ()) -> None:
        """As of a dispatcher; then all workers are started, which take nothing before ``run``.

        Raises what keeps one from being ready.
        """
        await self._ours.recover(also)
        starting = [asyncio.create_task(self._start(number)) for number in range(1, self._count + 1)]
        try:
            for started in starting:
                if (failure := await started) is not None:
                    raise failure
        finally:
            for started in starting:
                started.cancel()
            await asyncio.wait(starting)

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """As of a dispatcher. A worker that ends is replaced; one that cannot be sets ``stop``, and raises in the end.

        Raises TransientError, or what kept that worker from being ready.
        """
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ours.run(over, hurry), name="upkeep")
            async with asyncio.TaskGroup() as keeping:
                for number in range(1, self._count + 1):
                    keeping.create_task(self._keep(number, stop, hurry), name=f"worker {number}")
            over.set()
        if self._failure is not None:
            raise self._failure

    # A worker's life

    async def _start(self, number: int) -> IonError | None:
        """Have a worker of that number which is ready; else why there is none."""
        try:
            process = await self._server.fork(number, self._lived[number])
        except (TransientError, WorkerEnded) as error:
            return error
        self._lived[number] += 1
        reader, writer = await asyncio.open_connection(sock=process.socket, limit=LONGEST)
        life = self._lives[number] = _Life(number=number, process=process, writer=writer)
        life.hearing = asyncio.create_task(self._hear(life, reader), name=f"hear worker {number}")
        if self._listened:
            life.tell(listen=True)
        ready = asyncio.create_task(life.ready.wait())
        try:
            await asyncio.wait({ready, life.hearing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if life.ready.is_set():
            log.info("worker started", extra={"worker": number, "pid": process.pid})
            return None
        return _why(life, await self._over(life))

    async def _keep(self, number: int, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """See to it that there is a worker of that number, until ``stop``; then until it has ended."""
        loop = asyncio.get_running_loop()
        part, ends, tries = f"worker {number}", 0, 0
        failure: IonError | None = None
        while not stop.is_set():
            if failure is None:
                begun, tries = loop.time(), 0
                life = self._lives[number]
                life.tell(do="go")
                code = await self._attend(life, stop, hurry)
                if stop.is_set():
                    return
                ends = 1 if loop.time() - begun > RESTARTS.maximum.total_seconds() else ends + 1
                problem = _how(life, code)
            else:
                ends += 1
                tries = 0 if isinstance(failure, TransientError) else tries + 1
                problem = str(failure)
            if failure is not None and tries >= TRIES:
                self._failure = self._failure or failure
                log.error("worker %d cannot be replaced, serving ends: %s", number, failure)
                stop.set()
                return
            pause = RESTARTS.delay(ends, random.uniform(-1, 1)).total_seconds()
            self.health.red(part, f"{problem.removesuffix('.')}. It is started again in {pause:.1f} s.")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()
            if stop.is_set():
                return
            failure = await self._start(number)
            if failure is None:
                self.health.green(part)
        if number in self._lives:
            await self._attend(self._lives[number], stop, hurry)

    async def _attend(self, life: _Life, stop: asyncio.Event, hurry: asyncio.Event) -> int | None:
        """Pass on what it is to do, until it has ended; its exit code. Cancelling has it hurry, within bounds."""
        passing = [
            asyncio.create_task(_pass_on(stop, life, "stop", self._drain)),
            asyncio.create_task(_pass_on(hurry, life, "hurry", 0.0)),
        ]
        try:
            await asyncio.wait({life.hearing})
        except asyncio.CancelledError:
            life.tell(do="hurry")
            await asyncio.wait({life.hearing}, timeout=ending.CANCEL_WITHIN)
            raise
        finally:
            for task in passing:
                task.cancel()
        return await self._over(life)

    async def _over(self, life: _Life) -> int | None:
        """What is left of it is put away; its exit code, None where that is not known."""
        await asyncio.wait({life.hearing})
        life.writer.close()
        for attempt in list(life.attempts):
            life.attempts.pop(attempt).close()
        if self._lives.get(life.number) is life:
            del self._lives[life.number]
            (self._state / live.name_of(life.number)).unlink(missing_ok=True)  # it may have been killed
            self._counted.update(life.beat.get("counts", {}))
            for view in life.beat.get("slots", ()):
                kept = self._slots_counted.setdefault(view["module"], Counter())
                kept.update({name: view[name] for name in ("found", "reused", "made")})
        self._look_at_reds()
        try:
            return await self._server.reaped(life.process)
        except (TransientError, WorkerEnded) as error:
            log.warning("%s", error, extra={"worker": life.number})
            return None

    async def _watch(self) -> None:
        """Kill who gives no sign of life."""
        while True:
            await asyncio.sleep(1.0)
            for life in list(self._lives.values()):
                life.silent += 1
                if life.silent > life.silent_for and not life.killed_as_silent:
                    life.killed_as_silent = True
                    log.error(
                        "a worker gives no sign of life, and is killed",
                        extra={"worker": life.number, "pid": life.process.pid, "seconds": life.silent_for},
                    )
                    life.process.kill()

    # What workers tell

    async def _hear(self, life: _Life, reader: asyncio.StreamReader) -> None:
        """Until it hangs up, which is its end; one that cannot be understood is killed."""
        try:
            while line := await reader.readline():
                life.silent = 0
                if line.endswith(b"\n"):  # else it died in the midst of it
                    self._take(life, json.loads(line))
        except ConnectionError:
            return  # it was killed, and had not read all that it was told
        except Exception:
            log.exception("a worker tells what is not understood, and is killed", extra={"worker": life.number})
            life.process.kill()

    def _take(self, life: _Life, told: Mapping[str, Any]) -> None:
        if "log" in told:
            self._say(told["log"])
        elif "beat" in told:
            self._take_beat(life, told["beat"])
        elif "counts" in told:
            life.beat = {**life.beat, "counts": told["counts"]}
        elif "runs" in told:
            self._runs(life, told["runs"])
        elif "ended" in told:
            self._ended(life, told["ended"])
        elif "change" in told:
            change = told["change"]
            self._changes.tell(Change(**{**change, "at": datetime.fromisoformat(change["at"])}))
        elif "answer" in told:
            answer = self._answers.pop(told["answer"], None)
            if answer is not None and not answer.done():
                answer.set_result(told)
        elif "dropped" in told:
            log.warning("not all that a worker told was heard", extra={"worker": life.number, "lost": told["dropped"]})
        elif "failed" in told:
            life.failed = told["failed"]
        elif "ready" in told:
            life.ready.set()

    def _take_beat(self, life: _Life, beat: Mapping[str, Any] | None) -> None:
        if beat is None:  # it lives, and has not begun
            return
        life.beat = beat
        for token in life.attempts.keys() - set(beat["runs"]):  # had what tells of its end been dropped
            self._ended(life, token)
        self._look_at_reds()

    def _look_at_reds(self) -> None:
        self._reds = tuple(
            Red(part=red["part"], problem=red["problem"], since=datetime.fromisoformat(red["since"]))
            for life in self._lives.values()
            for red in life.beat.get("reds", ())
        )

    def _runs(self, life: _Life, said: Mapping[str, Any]) -> None:
        context = parse_context({"context": said["context"]}, what="attempt", problems=[])
        job = Job(event=Event(context=context, type=said["type"]), module=said["module"])
        attempt = Attempt(job=job, number=said["number"], token=said["token"])
        stack = life.attempts[attempt.token] = ExitStack()
        stack.enter_context(self.attempts.running(attempt, _ThereAttempt(self._state, life.number, attempt)))

    def _ended(self, life: _Life, token: str) -> None:
        if (stack := life.attempts.pop(token, None)) is not None:
            stack.close()

    # What workers are told and asked

    def _listen(self, listened: bool) -> None:
        self._listened = listened
        for life in self._lives.values():
            life.tell(listen=listened)

    async def _at_rest(self, *, lost: bool) -> Sequence[tuple[int, int]] | None:
        """Of each worker, that does nothing, who it is and how much it has taken; None where one does something.

        With ``lost`` they may not wait for anything that they lost either. Raises StillPending, TransientError.
        """
        lives = [self._lives.get(number) for number in range(1, self._count + 1)]
        if not all(life is not None and life.ready.is_set() for life in lives):
            return None
        found = []
        for life in lives:
            assert life is not None
            said = await self._answer(life, lost=lost)
            if said is None or said["running"] or said.get("lost"):
                return None
            if "still" in said:
                raise StillPending(said["still"])
            if "away" in said:
                raise TransientError(said["away"])
            found.append((life.process.pid, int(said["taken"])))
        return found

    async def _answer(self, life: _Life, *, lost: bool) -> Mapping[str, Any] | None:
        number = next(self._asked)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        life.tell(ask=number, lost=lost)
        try:
            await asyncio.wait({answer, life.hearing}, timeout=ANSWERS_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            self._answers.pop(number, None)


async def _pass_on(event: asyncio.Event, life: _Life, what: str, within: float) -> None:
    """Once ``event`` is set; ``within`` so many seconds what it has in work is over, or interrupted."""
    await event.wait()
    life.tell(do=what)
    await asyncio.sleep(within)
    life.silent_for = SILENT_AT_THE_END


def _how(life: _Life, code: int | None) -> str:
    if life.killed_as_silent:
        return f"gave no sign of life for {life.silent_for} s and was killed"
    if code is None:
        return "ended, nobody knows how"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _why(life: _Life, code: int | None) -> IonError:
    """Why it was never ready."""
    if life.failed is not None:
        problems = life.failed["problems"]
        if life.failed["passes"]:
            return TransientError("; ".join(problems))
        if life.failed["code"] == ConfigError.exit_code:
            return ConfigError(problems)
        return WorkerEnded("; ".join(problems))
    return WorkerEnded(f"worker {life.number} {_how(life, code)} before it was ready. Its log says why, if it could.")
