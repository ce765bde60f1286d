"""One job of the cluster as this process follows it: from its start, or from when somebody asked, to its end."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from ion_core.contracts.executor import Cause, JobEnd, JobRef, Step
from ion_core.errors import JobNotFound, ProviderError, TransientError
from ion_kubernetes import judging, names
from ion_kubernetes.api import EVENTS, PODS, Api, Json
from ion_kubernetes.judging import Going, Wait, Waiting
from ion_kubernetes.refusals import ApiRefused, ApiUnavailable
from ion_kubernetes.settings import KubernetesSettings
from ion_kubernetes.steplogs import StepLogs, Streams
from ion_kubernetes.watch import PodState, PodWatch

logger = logging.getLogger(__name__)

_SETTLES_WITHIN = 15.0
"""Seconds from a container's end by a signal to the pod's own word about it, which takes two."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_WORDS = 3


@dataclass
class _Timer:
    """Since when a job waits for the same thing."""

    wait: Wait
    since: float


@dataclass(eq=False)
class Job:
    """Made by ``follow``. What ends it before its time is decided once, and told when nothing of it runs any more.

    Times that nodes tell are compared with the cluster's, never with ours: the two clocks may be hours apart.
    """

    ref: JobRef
    api: Api
    watch: PodWatch
    settings: KubernetesSettings
    streams: Streams
    state: PodState
    decided: JobEnd | None = None
    ended: asyncio.Future[JobEnd] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is no pod any more."""
    lost: bool = False
    """Whether its node was given up."""
    _found: JobEnd | Going | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: _Timer | None = None
    _module_until: float | None = None
    _saw_it_begin: bool = False
    """Whether the module began while we looked."""
    _delete_at: float | None = None
    """When its deletion is asked for, again where that did not succeed."""
    _pause: float = _FIRST_PAUSE
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        annotations = self.state.object["metadata"].get("annotations") or {}
        self.timeout = float(annotations.get(names.TIMEOUT) or math.inf)
        self.log_limit = int(annotations.get(names.LOG_LIMIT) or 1 << 20)
        self.logs = StepLogs(self.api, self.ref.name, self.log_limit, self.streams)

    @property
    def pod(self) -> Json:
        return self.state.object

    @property
    def has_ended(self) -> bool:
        return isinstance(self._found, JobEnd)

    def follow(self) -> None:
        """Begin. Owns two tasks until ``close``."""
        self.see(self.state)
        self._tasks = [
            asyncio.create_task(self._watch(), name=f"watch of {self.ref.name}"),
            asyncio.create_task(self._drive(), name=f"job {self.ref.name}"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("following a job failed", exc_info=error, extra={"job": self.ref.name})
            self.fail(f"it cannot be followed: {error}")

    async def close(self) -> None:
        """Leave the job to the cluster."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.logs.close()
        self.fail("nobody of this process follows it any more.")

    def fail(self, why: str) -> None:
        """Who waits for its end is told that it cannot be known here."""
        if not self.ended.done():
            self.ended.set_exception(TransientError(f"job {self.ref.name}: {why}"))
            self.ended.exception()  # it is no fault that nobody waits

    def decide(self, end: JobEnd) -> None:
        """How it has ended, unless it ends by itself before it can be deleted."""
        if self.decided is None and not self.has_ended:
            self.decided = end

    async def delete(self, grace: timedelta) -> None:
        """Ask for the end of its pod, and of no other that has its name by now. Idempotent; fine where it is gone.

        With a grace of 0 the API would forget the pod while its processes run on, and so it is a second at least.
        """
        try:
            seconds = max(1, math.ceil(grace.total_seconds()))
            await self.api.delete(PODS, self.ref.name, uid=self.ref.id, grace=seconds)
        except ApiRefused as error:
            if not error.conflict:
                raise

    async def fresh(self) -> Json:
        """Its pod as it is now. Raises JobNotFound."""
        try:
            pod = await self.api.get(PODS, self.pod["metadata"]["name"])
        except ApiRefused as error:
            if not error.not_found:
                raise
        else:
            if pod["metadata"]["uid"] == self.state.uid:
                return pod
        raise JobNotFound(f"job {self.ref.name}: its pod is gone.")

    # ---- what is seen ----

    async def _watch(self) -> None:
        with self.watch.following(self.state.object) as states:
            async for state in states.states():
                self.see(state)

    def see(self, state: PodState) -> None:
        """A newer state of its pod."""
        self.state = state
        if not isinstance(self._found, JobEnd):
            self._found = judging.judge(state.object, gone=state.gone, unseen=state.unseen)
            self._wind(self._found)
        self.logs.see(state.object, over=state.gone or isinstance(self._found, JobEnd))
        if state.gone:
            self.gone.set()
        self._news.set()

    def _wind(self, found: JobEnd | Going) -> None:
        """Set the clocks for what it does now."""
        clock = asyncio.get_running_loop().time()
        waiting = found.waiting if isinstance(found, Going) else None
        if waiting is None:
            self._timer = None
        elif self._timer is None or self._timer.wait is not waiting.wait:
            self._timer = _Timer(waiting.wait, clock)
        began = judging.module_began(self.pod)
        if began is None:
            self._module_until, self._saw_it_begin = None, True
        elif self._module_until is None:  # clocks of nodes differ too: they tell of what we did not see only
            ran = 0.0 if self._saw_it_begin else max(0.0, self.api.now() - began)
            self._module_until = clock + max(0.0, self.timeout - ran)

    # ---- what is done about it ----

    async def _drive(self) -> None:
        while not isinstance(self._found, JobEnd):
            self._news.clear()
            due = self._due()
            try:
                async with asyncio.timeout_at(due):
                    await self._news.wait()
            except TimeoutError:
                await self._act()
        self._conclude(await self._explained(self._found))

    async def _explained(self, end: JobEnd) -> JobEnd:
        """What else there is to be asked about an end: of a pod nothing."""
        return end

    def _due(self) -> float | None:
        """When something has to be done, unless there is news before."""
        found = self._found
        if not isinstance(found, Going):
            return None
        if self.decided is not None:
            gone = self._patience(found.waiting) if found.waiting and found.waiting.wait is Wait.GONE else None
            return min((it for it in (gone, self._delete_at) if it is not None), default=None)
        waited = None if found.waiting is None else self._patience(found.waiting)
        return min((it for it in (waited, self._module_until) if it is not None), default=None)

    def _patience(self, waiting: Waiting) -> float:
        assert self._timer is not None, "wound with what is found"
        settings = self.settings
        if waiting.wait is Wait.IMAGE:
            most = 0.0 if judging.cannot_come(self.pod) else settings.image_wait.total_seconds()
        elif waiting.wait is Wait.START:
            most = settings.start_wait.total_seconds()
        elif waiting.wait is Wait.SETTLED:
            most = _SETTLES_WITHIN
        else:
            grace = float(self.pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            most = grace + settings.lost_after.total_seconds()
        return self._timer.since + most

    async def _act(self) -> None:
        found, clock = self._found, asyncio.get_running_loop().time()
        if not isinstance(found, Going):
            return
        waiting = found.waiting
        if waiting is not None and self._patience(waiting) <= clock:
            if waiting.wait in (Wait.SETTLED, Wait.GONE):
                self.lost = waiting.wait is Wait.GONE
                self._found = waiting.end
                self.logs.see(self.pod, over=True)
                return
            if self.decided is None:
                words = await self._events() if waiting.wait is Wait.START else ""
                reason = f"{waiting.end.reason} ({words})" if words and words not in waiting.end.reason else None
                self._end_it(replace(waiting.end, reason=reason or waiting.end.reason))
        elif self.decided is None and self._module_until is not None and self._module_until <= clock:
            reason = f"timed out after {self.timeout:g} s"
            self._end_it(JobEnd(step=found.step, cause=Cause.MODULE, reason=reason))
        if self._delete_at is not None and self._delete_at <= clock:
            await self._ask_to_delete()

    def _end_it(self, end: JobEnd) -> None:
        logger.info("a job is ended", extra={"job": self.ref.name, "why": end.reason})
        self.decide(end)
        self._delete_at = asyncio.get_running_loop().time()

    async def _ask_to_delete(self) -> None:
        self._delete_at = None
        try:
            await self.delete(self.settings.grace)
        except ProviderError as error:
            logger.warning("a job that is to end could not be deleted yet: %s", error, extra={"job": self.ref.name})
            pause = error.retry_after if isinstance(error, ApiUnavailable) and error.retry_after else self._pause
            self._delete_at = asyncio.get_running_loop().time() + pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _events(self) -> str:
        """Why nothing begins is told by events alone. They are read once, and may be none of our business."""
        try:
            told = await self.api.list(EVENTS, fields={"involvedObject.uid": self.state.uid})
        except (ApiRefused, ApiUnavailable) as error:
            logger.info("events cannot be read: %s", error, extra={"job": self.ref.name})
            return ""
        warnings = [it for it in told.get("items") or () if it.get("type") == "Warning"]
        warnings.sort(key=lambda it: str(it.get("lastTimestamp") or it.get("eventTime") or ""))
        said = dict.fromkeys(f"{it.get('reason', '')}: {it.get('message', '')}" for it in warnings)
        return "; ".join(list(said)[-_WORDS:])

    def _conclude(self, end: JobEnd) -> None:
        if self.decided is not None and end.cause is not None:
            # what waited for its image had not begun: the later of the two is where it was
            step = max(self.decided.step, end.step, key=[*Step].index)
            end = replace(end, step=step, cause=self.decided.cause, reason=self.decided.reason)
        if not self.ended.done():
            self.ended.set_result(end)


def reference(pod: Any) -> JobRef:
    metadata = pod["metadata"]
    return JobRef(id=metadata["uid"], name=metadata["name"])
