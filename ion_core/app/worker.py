"""A worker: one of several processes that share the jobs of one ``serve``; it is told what to do, and tells of it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ion_core import crash, ending, live
from ion_core.app.dispatching import dispatcher_of, signals_heeded
from ion_core.app.following import follow, running
from ion_core.app.opening import App
from ion_core.app.reporting import Reporting
from ion_core.app.shares import shares
from ion_core.config import Config
from ion_core.contracts.looking import Change
from ion_core.dispatcher import Dispatcher, Part
from ion_core.errors import ConfigError, IonError, ProviderError, StillPending, TransientError
from ion_core.jobs import Attempt, Verdict

log = logging.getLogger(__name__)

BEAT_EVERY = 0.25
"""Seconds between two signs of life."""
BUG = 70


@dataclass(frozen=True, kw_only=True)
class WorkerBody:
    """What all workers of one ``serve`` know from the start.

    ``log_to`` has what this process logs from now on given to a callable, in lines as they are to be printed, with the
    number of the worker. ``rereads``: SIGHUP is for who keeps us.
    """

    config: Config
    environ: Mapping[str, str]
    workers: int
    rereads: bool
    log_to: Callable[[int, Callable[[str], None]], None]

    def run(self, number: int, life: int, channel: socket.socket) -> int:
        """What a forked process does: ``forking.Body``."""
        report = Reporting(channel)
        self.log_to(number, lambda text: report.tell(log=text))
        try:
            return ending.run(_Worker(self, number, report).work(first=life == 0))
        except KeyboardInterrupt as error:
            return 128 + int(getattr(error, "number", 2))
        except IonError as error:
            problems = list(error.problems) if isinstance(error, ConfigError) else [str(error)]
            passes = isinstance(error, TransientError)
            report.tell(failed={"problems": problems, "code": error.exit_code, "passes": passes})
            return error.exit_code
        except Exception:
            log.exception("a worker failed by a bug")
            return BUG
        finally:
            report.close()


class _Worker:
    def __init__(self, body: WorkerBody, number: int, report: Reporting) -> None:
        self._body = body
        self._number = number
        self._report = report
        self._go, self._stop, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._dispatcher: Dispatcher | None = None
        self._passing_on: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._app: App | None = None

    async def work(self, *, first: bool) -> int:
        """Until it is told to end, or by a signal; the exit code. ``first``: it replaces none."""
        body, number = self._body, self._number
        if first:
            crash.arm(body.environ)
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            if body.rereads:
                stack.enter_context(ending.on_hangup(lambda: None))
            loop.add_reader(self._report.fileno(), self._heed)
            stack.callback(loop.remove_reader, self._report.fileno())
            beating = asyncio.create_task(self._beat(), name="beat")
            stack.callback(beating.cancel)
            app = self._app = await stack.enter_async_context(App.open(body.config))
            share = shares(body.config.modules.values(), body.workers)[number - 1]
            work = app.state.make_work(number)
            dispatcher = await dispatcher_of(app, part=Part.JOBS, worker=number, share=share)
            await dispatcher.recover()
            dispatcher.attempts.told = self._tell_of_attempt
            dispatcher.counted = partial(self._tell_counts, dispatcher)
            self._dispatcher = dispatcher
            drain = body.config.drain_timeout.total_seconds()
            with signals_heeded(self._stop, self._hurry, drain, alone=False) as received:
                name = live.name_of(number)
                async with live.telling(
                    app.state.path, partial(follow, dispatcher), partial(running, dispatcher), name=name
                ):
                    self._report.tell(ready=True)
                    await self._told_to_go()
                    await dispatcher.run(self._stop, self._hurry)
            self._tell_how_it_is()
            for task in (*self._answering, *filter(None, [self._passing_on])):
                task.cancel()
            ending.within(ending.CLOSE_WITHIN)
        with suppress(OSError):  # what could not be removed is left there, and was told of
            work.rmdir()
        return 128 + received[0] if received else 0

    async def _told_to_go(self) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self._go, self._stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    # What it is told

    def _heed(self) -> None:
        told = self._report.read()
        if told is None:  # who keeps us is gone, and we with it, as if we were killed along
            os._exit(137)
        for order in told:
            if "ask" in order:
                task = asyncio.create_task(self._answer(order["ask"], lost=order["lost"]))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            elif "listen" in order:
                self._pass_on(order["listen"])
            else:
                self._obey(order["do"])

    def _obey(self, what: str) -> None:
        if what == "go":
            self._go.set()
            return
        self._stop.set()
        if what == "hurry":
            self._hurry.set()
        drain = self._body.config.drain_timeout.total_seconds() if what == "stop" else 0.0
        ending.within(drain + ending.CANCEL_WITHIN)

    async def _answer(self, asked: int, *, lost: bool) -> None:
        """Whether anything is to be done here, and whether anything was lost that may come again."""
        said: dict[str, Any] = {}
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        try:
            said["lost"] = lost and not await dispatcher.nothing_lost()
        except StillPending as error:
            said["still"] = str(error)
        except ProviderError as error:
            said["away"] = str(error)
        self._tell_counts(dispatcher)  # of what we lost, something may turn out to have died
        self._report.tell(answer=asked, running=dispatcher.running, taken=dispatcher.taken, **said)

    def _pass_on(self, listened: bool) -> None:
        """What happens here, as long as somebody listens there."""
        if self._passing_on is not None:
            self._passing_on.cancel()
            self._passing_on = None
        if listened:
            self._passing_on = asyncio.create_task(self._keep_passing_on(), name="changes")

    async def _keep_passing_on(self) -> None:
        while self._app is None:  # noqa: ASYNC110 - it is about to be there
            await asyncio.sleep(BEAT_EVERY)
        async with self._app.changes.listening() as changes:
            self._report.tell(change=_said(Change(kind="missed", at=datetime.now(UTC))))
            async for change in changes:
                self._report.tell(change=_said(change))

    # What it tells

    def _tell_of_attempt(self, attempt: Attempt, runs: bool) -> None:
        if not runs:
            self._report.tell(ended=attempt.token)
            return
        event = attempt.job.event
        self._report.tell(
            runs={
                "context": event.context.to_json(),
                "type": event.type,
                "module": attempt.job.module,
                "number": attempt.number,
                "token": attempt.token,
            }
        )

    def _tell_counts(self, dispatcher: Dispatcher) -> None:
        """At once: should we be killed before the next beat, they count all the same."""
        self._report.tell(counts=_by_name(dispatcher.counts()))

    async def _beat(self) -> None:
        while True:
            self._tell_how_it_is()
            await asyncio.sleep(BEAT_EVERY)

    def _tell_how_it_is(self) -> None:
        dispatcher = self._dispatcher
        if dispatcher is None:
            self._report.tell(beat=None)
            return
        self._report.tell(
            beat={
                "running": dispatcher.running,
                "counts": _by_name(dispatcher.counts()),
                "slots": [asdict(view) for view in dispatcher.slots()],
                "reds": [{**asdict(red), "since": red.since.isoformat()} for red in dispatcher.health.reds()],
                "runs": [attempt.token for attempt, _ in dispatcher.attempts.now()],
            }
        )


def _by_name(counts: Mapping[Verdict, int]) -> Mapping[str, int]:
    return {verdict.value: count for verdict, count in counts.items()}


def _said(change: Change) -> dict[str, Any]:
    return {**asdict(change), "at": change.at.isoformat()}
