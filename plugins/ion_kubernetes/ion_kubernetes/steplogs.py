"""What the three steps of a job print, followed from the first moment and kept: an evicted pod's log is gone."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from ion_core.contracts.executor import Step, StepLogLine
from ion_core.contracts.output import KeptOutput
from ion_kubernetes import judging
from ion_kubernetes.api import Api
from ion_kubernetes.refusals import ApiRefused, ApiUnavailable

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_OF_THE_HANDLER = 1 << 20
"""Bytes of what prepare and commit print."""
_LAST_WORDS = 10.0
"""Seconds for what was printed just before the end to come by itself; then it is asked for."""


class Streams:
    """Connections that logs are followed by: no more than ``most`` at a time. Others wait for one to be free."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._free = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._told = False

    @asynccontextmanager
    async def one(self, over: asyncio.Event) -> AsyncIterator[bool]:
        """One of them while the block runs; False where ``over`` is set before there is one."""
        if self._free:
            self._free -= 1
            got = True
        else:
            self._tell()
            got = await self._given(over)
        try:
            yield got
        finally:
            if got:
                self._give()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "no more logs are followed at a time (followed_logs): others are read when their step has ended, and "
                "lost where its pod is evicted",
                extra={"followed": self.most},
            )

    async def _given(self, over: asyncio.Event) -> bool:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        watching = asyncio.create_task(over.wait())
        awaited: set[asyncio.Future[Any]] = {mine, watching}
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if mine.done():
                self._give()
            raise
        finally:
            watching.cancel()
            mine.cancel()  # which does nothing to one that was given
        return not mine.cancelled()

    def _give(self) -> None:
        """To who waits longest, or to nobody yet."""
        while self._waiting:
            next_one = self._waiting.popleft()
            if not next_one.done():
                next_one.set_result(None)
                return
        self._free += 1


class StepLogs:
    """Logs never decide how a job ended: they are complete some time after that, and ``complete`` waits for it."""

    def __init__(self, api: Api, pod: str, limit: int, streams: Streams) -> None:
        """``limit`` is in bytes, of the module's output. ``streams`` are those of all jobs."""
        self._streams = streams
        self._api = api
        self.pod = pod
        """Its name."""
        self._limits = dict.fromkeys(judging.STEPS.values(), _OF_THE_HANDLER) | {Step.MODULE: limit}
        self._kept = {step: KeptOutput(most) for step, most in self._limits.items()}
        self._over = {name: asyncio.Event() for name in judging.STEPS}
        """Set when a container prints nothing any more."""
        self._following: dict[str, asyncio.Task[None]] = {}

    def see(self, pod: Mapping[str, Any], *, over: bool) -> None:
        """A newer state of the pod: follow what has begun to run. ``over``: nothing else will begin."""
        for name, step in judging.STEPS.items():
            if judging.has_started(pod, name) and name not in self._following:
                self._following[name] = asyncio.create_task(self._follow(name), name=f"log of {self.pod}: {name}")
            elif over and name not in self._following:
                self._kept[step].close()
            if over or judging.has_ended(pod, name):
                self._over[name].set()

    async def complete(self) -> None:
        """Until all that was begun to be followed is there. Raises TimeoutError where that does not come."""
        if self._following:
            async with asyncio.timeout(3 * _LAST_WORDS):
                await asyncio.wait(self._following.values())

    async def lines(self, *, follow: bool) -> AsyncIterator[StepLogLine]:
        for step, kept in self._kept.items():
            async for line in kept.lines(follow=follow):
                yield StepLogLine(step=step, stream="stdout", text=line.text, at=line.at)

    async def so_far(self, pod: Mapping[str, Any]) -> AsyncIterator[StepLogLine]:
        """What there is at this moment, asked for anew: what is followed may lag behind."""
        for name, step in judging.STEPS.items():
            if not judging.has_started(pod, name):
                continue
            kept = KeptOutput(self._limits[step])
            try:
                async with aclosing(self._api.log(self.pod, name)) as lines:
                    async for line in lines:
                        kept.add("stdout", line.text, _epoch(line.at))
            except ApiRefused as error:
                if not (error.invalid or error.not_found):
                    raise
                kept = self._kept[step]
            else:
                kept.close()
            async for it in kept.lines(follow=False):
                yield StepLogLine(step=step, stream="stdout", text=it.text, at=it.at)

    async def close(self) -> None:
        """Stops following. What has been kept stays."""
        for task in self._following.values():
            task.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        for kept in self._kept.values():
            kept.close()

    async def _follow(self, name: str) -> None:
        reader = _Reader(self._api, self.pod, name, self._kept[judging.STEPS[name]])
        try:
            pause = _FIRST_PAUSE
            while not self._over[name].is_set():
                async with self._streams.one(self._over[name]) as got:
                    if got and await self._until_over(reader, name):
                        pause = _FIRST_PAUSE
                await _within(self._over[name], pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            await self._last_words(reader)
        except (
            ApiRefused,
            ApiUnavailable,
        ) as error:  # of a pod that is gone, or was evicted: what was followed is all there is
            logger.warning("the end of a log cannot be had", extra={"pod": self.pod, "step": name, "why": str(error)})
        finally:
            self._kept[judging.STEPS[name]].close()

    async def _until_over(self, reader: _Reader, name: str) -> bool:
        """One stream, until it ends or its container has; whether anything came. Its end says nothing."""
        before = reader.taken
        reading = asyncio.create_task(reader.read(follow=True))
        over = asyncio.create_task(self._over[name].wait())
        try:
            await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await asyncio.wait({reading}, timeout=_LAST_WORDS)
            if reading.done():
                reading.result()
        except ApiUnavailable as error:
            logger.info("a log broke off", extra={"pod": self.pod, "step": name, "why": str(error)})
        except ApiRefused as error:
            if error.not_found or not error.invalid:
                raise
        finally:
            reading.cancel()
            over.cancel()
            await asyncio.gather(reading, over, return_exceptions=True)
        return reader.taken != before

    async def _last_words(self, reader: _Reader) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await reader.read(follow=False)
            except ApiUnavailable:
                if pause > _LAST_WORDS:
                    raise
            await asyncio.sleep(pause)
            pause *= 2


class _Reader:
    """Where in a log we are. After a break a whole second comes again, of which what was had is passed over."""

    def __init__(self, api: Api, pod: str, container: str, kept: KeptOutput) -> None:
        self.taken = 0
        """How many lines there were."""
        self._last = ""
        self._of_last = 0
        """How many lines had the time of the last one."""
        self._api, self.pod, self._container, self._kept = api, pod, container, kept

    async def read(self, *, follow: bool) -> None:
        already, again = self._last, self._of_last
        stream = self._api.log(self.pod, self._container, follow=follow, since=already or None)
        async with aclosing(stream) as lines:
            async for line in lines:
                if line.at < already:
                    continue
                if line.at == already and again > 0:
                    again -= 1
                    continue
                self._of_last = self._of_last + 1 if line.at == self._last else 1
                self._last = line.at
                self.taken += 1
                self._kept.add("stdout", line.text, _epoch(line.at))


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Until it is set, or so many seconds are over."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _epoch(stamp: str) -> float:
    return judging.seconds(stamp) or 0.0
