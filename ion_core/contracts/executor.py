"""The executor contract: whole jobs on an engine that exists. create, start, wait, logs, stop, remove, find.

A container runtime starts containers where the dispatcher sits and shares its directories. An executor hands a job to
an engine, which does its three steps elsewhere: ``ion-core handler prepare``, the module, ``ion-core handler commit``.
The dispatcher keeps what only it can do: deliveries, retries, dead letters, publishing. Whatever an engine says, the
commit record alone tells whether a job is done.

Every rule is a sentence in ``docs/contracts/executors.md`` and a test of ``ion_core.testing.executor``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol

from ion_core.contracts.provider import Reach
from ion_core.contracts.runtime import ContainerSpec, ExitStatus, PythonEnvironment, Resources, RuntimeCapabilities
from ion_core.contracts.ticket import MAX_RESULT as MAX_RESULT
from ion_core.contracts.ticket import MAX_TICKET as MAX_TICKET
from ion_core.contracts.ticket import HandlerExit as HandlerExit
from ion_core.contracts.ticket import StepResult as StepResult
from ion_core.contracts.ticket import Ticket as Ticket


class Step(Enum):
    """Where a job is, or ended: ``queued`` until its first step begins, then one of the three."""

    QUEUED = "queued"
    PREPARE = "prepare"
    MODULE = "module"
    COMMIT = "commit"


class Cause(Enum):
    """Why a job ended without a commit, as the engine tells it. What the dispatcher does about each:

    ``module``          exit code, signal or timeout of the module: a counted retry. Of step 1 or 3: a bug there.
    ``limit``           a limit of the module on memory or disk, named in ``reason``: a counted retry.
    ``output-refused``  the committer refuses what the module left: a dead letter with every entry's reason.
    ``image``           the image cannot be had, as the engine's words say: a dead letter.
    ``infrastructure``  node lost, evicted, preempted, engine restarted: tried again at once, not counted; after ten in
                        a row counted. Stores away for prepare or commit too, which is tried again as that always is.
    ``no-room``         quota, or nothing it fits on: waits, not an attempt.
    ``refused``         not allowed, or a policy: a dead letter with the engine's words. Of step 1 or 3: its settings
                        cannot be used, or the event is not stored.
    ``cancelled``       somebody deleted it with the engine's own tools: a dead letter that says so.
    """

    MODULE = "module"
    LIMIT = "limit"
    OUTPUT_REFUSED = "output-refused"
    IMAGE = "image"
    INFRASTRUCTURE = "infrastructure"
    NO_ROOM = "no-room"
    REFUSED = "refused"
    CANCELLED = "cancelled"


_CAUSES = {
    HandlerExit.DONE: None,
    HandlerExit.OUTPUT_REFUSED: Cause.OUTPUT_REFUSED,
    HandlerExit.NO_EVENT: Cause.REFUSED,
    HandlerExit.AWAY: Cause.INFRASTRUCTURE,
    HandlerExit.FULL: Cause.INFRASTRUCTURE,
    HandlerExit.CONFIGURATION: Cause.REFUSED,
}


def cause_of(exit_code: int) -> Cause | None:
    """What it means for a job that its step 1 or 3 ended so by itself: None for ``done``; of a bug it is ``module``."""
    return next((cause for known, cause in _CAUSES.items() if known.value == exit_code), Cause.MODULE)


@dataclass(frozen=True, kw_only=True)
class ModuleSpec:
    """The module as step 2 runs it: what ``ContainerSpec`` says of one, without a workspace."""

    name: str
    image: str | None = None
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    source: Path | None = None
    python: PythonEnvironment | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    network: str = "none"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What to make. Nothing of an event is in here: it may be made ahead of its event.

    ``name``       unique, at most 52 letters, digits and dashes, lower case; begins with a letter, ends in no dash.
    ``module``     what step 2 runs. Its environment is ``module.env`` and what engine and image add, nothing of ours.
    ``settings``   configuration file of steps 1 and 3: the stores and this one module. A secret: only they may see it.
    ``labels``     of installation and module only, for ``find``.
    ``timeout``    of the module, from its start: then it is killed and the job ends with cause ``module``. The engine's
                   own limit is this and allowances for start, prepare and commit, as a net.
    ``log_limit``  bytes of the module's output kept; the middle of what is more is dropped and said to be.
    """

    name: str
    module: ModuleSpec
    settings: bytes = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    timeout: timedelta = timedelta(minutes=10)
    log_limit: int = 1 << 20

    def container(self, workspace: Path) -> ContainerSpec:
        """Step 2 as a container that sees ``workspace``, for engines that run it as a container runtime does."""
        module = self.module
        return ContainerSpec(
            name=self.name,
            module=module.name,
            image=module.image,
            command=module.command,
            args=module.args,
            source=module.source,
            python=module.python,
            workspace=workspace,
            env=module.env,
            labels=self.labels,
            resources=module.resources,
            network=module.network,
            log_limit=self.log_limit,
        )


@dataclass(frozen=True, kw_only=True)
class JobRef:
    """A made job. ``image_digest`` is what the image resolved to, None where that is not known before the start."""

    id: str
    name: str
    image_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job ended: at which step, and why. ``cause`` is None where step 3 said that the job is committed.

    ``status`` is the exit status of that step, None where it has none. ``reason`` is for people: the engine's words, or
    what step 1 or 3 told. ``began`` says when each step began and ``ended_at`` when the last one ended, in seconds
    since 1970, as far as the engine tells.
    """

    step: Step
    status: ExitStatus | None = None
    cause: Cause | None = None
    reason: str = ""
    image_digest: str | None = None
    began: Mapping[Step, float] = field(default_factory=dict)
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class StepLogLine:
    """One line of output of one step, without its newline; ``at`` in seconds since 1970."""

    step: Step
    stream: Literal["stdout", "stderr"]
    text: str
    at: float


class JobState(Enum):
    """``created`` not started yet · ``started`` its ticket is with the engine · ``ended`` and not removed."""

    CREATED = "created"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """A job as ``find`` sees it; ``ticket`` is that of its ``start``, None of one that was only created."""

    ref: JobRef
    state: JobState
    labels: Mapping[str, str]
    ticket: Ticket | None = None


@dataclass(frozen=True, kw_only=True)
class ExecutorCapabilities(RuntimeCapabilities):
    """What this executor offers: what a runtime tells of its containers, and besides

    ``warm``      jobs can be made ahead of their events, and started at once.
    ``reach``     where its jobs run: on this machine, or on others, where only stores that the network reaches do.
    ``streams``   standard output and standard error of a step are told apart; else all of it is standard output.

    ``shares_workspace`` is False, and ``builds`` too: the three steps run where the job does.
    """

    warm: bool = False
    reach: Reach
    streams: bool = True
    shares_workspace: bool = False


class Executor(Protocol):
    """Gives whole jobs to an engine. Safe for concurrent use by the tasks of one event loop.

    Every method is bounded in time but ``wait`` and following ``logs``; an engine that does not answer is a
    TransientError, and running jobs are unharmed. Cancelling any method leaves the job as it was or as the method would
    have left it. Closing an executor leaves all jobs to the engine.
    """

    @property
    def capabilities(self) -> ExecutorCapabilities: ...

    async def create(self, spec: JobSpec) -> JobRef:
        """Make a job that runs nothing yet: held back by the engine, or merely checked where that holds nothing back.

        With the name of one that exists: that one, if labels agree, and as far as the engine can tell all else that was
        asked for; PermanentError otherwise. Raises NoRoom where a quota is used up, ImageUnavailable for what cannot be
        an image's name, and PermanentError with the engine's words for what it refuses, such as a policy.
        """

    async def start(self, ref: JobRef, ticket: Ticket) -> None:
        """Let it run for ``ticket``, once: the same ticket again changes nothing, also after the end.

        Raises PermanentError for another ticket than the first, JobNotFound for a job that is gone, and what
        ``create`` raises where that merely checked.
        """

    async def wait(self, ref: JobRef) -> JobEnd:
        """Until it has ended, and no process of the module runs any more or its node is given up.

        May be called again, by many, after the end, and by another process than the one that started it. Cancelling it
        stops nothing. A job that is deleted meanwhile has ended with cause ``cancelled``; raises JobNotFound for one
        that was gone before. An engine that is away meanwhile is waited for.
        """

    def logs(self, ref: JobRef, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
        """What its steps printed so far, in order within each; with ``follow`` until it has ended.

        Complete after the end, also of a job that another process started. Raises JobNotFound.
        """

    async def stop(self, ref: JobRef, *, grace: timedelta) -> None:
        """End it, whichever step it is at: SIGTERM, and SIGKILL after ``grace``; returns once nothing of it runs.

        A commit that is under way may still come to its end. Idempotent; nothing where it has ended, was never started
        or is gone. Its end is told as ``cancelled``, unless it ended by itself before.
        """

    async def remove(self, ref: JobRef) -> None:
        """Remove it with all that it kept, stopping it first if it runs. Idempotent; fine if gone."""

    async def find(self, labels: Mapping[str, str]) -> Sequence[JobStatus]:
        """Jobs that have every one of ``labels``, also those that other processes made, each with its ticket.

        What was started before this was called is among them, unless it was removed.
        """
