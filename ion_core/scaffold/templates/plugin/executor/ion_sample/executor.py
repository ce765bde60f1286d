"""An Executor whose engine is this machine: each job is a directory, and a supervisor that runs its steps.

Executors of any number of processes see the same jobs. They ask nobody but the files that ``supervisor`` describes.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from ion_core.contracts.executor import (
    Cause,
    Executor,
    ExecutorCapabilities,
    JobEnd,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    Step,
    StepLogLine,
    StepResult,
    Ticket,
    cause_of,
)
from ion_core.contracts.runtime import ExitStatus
from ion_core.errors import ConfigError, InvalidEvent, JobNotFound, PermanentError, TransientError
from ion_sample import groups, supervisor
from ion_sample.settings import SampleSettings

T = TypeVar("T")

HANDLER = (sys.executable, "-m", "ion_core", "handler")
LOOK_AGAIN = 0.02
"""Seconds until it looks again whether a job has ended, or printed."""
STOPS_WITHIN = 30.0
"""Seconds that a supervisor may take to stop, besides the grace."""


class Sample:
    def __init__(self, settings: SampleSettings, handler: Sequence[str]) -> None:
        self.path, self._allowance = settings.path.absolute(), settings.allowance
        self._capabilities, self._handler = settings.capabilities(), handler

    @property
    def capabilities(self) -> ExecutorCapabilities:
        return self._capabilities

    async def create(self, spec: JobSpec) -> JobRef:
        def create() -> JobRef:
            job, directory = self._described(spec), self.path / spec.name
            new = self.path / f".{job['id']}"
            new.mkdir(mode=0o700)
            (new / "workspace").mkdir()
            (new / "job").write_text(json.dumps(job), "utf-8")
            (new / "settings").write_bytes(spec.settings)
            (new / "log").touch()
            try:
                new.rename(directory)
            except OSError:  # there is one of that name
                shutil.rmtree(new)
                if not (there := job_in(directory)):
                    raise
                if there["labels"] != job["labels"]:
                    raise PermanentError(f"job {spec.name}: exists with other labels. Remove it first.") from None
                return JobRef(id=there["id"], name=spec.name)
            return JobRef(id=job["id"], name=spec.name)

        return await self._call(create)

    def _described(self, spec: JobSpec) -> dict[str, Any]:
        module = spec.module
        if not module.command:
            raise PermanentError(f"job {spec.name}: this executor takes no images. Give the module a command.")
        if module.python is not None and module.python.requirements is not None:
            raise PermanentError(f"job {spec.name}: this executor installs no requirements.")
        return {
            "id": uuid.uuid4().hex,
            "labels": dict(spec.labels),
            "argv": [*module.command, *module.args],
            "source": module.source and str(module.source),
            "env": dict(module.env),
            "timeout": spec.timeout.total_seconds(),
            "log_limit": spec.log_limit,
            "handler": list(self._handler),
            "allowance": self._allowance.total_seconds(),
        }

    async def start(self, ref: JobRef, ticket: Ticket) -> None:
        def start() -> None:
            directory = self._directory(ref)
            new = directory / f"ticket.{uuid.uuid4().hex}"
            new.write_bytes(ticket.encode())
            try:
                os.link(new, directory / "ticket")
            except FileExistsError:
                if (directory / "ticket").read_bytes() != ticket.encode():
                    raise PermanentError(f"job {ref.name}: was started with another ticket.") from None
            finally:
                new.unlink()
            supervise(directory)

        await self._call(start)

    async def wait(self, ref: JobRef) -> JobEnd:
        known = False
        while True:
            try:
                end = await self._call(lambda: end_of(self._directory(ref)))
                known = True
            except JobNotFound:
                if not known:
                    raise
                return JobEnd(step=Step.QUEUED, cause=Cause.CANCELLED, reason="it was removed")
            except TransientError:
                if not known:
                    raise
                end = None  # what is away is waited for
            if end is not None:
                return end
            await asyncio.sleep(LOOK_AGAIN)

    async def logs(self, ref: JobRef, *, follow: bool = False) -> AsyncIterator[StepLogLine]:
        position = 0

        def more() -> tuple[bool, list[bytes]]:
            nonlocal position
            directory = self._directory(ref)
            ended = end_of(directory) is not None
            with (directory / "log").open("rb") as log:
                log.seek(position)
                content = log.read()
            whole = content[: content.rfind(b"\n") + 1]
            position += len(whole)
            return ended, whole.splitlines()

        while True:
            ended, lines = await self._call(more)
            for line in lines:
                said = json.loads(line)
                yield StepLogLine(step=Step(said["step"]), stream=said["stream"], text=said["text"], at=said["at"])
            if ended or not follow:
                return
            await asyncio.sleep(LOOK_AGAIN)

    async def stop(self, ref: JobRef, *, grace: timedelta) -> None:
        def stop() -> bool:
            """Whether there is something to wait for."""
            directory = self._directory(ref)
            if not (directory / "ticket").exists() or end_of(directory) is not None:
                return False
            with contextlib.suppress(FileExistsError):
                new = directory / f"stop.{uuid.uuid4().hex}"
                new.write_text(str(grace.total_seconds()))
                os.link(new, directory / "stop")
            supervise(directory)
            return True

        try:
            if await self._call(stop):
                async with asyncio.timeout(grace.total_seconds() + STOPS_WITHIN):
                    await self.wait(ref)
        except JobNotFound:
            return
        except TimeoutError as error:
            raise TransientError(f"job {ref.name}: does not stop. Its supervisor hangs.") from error

    async def remove(self, ref: JobRef) -> None:
        await self.stop(ref, grace=timedelta(0))

        def remove() -> None:
            gone = self.path / f".{uuid.uuid4().hex}"
            self._directory(ref).rename(gone)
            shutil.rmtree(gone)

        with contextlib.suppress(JobNotFound):
            await self._call(remove)

    async def find(self, labels: Mapping[str, str]) -> Sequence[JobStatus]:
        def find() -> list[JobStatus]:
            names = [path for path in self.path.iterdir() if not path.name.startswith(".")]
            return [status for path in names if (status := status_of(path, labels))]

        return await self._call(find)

    def _directory(self, ref: JobRef) -> Path:
        directory = self.path / ref.name
        if (job := job_in(directory)) and job["id"] == ref.id:
            return directory
        os.scandir(self.path).close()  # where all of them are away, this one may be there
        raise JobNotFound(f"job {ref.name}: is not there. Create it first.")

    async def _call(self, work: Callable[[], T]) -> T:
        """On a thread; errors of the operating system are ours."""

        def run() -> T:
            with translated(self.path):
                return work()

        return await asyncio.to_thread(run)


def job_in(directory: Path) -> dict[str, Any]:
    """{} where there is none."""
    try:
        found: dict[str, Any] = json.loads((directory / "job").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return found


def supervise(directory: Path) -> None:
    """Nothing where it has a supervisor, or had one."""
    command = [sys.executable, "-m", "ion_sample.supervisor"]
    done = subprocess.run(
        command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False
    )
    if done.returncode:
        raise TransientError(f"{directory}: its supervisor cannot be started: {done.stderr.decode(errors='replace')}")


def status_of(directory: Path, labels: Mapping[str, str]) -> JobStatus | None:
    """None where it has not all of the labels, or is removed meanwhile."""
    job = job_in(directory)
    if not job or not labels.items() <= job["labels"].items():
        return None
    ref = JobRef(id=job["id"], name=directory.name)
    try:
        ticket = Ticket.decode((directory / "ticket").read_bytes())
    except FileNotFoundError:
        return JobStatus(ref=ref, state=JobState.CREATED, labels=job["labels"])
    state = JobState.STARTED if end_of(directory) is None else JobState.ENDED
    return JobStatus(ref=ref, state=state, labels=job["labels"], ticket=ticket)


def end_of(directory: Path) -> JobEnd | None:
    """How it ended, None where it has not. One whose supervisor is gone is lost."""
    if (said := end_in(directory)) is not None:
        return judged(said, directory)
    if not (directory / "begun").exists():
        return None
    with (directory / "supervisor").open("a") as file:
        if not supervisor.locked(file):
            return None
        if (said := end_in(directory)) is None:
            said = lost(directory)
    return judged(said, directory)


def end_in(directory: Path) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads((directory / "end").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return said


def lost(directory: Path) -> dict[str, Any]:
    """Nobody else looks at it meanwhile. What its supervisor left running is killed."""
    step = "queued"
    with contextlib.suppress(FileNotFoundError):
        left = json.loads((directory / "module").read_text("utf-8"))
        step = "module"
        while left["began"] == groups.began(left["process"]) and groups.runs(left["process"]):
            groups.kill(left["process"])
    said: dict[str, Any] = {"step": step, "how": "lost", "code": None, "reason": "", "began": {}, "ended": None}
    new = directory / "end.new"
    new.write_text(json.dumps(said), "utf-8")
    new.replace(directory / "end")
    return said


def judged(said: Mapping[str, Any], directory: Path) -> JobEnd:
    """What a supervisor says, in the words of the contract."""
    step, code = Step(said["step"]), said["code"]
    cause, reason = why(said, step, directory)
    return JobEnd(
        step=step,
        status=code
        if code is None
        else ExitStatus(code=code)
        if code >= 0
        else ExitStatus(code=128 - code, signal=-code),
        cause=cause,
        reason=reason,
        began={Step(name): at for name, at in said["began"].items()},
        ended_at=said["ended"],
    )


def why(said: Mapping[str, Any], step: Step, directory: Path) -> tuple[Cause | None, str]:
    match said["how"]:
        case "stopped":
            return Cause.CANCELLED, "it was stopped"
        case "told":
            return Cause.INFRASTRUCTURE, "its supervisor was told to end, as when the machine is shut down"
        case "lost":
            complaints = (directory / "complaints").read_text(errors="replace").strip()
            return Cause.INFRASTRUCTURE, f"its supervisor is gone. {complaints.rpartition(chr(10))[2]}".strip()
        case "refused":
            return Cause.REFUSED, said["reason"]
        case "infrastructure":
            return Cause.INFRASTRUCTURE, said["reason"]
        case "timeout":
            return Cause.MODULE if step is Step.MODULE else Cause.INFRASTRUCTURE, said["reason"]
    code: int = said["code"]
    words = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
    if step is Step.MODULE:
        return Cause.MODULE, words
    if code < 0:
        return Cause.INFRASTRUCTURE, words
    try:
        reasons = StepResult.decode((directory / f"result-{step.value}").read_bytes()).reasons
    except (FileNotFoundError, InvalidEvent):
        reasons = []
    cause = cause_of(code)
    return cause, "" if cause is None else "; ".join(reasons) or words


@contextmanager
def translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransientError(f"{path}: {error.strerror}. Is the disk all right?") from error


@asynccontextmanager
async def open_sample(settings: SampleSettings, handler: Sequence[str] = HANDLER) -> AsyncIterator[Executor]:
    """Jobs go on when it is left. ``handler`` is what steps 1 and 3 begin with."""
    try:
        settings.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        where = settings.section.where("path")
        raise ConfigError(f"{where}: {settings.path} cannot be made: {error.strerror}.") from error
    yield Sample(settings, handler)
