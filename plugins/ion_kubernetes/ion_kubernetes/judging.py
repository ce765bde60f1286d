"""What a pod says about its job: how it ended, or how far it is and what it waits for.

Judged from the statuses of our three containers, the pod's phase and reason, and its deletion, all together: none of
them tells the whole truth. An init container's failure leaves the main one "initializing", a process that was killed
for memory may have exited with 0 and leave a phase that never changes, an evicted pod may have no statuses at all.
Other containers, which a cluster may put into a pod, do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from ion_core.contracts.executor import Cause, JobEnd, Step, cause_of
from ion_core.contracts.runtime import ExitStatus
from ion_core.words import counted
from ion_kubernetes import names

Pod = Mapping[str, Any]

STEPS: Mapping[str, Step] = {
    names.PREPARE: Step.PREPARE,
    names.MODULE: Step.MODULE,
    names.COMMIT: Step.COMMIT,
}

_OF_THE_NODE = {
    "Evicted",
    "NodeAffinity",
    "NodeLost",
    "NodeShutdown",
    "OutOfcpu",
    "OutOfmemory",
    "OutOfpods",
    "Preempting",
    "Shutdown",
    "Terminated",
    "UnexpectedAdmissionError",
}
"""Reasons of a failed pod that its node gives: nothing of the job's."""

_DISK_LIMIT = re.compile(
    r"exceeds the (total )?limit|exceeded its local ephemeral storage limit|Usage of EmptyDir volume", re.IGNORECASE
)
_NO_PROGRAM = re.compile(r"no such file or directory|executable file not found|not a directory")
_NO_EXECUTABLE = re.compile(r"permission denied|exec format error|is a directory")
_NO_IMAGE_EVER = {"InvalidImageName", "ErrImageNeverPull"}
_NO_IMAGE = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_UNITS = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
_SHOWN = 2000


class Wait(Enum):
    """What a job that does not go on waits for; how long it may is a setting for each.

    ``image``    an image that cannot be pulled now.
    ``start``    a node that has room, or one that comes to start it.
    ``settled``  the pod's own reason, after a signal ended a container: it may have been evicted.
    ``gone``     a deleted pod that is still there.
    """

    IMAGE = "image"
    START = "start"
    SETTLED = "settled"
    GONE = "gone"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What is waited for, and how the job has ended if that does not come."""

    wait: Wait
    end: JobEnd


@dataclass(frozen=True, kw_only=True)
class Going:
    """It goes on at ``step``; ``queued`` before anything of it ran."""

    step: Step
    waiting: Waiting | None = None


def judge(pod: Pod, *, gone: bool = False, unseen: bool = False) -> JobEnd | Going:
    """How the job of this pod ended, or where it is. ``gone``: this was its last state, and there is no pod any more.

    ``unseen``: it went while nobody looked, and this may not have been its last state. An end is told once no process
    of the module runs any more, and nothing of the job can begin.
    """
    return _Case(pod, gone, unseen).judged()


def module_began(pod: Pod) -> float | None:
    """When the module began, in seconds since 1970 on its node's clock, while it runs; None before and after."""
    running = _statuses(pod).get(names.MODULE, {}).get("state", {}).get("running")
    return seconds(running.get("startedAt")) if running is not None else None


def has_started(pod: Pod, container: str) -> bool:
    """Whether a container has come to run, so that it has a log."""
    state = _statuses(pod).get(container, {}).get("state", {})
    return "running" in state or "terminated" in state


def has_ended(pod: Pod, container: str) -> bool:
    """Whether a container prints nothing any more, as far as its status tells."""
    return "terminated" in _statuses(pod).get(container, {}).get("state", {})


def is_started(pod: Pod) -> bool:
    """Whether the job was given its ticket."""
    return names.TICKET in (pod["metadata"].get("annotations") or {})


class _Case:
    """One pod, looked at from all sides."""

    def __init__(self, pod: Pod, gone: bool, unseen: bool) -> None:
        self.pod = pod
        self.unseen = unseen
        self.status: Mapping[str, Any] = pod.get("status") or {}
        self.containers = _statuses(pod)
        self.phase = self.status.get("phase", "")
        self.over = gone or self.phase in ("Failed", "Succeeded")
        """Nothing of it will begin any more, and nothing runs."""
        self.deleted = gone or "deletionTimestamp" in pod["metadata"]

    def judged(self) -> JobEnd | Going:
        if self._ended(names.COMMIT) and self._code(names.COMMIT) == 0:
            return self._end(Step.COMMIT, None, status=ExitStatus(code=0))
        if self.over:
            return self._why_it_is_over()
        if (failed := self._failed()) is not None and not self.deleted:
            end = self._of_container(failed)
            if self._by_signal(failed) and not self._out_of_memory(failed):
                return Going(step=end.step, waiting=Waiting(wait=Wait.SETTLED, end=end))
            return end
        if self.deleted:
            node = (self.pod.get("spec") or {}).get("nodeName") or "its node"
            lost = self._end(
                self._step(),
                Cause.INFRASTRUCTURE,
                reason=f"{node} does not tell how it ended: the pod was deleted, and stays{self._disruption(': ')}",
            )
            return Going(step=self._step(), waiting=Waiting(wait=Wait.GONE, end=lost))
        return Going(step=self._step(), waiting=self._waiting())

    def _why_it_is_over(self) -> JobEnd:
        failed = self._failed()
        if failed is not None and self._out_of_memory(failed):
            return self._of_container(failed)
        reason, message = str(self.status.get("reason") or ""), str(self.status.get("message") or "")
        words = _words(reason, message)
        if reason == "Evicted" and _DISK_LIMIT.search(message):
            step = self._step_that_filled_the_disk()
            cause = Cause.LIMIT if step is Step.MODULE else Cause.REFUSED
            return self._end(step, cause, reason=words, status=_exit_of(self._terminated(step.value), limit="disk"))
        if reason in _OF_THE_NODE or self._disruption():
            return self._end(self._step(), Cause.INFRASTRUCTURE, reason=words or self._disruption())
        if reason == "DeadlineExceeded":
            ended_well = self._ended(names.MODULE) and self._code(names.MODULE) == 0
            of_the_module = self._step() is Step.MODULE and not ended_well
            return self._end(self._step(), Cause.MODULE if of_the_module else Cause.INFRASTRUCTURE, reason=words)
        if failed is not None and (not self.deleted or self._ended_before_deletion(failed)):
            return self._of_container(failed)
        if self.unseen:
            return self._end(self._step(), Cause.INFRASTRUCTURE, reason="its pod went away while nobody could look")
        if self.deleted:
            return self._end(self._step(), Cause.CANCELLED, reason="somebody deleted its pod")
        if self.phase == "Failed" and reason:  # such as an admission by the node
            return self._end(self._step(), Cause.INFRASTRUCTURE, reason=words)
        # all three ended and none with a failure is told above; a pod that is over without that broke off
        return self._end(self._step(), Cause.INFRASTRUCTURE, reason=f"the pod is {self.phase} before its job has ended")

    # ---- one container ----

    def _terminated(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.containers.get(name, {}).get("state", {}).get("terminated") or {}
        return found

    def _ended(self, name: str) -> bool:
        return bool(self._terminated(name))

    def _code(self, name: str) -> int:
        return int(self._terminated(name).get("exitCode", 0))

    def _out_of_memory(self, name: str) -> bool:
        return self._terminated(name).get("reason") == "OOMKilled"

    def _by_signal(self, name: str) -> bool:
        return 128 < self._code(name) <= 192

    def _failed(self) -> str | None:
        """The first container that ended badly. Memory that ran out counts whatever the exit code is."""
        for name in STEPS:
            if self._ended(name) and (self._code(name) != 0 or self._out_of_memory(name)):
                return name
        return None

    def _ended_before_deletion(self, name: str) -> bool:
        """For certain: of a pod that is gone only the end of the deletion is known, and clocks tell whole seconds."""
        metadata = self.pod["metadata"]
        deletion, finished = (
            seconds(metadata.get("deletionTimestamp")),
            seconds(self._terminated(name).get("finishedAt")),
        )
        if deletion is None:
            return True
        if finished is None:
            return False
        own = (self.pod.get("spec") or {}).get("terminationGracePeriodSeconds", 30)
        return finished < deletion - max(int(metadata.get("deletionGracePeriodSeconds") or 0), int(own))

    def _of_container(self, name: str) -> JobEnd:
        terminated, step = self._terminated(name), STEPS[name]
        words = _words(str(terminated.get("reason") or ""), str(terminated.get("message") or ""))
        if self._out_of_memory(name):
            limit = f"memory {_size(_limit(self.pod, name))}".strip()
            status = _exit_of(terminated, limit=limit)
            if step is Step.MODULE:
                return self._end(step, Cause.LIMIT, status=status, reason=f"its memory ran out (limit: {limit})")
            return self._end(
                step,
                Cause.REFUSED,
                status=status,
                reason=f"{name} ran out of memory ({limit}). Raise handler.memory of the runtime",
            )
        if terminated.get("reason") in ("StartError", "ContainerCannotRun"):
            return self._could_not_start(step, str(terminated.get("message") or ""), words)
        if step is Step.MODULE:
            return self._end(step, Cause.MODULE, status=_exit_of(terminated))
        cause, reason = handler_end(self._code(name), str(terminated.get("message") or ""))
        return self._end(step, cause, status=_exit_of(terminated), reason=reason)

    def _could_not_start(self, step: Step, message: str, words: str) -> JobEnd:
        if _NO_PROGRAM.search(message):
            code = 127
        elif _NO_EXECUTABLE.search(message):
            code = 126
        else:
            return self._end(step, Cause.INFRASTRUCTURE, reason=words)
        cause = Cause.MODULE if step is Step.MODULE else Cause.REFUSED
        return self._end(step, cause, status=ExitStatus(code=code), reason=words)

    # ---- where it is ----

    def _step(self) -> Step:
        """The last step that has begun."""
        at = Step.QUEUED
        for name, step in STEPS.items():
            state = self.containers.get(name, {}).get("state", {})
            if "running" in state or "terminated" in state:
                at = step
        return at

    def _step_that_filled_the_disk(self) -> Step:
        """The status of a container that ran may be lost: where one ended well the next had begun."""
        at = self._step()
        ended_well = self._ended(at.value) and self._code(at.value) == 0
        return {Step.PREPARE: Step.MODULE, Step.MODULE: Step.COMMIT}.get(at, at) if ended_well else at

    def _waiting(self) -> Waiting | None:
        scheduled = self._condition("PodScheduled")
        if scheduled.get("status") == "False" and scheduled.get("reason") != "SchedulingGated":
            words = _words(str(scheduled.get("reason") or ""), str(scheduled.get("message") or ""))
            return self._waits(Wait.START, Step.QUEUED, Cause.NO_ROOM, words)
        for name, step in STEPS.items():
            waiting = self.containers.get(name, {}).get("state", {}).get("waiting")
            if waiting is None:
                continue
            reason = str(waiting.get("reason") or "")
            words = _words(reason, str(waiting.get("message") or ""))
            if reason in _NO_IMAGE_EVER or reason in _NO_IMAGE:
                cause = Cause.IMAGE if step is Step.MODULE else Cause.REFUSED
                image = self.containers[name].get("image") or ""
                return self._waits(Wait.IMAGE, step, cause, f"{image}: {words}" if image not in words else words)
            if reason == "CreateContainerConfigError":
                return self._waits(Wait.START, step, Cause.REFUSED, words)
            if reason in ("CreateContainerError", "RunContainerError", "PreCreateHookError", "PostStartHookError"):
                return self._waits(Wait.START, step, Cause.INFRASTRUCTURE, words)
        if scheduled.get("status") == "True" and self._step() is Step.QUEUED:
            return self._waits(Wait.START, Step.QUEUED, Cause.INFRASTRUCTURE, "its node has not started it")
        return None

    def _waits(self, wait: Wait, step: Step, cause: Cause, reason: str) -> Waiting:
        return Waiting(wait=wait, end=self._end(step, cause, reason=reason))

    def _condition(self, kind: str) -> Mapping[str, Any]:
        for condition in self.status.get("conditions") or ():
            if condition.get("type") == kind:
                found: Mapping[str, Any] = condition
                return found
        return {}

    def _disruption(self, before: str = "") -> str:
        condition = self._condition("DisruptionTarget")
        if condition.get("status") != "True":
            return ""
        return before + _words(str(condition.get("reason") or "DisruptionTarget"), str(condition.get("message") or ""))

    def _end(self, step: Step, cause: Cause | None, *, status: ExitStatus | None = None, reason: str = "") -> JobEnd:
        ended = [seconds(self._terminated(name).get("finishedAt")) for name in STEPS]
        return JobEnd(
            step=step,
            status=status or _exit_of(self._terminated(step.value)),
            cause=cause,
            reason=reason[:_SHOWN],
            image_digest=_digest(self.containers.get(names.MODULE, {})),
            began=_began(self.containers),
            ended_at=max((it for it in ended if it is not None), default=None),
        )


def cannot_come(pod: Pod) -> bool:
    """Whether waiting for the image is in vain: its name can be none, or nothing may be pulled."""
    waiting = (it.get("state", {}).get("waiting") or {} for it in _statuses(pod).values())
    return any(it.get("reason") in _NO_IMAGE_EVER for it in waiting)


def handler_end(code: int, result: str) -> tuple[Cause | None, str]:
    """Why step 1 or 3 ended, from its exit code and the result that it left in its termination message."""
    told = _reasons(result)
    cause = Cause.INFRASTRUCTURE if code > 128 else cause_of(code)  # nobody but its node sends it a signal
    return cause, "; ".join(told) or ("" if cause is None else f"exit code {code}")


def _reasons(result: str) -> Sequence[str]:
    """A result that is none, such as the last words of a crash, is told as it is."""
    if not result.strip():
        return ()
    try:
        said = json.loads(result)
    except ValueError:
        return (result.strip()[:_SHOWN],)
    reasons = said.get("reasons") if isinstance(said, dict) else None
    if not isinstance(reasons, list):
        return (json.dumps(said)[:_SHOWN],)
    return tuple(str(it) for it in reasons)


def _statuses(pod: Pod) -> Mapping[str, Mapping[str, Any]]:
    """Of our containers, by name."""
    status = pod.get("status") or {}
    both = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return {it["name"]: it for it in both if it["name"] in STEPS}


def _exit_of(terminated: Mapping[str, Any], *, limit: str | None = None) -> ExitStatus | None:
    if not terminated:
        return None
    code = int(terminated.get("exitCode", 0))
    signal = int(terminated.get("signal") or 0) or (code - 128 if 128 < code <= 192 else 0)
    return ExitStatus(code=code, signal=signal or None, limit=limit)


def _limit(pod: Pod, name: str) -> str:
    spec = pod.get("spec") or {}
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        if container.get("name") == name:
            return str(((container.get("resources") or {}).get("limits") or {}).get("memory") or "")
    return ""


def _size(quantity: str) -> str:
    """``512 MiB``; as Kubernetes says it where that is no number of bytes."""
    if not quantity.isdigit():
        return re.sub(r"(?<=\d)([KMGT]i)$", r" \1B", quantity)
    count = int(quantity)
    return next(
        (f"{count // unit} {name}" for unit, name in _UNITS if count and count % unit == 0), counted(count, "byte")
    )


def _digest(status: Mapping[str, Any]) -> str | None:
    """``sha256:…`` of ``registry.example/module@sha256:…``; what else a node calls it, as it is."""
    return str(status.get("imageID") or "").rpartition("@")[2] or None


def _began(containers: Mapping[str, Mapping[str, Any]]) -> Mapping[Step, float]:
    found: dict[Step, float] = {}
    for name, step in STEPS.items():
        state = containers.get(name, {}).get("state", {})
        began = seconds((state.get("terminated") or state.get("running") or {}).get("startedAt"))
        if began is not None:
            found[step] = began
    return found


def seconds(text: Any) -> float | None:
    """Of a time as Kubernetes writes it, since 1970; None for none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _words(reason: str, message: str) -> str:
    """The engine's own, without what it repeats."""
    message = message.strip()
    return f"{reason}: {message}" if reason and message and reason not in message else message or reason
