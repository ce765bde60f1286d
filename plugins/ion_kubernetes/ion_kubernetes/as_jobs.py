"""Jobs as Jobs of Kubernetes, for sites whose queue, such as Kueue, admits nothing else.

What a bare pod is spared has to be looked after: a Job is accepted though its pods are refused, which events alone
tell; its deletion orphans pods unless it says otherwise; and a queue may take its pod away and resume it later. A queue
that resumes what is suspended would do so before the event is there. So ``create`` has the API check only, and the Job
is made at the start.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from ion_core.contracts.executor import (
    Cause,
    JobEnd,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    Step,
    StepLogLine,
    Ticket,
)
from ion_core.errors import JobNotFound
from ion_kubernetes import names
from ion_kubernetes.api import JOBS, PODS, Json
from ion_kubernetes.executor import KubernetesExecutor, labels_of, ticket_of, to_the_end
from ion_kubernetes.job import Job
from ion_kubernetes.pods import Wanted
from ion_kubernetes.refusals import ApiRefused, ApiUnavailable
from ion_kubernetes.refused import refused
from ion_kubernetes.watch import PodState

logger = logging.getLogger(__name__)

_ASK_AFTER, _ASK_AT_MOST = 1.0, 15.0
"""Seconds between looks at a Job that has no pod."""


@dataclass(eq=False)
class JobObject(Job):
    """Until it has a pod its state is that of its template: nothing of it has begun."""

    uid: str = ""
    """Of the Job."""
    _placed: asyncio.Event = field(default_factory=asyncio.Event)

    async def delete(self, grace: timedelta) -> None:
        try:
            await self.api.delete(JOBS, self.ref.name, uid=self.uid)
        except ApiRefused as error:
            if not error.conflict:
                raise
        if self._placed.is_set():
            await self._delete_pod(grace)

    async def _delete_pod(self, grace: timedelta) -> None:
        """With our grace; that of the Job's deletion is the pod's own."""
        pod = self.pod["metadata"]
        try:
            await self.api.delete(PODS, pod["name"], uid=pod["uid"], grace=max(1, round(grace.total_seconds())))
        except ApiRefused as error:
            if not error.conflict:
                raise

    def see(self, state: PodState) -> None:
        if state.name != self.ref.name and not self._placed.is_set():
            self.logs.pod = state.name
            self._placed.set()
        super().see(state)

    async def _watch(self) -> None:
        """Of its pod the executor is told. Until there is one, the Job is looked at now and then."""
        waited, pause = 0.0, _ASK_AFTER
        while not await self._within(pause):
            waited += pause
            if (end := await self._without_pod(waited)) is not None:
                self.end_without_pod(end)
                return
            pause = min(2 * pause, _ASK_AT_MOST)

    async def _within(self, seconds: float) -> bool:
        """Whether it has a pod after so many seconds at most."""
        try:
            async with asyncio.timeout(seconds):
                return await self._placed.wait()
        except TimeoutError:
            return False

    def end_without_pod(self, end: JobEnd) -> None:
        self._found = end
        self.logs.see(self.pod, over=True)
        self.gone.set()
        self._news.set()

    async def _without_pod(self, waited: float) -> JobEnd | None:
        """How a Job that has no pod has ended, if it has: it is gone, or its pods are refused."""
        try:
            found = await self.api.get(JOBS, self.ref.name)
        except ApiUnavailable:
            return None
        except ApiRefused as error:
            if not error.not_found:
                raise
            return JobEnd(step=Step.QUEUED, cause=Cause.CANCELLED, reason="somebody deleted its Job")
        if found["metadata"]["uid"] != self.uid:
            return JobEnd(step=Step.QUEUED, cause=Cause.CANCELLED, reason="somebody deleted its Job")
        if "Complete" in (over := _over(found)):
            return JobEnd(step=Step.COMMIT)
        if over:
            reason = "its Job has failed, and what became of its pod nobody can tell"
            return JobEnd(step=Step.QUEUED, cause=Cause.INFRASTRUCTURE, reason=reason)
        if found["spec"].get("suspend") or waited < self.settings.start_wait.total_seconds():
            return None
        words = await self._events()
        no_room = "exceeded quota" in words or not words
        cause = Cause.NO_ROOM if no_room else Cause.REFUSED
        try:
            await self.delete(self.settings.grace)
        except ApiUnavailable:
            return None
        return JobEnd(step=Step.QUEUED, cause=cause, reason=words or "its Job has got no pod")

    async def fresh(self) -> Json:
        return await super().fresh() if self._placed.is_set() else self.pod

    async def _explained(self, end: JobEnd) -> JobEnd:
        """A queue that takes a pod away suspends its Job, to resume it when there is room."""
        if end.cause is not Cause.CANCELLED or self.decided is not None:
            return end
        try:
            found = await self.api.get(JOBS, self.ref.name)
            if found["metadata"]["uid"] != self.uid or not found["spec"].get("suspend"):
                return end
            await self.delete(self.settings.grace)
        except (ApiRefused, ApiUnavailable) as error:
            logger.info("what became of a Job cannot be asked: %s", error, extra={"job": self.ref.name})
            return end
        return replace(end, cause=Cause.INFRASTRUCTURE, reason="its queue took its pod away")


@dataclass(frozen=True)
class _Checked:
    """A job that was created and not started. ``changed`` is set when it is, or is removed."""

    ref: JobRef
    wanted: Wanted
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class KubernetesJobExecutor(KubernetesExecutor):
    """An Executor whose jobs are Jobs. What is only created is known to this process alone."""

    _resource = JOBS

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._checked: dict[str, _Checked] = {}

    def told(self, state: PodState) -> None:
        job = self._jobs.get(_labels(state.object).get(names.ID, ""))
        if job is not None:
            job.see(state)

    async def create(self, spec: JobSpec) -> JobRef:
        wanted = Wanted(spec=spec, settings=self._settings, owner=self._owner)
        wanted.check()
        for it in self._checked.values():
            if it.ref.name == spec.name:
                self._check_existing(wanted, it.wanted.pod())
                return it.ref
        try:
            existing = await self._object(JobRef(id="", name=spec.name))
        except JobNotFound:
            return await self._check(wanted)
        self._check_existing(wanted, existing)
        return self._reference(existing)

    async def _check(self, wanted: Wanted) -> JobRef:
        ref = JobRef(id=uuid.uuid4().hex, name=wanted.spec.name)
        await self._keep_settings(wanted)
        try:  # of a Job the API says nothing about its pods
            await self._api.create(PODS, wanted.pod(), dry_run=True)
            await self._api.create(JOBS, wanted.job(ref.id, b"{}"), dry_run=True)
        except ApiRefused as error:
            raise refused(f"job {ref.name}", error) from error
        self._checked[ref.id] = _Checked(ref, wanted)
        return ref

    async def start(self, ref: JobRef, ticket: Ticket) -> None:
        if (checked := self._checked.get(ref.id)) is not None:
            try:
                made = await to_the_end(self._api.create(JOBS, checked.wanted.job(ref.id, ticket.encode())))
            except ApiRefused as error:
                if not error.already_exists or error.being_deleted:
                    raise refused(f"job {ref.name}", error) from error
            else:
                self._follow(made)
            self._forget(ref)
        found = await self._object(ref)
        self._check_ticket(ref, found, ticket)
        self._follow(found)

    def _forget(self, ref: JobRef) -> None:
        if (checked := self._checked.pop(ref.id, None)) is not None:
            checked.changed.set()

    async def wait(self, ref: JobRef) -> JobEnd:
        if (checked := self._checked.get(ref.id)) is not None:
            await checked.changed.wait()
        return await super().wait(ref)

    async def logs(self, ref: JobRef, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
        if (checked := self._checked.get(ref.id)) is not None:
            if not follow:
                return
            await checked.changed.wait()
        async for line in super().logs(ref, follow=follow):
            yield line

    async def remove(self, ref: JobRef) -> None:
        self._forget(ref)
        await super().remove(ref)

    async def close(self) -> None:
        for it in list(self._checked.values()):
            self._forget(it.ref)
        await super().close()

    async def _listed(self, selected: Mapping[str, str]) -> Sequence[JobStatus]:
        listed = await self._api.list(JOBS, labels=selected)
        found = [self._status(it) for it in listed.get("items") or () if names.ID in it["metadata"]["labels"]]
        return [
            *found,
            *(
                JobStatus(ref=it.ref, state=JobState.CREATED, labels=dict(it.wanted.spec.labels))
                for it in self._checked.values()
            ),
        ]

    def _status(self, job: Json) -> JobStatus:
        ref = self._reference(job)
        followed = self._jobs.get(ref.id)
        state = JobState.ENDED if _over(job) or (followed is not None and followed.ended.done()) else JobState.STARTED
        return JobStatus(ref=ref, state=state, labels=labels_of(job), ticket=ticket_of(job))

    def _reference(self, found: Json) -> JobRef:
        metadata = found["metadata"]
        return JobRef(id=metadata["labels"].get(names.ID, metadata["uid"]), name=metadata["name"])

    def _made_of(self, ref: JobRef, found: Json) -> Job:
        template = found["spec"]["template"]
        metadata = {**template["metadata"], "name": ref.name, "uid": found["metadata"]["uid"], "resourceVersion": "0"}
        state = PodState({"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}})
        return JobObject(
            ref=ref,
            api=self._api,
            watch=self._watch,
            settings=self._settings,
            streams=self._streams,
            state=state,
            uid=found["metadata"]["uid"],
        )

    def _tell(self, job: Job, found: Json) -> None:
        """A Job says nothing of its pod."""

    def _follow(self, found: Json) -> Job:
        job = super()._follow(found)
        for state in self._watch.pods.values():  # of one that another process started, or that was fast
            if _labels(state.object).get(names.ID) == job.ref.id:
                job.see(state)
        return job


def _labels(object: Json) -> Mapping[str, str]:
    found: Mapping[str, str] = object["metadata"].get("labels") or {}
    return found


def _over(job: Json) -> set[str]:
    """``Complete`` or ``Failed`` of a Job that has ended."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return {it["type"] for it in conditions if it.get("status") == "True"} & {"Complete", "Failed"}
