"""Whole jobs as pods of a Kubernetes cluster."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import resource
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from ion_core.contracts.executor import (
    Cause,
    ExecutorCapabilities,
    JobEnd,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    Step,
    StepLogLine,
    Ticket,
)
from ion_core.errors import InvalidEvent, JobNotFound, PermanentError, TransientError
from ion_kubernetes import judging, names
from ion_kubernetes.api import PODS, SECRETS, Api, Json
from ion_kubernetes.job import Job, reference
from ion_kubernetes.pods import Wanted, start_patch
from ion_kubernetes.refusals import ApiRefused
from ion_kubernetes.refused import refused
from ion_kubernetes.settings import KubernetesSettings
from ion_kubernetes.steplogs import Streams
from ion_kubernetes.watch import PodState, PodWatch

logger = logging.getLogger(__name__)
T = TypeVar("T")

_MOST_STREAMS = 10_000


class KubernetesExecutor:
    """An Executor. Jobs outlive this process: what others made is known by its labels.

    All output of a step is told as standard output: Kubernetes does not tell the two apart. A pod that was stopped is
    gone: how it ended, and its log, are known to the process that followed it, until it is removed.
    """

    _resource = PODS

    def __init__(
        self, api: Api, watch: PodWatch, settings: KubernetesSettings, owner: Mapping[str, Any] | None = None
    ) -> None:
        self._api = api
        self._watch = watch
        self._settings = settings
        self._owner = owner
        self._jobs: dict[str, Job] = {}
        """Those that are followed, by their ids."""
        self._capabilities = settings.capabilities()
        self._streams = Streams(settings.followed_logs or most_streams())

    @property
    def capabilities(self) -> ExecutorCapabilities:
        return self._capabilities

    async def create(self, spec: JobSpec) -> JobRef:
        where = f"job {spec.name}"
        wanted = Wanted(spec=spec, settings=self._settings, owner=self._owner)
        wanted.check()
        await self._keep_settings(wanted)
        try:
            made = await to_the_end(self._api.create(PODS, wanted.pod()))
        except ApiRefused as error:
            if not error.already_exists or error.being_deleted:
                raise refused(where, error) from error
            made = await self._existing(wanted)
        return reference(made)

    async def _keep_settings(self, wanted: Wanted) -> None:
        """Before the pod, which would wait for them for a while otherwise."""
        try:
            await to_the_end(self._api.create(SECRETS, wanted.secret()))
        except ApiRefused as error:
            if not error.already_exists or error.being_deleted:
                raise refused(f"job {wanted.spec.name}: its settings", error) from error

    async def _existing(self, wanted: Wanted) -> Json:
        """The pod that has the name, if it is what is wanted."""
        pod = await self._object(JobRef(id="", name=wanted.spec.name))
        self._check_existing(wanted, pod)
        return pod

    def _check_existing(self, wanted: Wanted, found: Json) -> None:
        name = wanted.spec.name
        if labels_of(found) != dict(wanted.spec.labels):
            raise PermanentError(f"job {name}: exists with other labels. Remove it first.")
        if _annotations(found).get(names.SPEC) != wanted.digest:
            raise PermanentError(
                f"job {name}: exists as another job than this one: module, settings or the runtime's own "
                "settings have changed. Remove it first."
            )

    async def start(self, ref: JobRef, ticket: Ticket) -> None:
        encoded = ticket.encode()
        for _ in range(2):
            pod = await self._object(ref)
            if judging.is_started(pod):
                self._check_ticket(ref, pod, ticket)
                self._follow(pod)
                return
            try:
                patch = start_patch(pod, encoded, warm_deadline=self._warm_deadline(pod))
                changed = await to_the_end(self._api.patch(PODS, ref.name, patch))
            except ApiRefused as error:
                if error.not_found:
                    raise not_found(ref) from error
                if not error.invalid:
                    raise refused(f"job {ref.name}", error) from error
                failed = error  # a test did not hold: somebody was faster, or what we looked at has changed
            else:
                self._follow(changed)
                return
        raise refused(f"job {ref.name}", failed) from failed

    def _check_ticket(self, ref: JobRef, pod: Json, ticket: Ticket) -> None:
        if ticket_of(pod) != ticket:
            raise PermanentError(
                f"job {ref.name}: was started for another attempt. Make a job of its own for this one."
            )

    def _warm_deadline(self, pod: Json) -> int | None:
        """None for a pod that has one. It counts from when the pod had its node, and so does what it waited."""
        if pod["spec"].get("activeDeadlineSeconds") is not None:
            return None
        settings = self._settings
        placed = judging.seconds((pod.get("status") or {}).get("startTime"))
        timeout = float((pod["metadata"].get("annotations") or {}).get(names.TIMEOUT) or 0)
        allowances = settings.start_wait + settings.prepare_allowance + settings.commit_allowance + settings.grace
        waited = 0.0 if placed is None else max(0.0, self._api.now() - placed)
        return math.ceil(waited + timeout + allowances.total_seconds())

    async def wait(self, ref: JobRef) -> JobEnd:
        job = await self._followed(ref)
        return await asyncio.shield(job.ended)

    async def logs(self, ref: JobRef, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
        job = await self._followed(ref)
        if not follow and not job.ended.done():
            pod = await job.fresh()
            if not isinstance(judging.judge(pod), JobEnd):
                async for line in job.logs.so_far(pod):
                    yield line
                return
            await asyncio.shield(job.ended)
        if job.ended.done():
            try:
                await job.logs.complete()
            except TimeoutError as error:
                raise TransientError(f"job {ref.name}: the end of its log does not come.") from error
        async for line in job.logs.lines(follow=follow):
            yield line

    async def stop(self, ref: JobRef, *, grace: timedelta) -> None:
        try:
            job = await self._followed(ref)
        except JobNotFound:
            return
        if job.ended.done() or not judging.is_started(job.pod):
            return
        await self._end(job, "it was stopped", grace)
        await asyncio.shield(job.ended)
        if job.lost:
            raise TransientError(f"job {ref.name}: its node does not tell whether anything of it still runs.")

    async def remove(self, ref: JobRef) -> None:
        try:
            job = await self._followed(ref)
        except JobNotFound:
            return
        await self._end(job, "it was removed", self._settings.grace)
        if not job.gone.is_set():
            await self._until_gone(job)
        self._jobs.pop(ref.id, None)
        await job.close()

    async def _end(self, job: Job, why: str, grace: timedelta) -> None:
        before = job.decided
        job.decide(JobEnd(step=Step.QUEUED, cause=Cause.CANCELLED, reason=why))
        try:
            await job.delete(grace)
        except BaseException:  # then it goes on as if nothing had been asked
            job.decided = before
            raise

    async def _until_gone(self, job: Job) -> None:
        """A node that was given up lets go of its pods when it is back: then it is gone, or the next start finds it."""
        patience = self._settings.grace + self._settings.lost_after + self._settings.timeout
        try:
            async with asyncio.timeout(0 if job.lost else patience.total_seconds()):
                await job.gone.wait()
                await asyncio.shield(job.ended)
        except TimeoutError:
            logger.warning("a deleted pod is left behind until its node is back", extra={"job": job.ref.name})

    async def find(self, labels: Mapping[str, str]) -> Sequence[JobStatus]:
        found = {it.ref.id: it for it in await self._listed({**names.MANAGED_BY, **names.labels(labels)})}
        for id, job in self._jobs.items():  # of what has ended and is gone we still know how
            if id not in found and job.ended.done():
                found[id] = JobStatus(
                    ref=job.ref, state=JobState.ENDED, labels=labels_of(job.pod), ticket=ticket_of(job.pod)
                )
        return [it for it in found.values() if labels.items() <= it.labels.items()]

    async def _listed(self, selected: Mapping[str, str]) -> Sequence[JobStatus]:
        listed = await self._api.list(PODS, labels=selected)
        return [self._status(it) for it in listed.get("items") or () if names.LABELS in _annotations(it)]

    def _status(self, pod: Json) -> JobStatus:
        ref, job = reference(pod), self._jobs.get(pod["metadata"]["uid"])
        if isinstance(judging.judge(pod), JobEnd) or (job is not None and job.ended.done()):
            state = JobState.ENDED
        else:
            state = JobState.STARTED if judging.is_started(pod) else JobState.CREATED
        return JobStatus(ref=ref, state=state, labels=labels_of(pod), ticket=ticket_of(pod))

    # ---- jobs that are followed ----

    def _follow(self, found: Json) -> Job:
        """``found`` is what the job is made as."""
        ref = self._reference(found)
        job = self._jobs.get(ref.id)
        if job is None:
            job = self._jobs[ref.id] = self._made_of(ref, found)
            job.follow()
        else:
            self._tell(job, found)
        return job

    def _tell(self, job: Job, found: Json) -> None:
        """The watch may be behind of what a call answered."""
        state = PodState(found)
        if state.version > job.state.version:
            job.see(state)

    def _made_of(self, ref: JobRef, found: Json) -> Job:
        return Job(
            ref=ref,
            api=self._api,
            watch=self._watch,
            settings=self._settings,
            streams=self._streams,
            state=PodState(found),
        )

    def _reference(self, found: Json) -> JobRef:
        return reference(found)

    async def _followed(self, ref: JobRef) -> Job:
        """Raises JobNotFound."""
        job = self._jobs.get(ref.id)
        return job if job is not None else self._follow(await self._object(ref))

    async def _object(self, ref: JobRef) -> Json:
        """As it is now. Raises JobNotFound, also where another has its name; an empty id is any."""
        try:
            found = await self._api.get(self._resource, ref.name)
        except ApiRefused as error:
            if error.not_found:
                raise not_found(ref) from error
            raise refused(f"job {ref.name}", error) from error
        if ref.id and self._reference(found).id != ref.id:
            raise not_found(ref)
        return found

    def told(self, state: PodState) -> None:
        """What the watch has seen of any pod. Jobs that are pods follow their own."""

    def fail(self, why: str) -> None:
        """Nothing is learnt of pods any more: who waits is told so, instead of waiting for ever."""
        for job in self._jobs.values():
            job.fail(why)

    async def close(self) -> None:
        """Leaves all jobs to the cluster."""
        await asyncio.gather(*(job.close() for job in self._jobs.values()))
        self._jobs.clear()


def most_streams() -> int:
    """A quarter of the files that this process may have open: broker, stores and calls need theirs."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_STREAMS if files == resource.RLIM_INFINITY else min(_MOST_STREAMS, max(files // 4, 1))


def not_found(ref: JobRef) -> JobNotFound:
    return JobNotFound(f"job {ref.name}: there is no such pod. Create it first.")


def _annotations(pod: Json) -> Mapping[str, str]:
    return pod["metadata"].get("annotations") or {}


def labels_of(pod: Json) -> dict[str, str]:
    """As they were given."""
    try:
        found = json.loads(_annotations(pod).get(names.LABELS) or "{}")
    except ValueError:
        found = {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def ticket_of(pod: Json) -> Ticket | None:
    encoded = _annotations(pod).get(names.TICKET)
    if encoded is None:
        return None
    try:
        return Ticket.decode(encoded.encode())
    except InvalidEvent as error:
        logger.warning("the ticket of a pod cannot be read", extra={"job": pod["metadata"]["name"], "why": str(error)})
        return None


async def to_the_end(call: Awaitable[T]) -> T:
    """Heard to the end even when we are cancelled: then it is there for ``find``, and not made a moment later."""
    calling = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        await asyncio.wait({calling})
        if not calling.cancelled() and (error := calling.exception()) is not None:
            logger.info("a call that nobody waits for any more failed: %s", error)
        raise
