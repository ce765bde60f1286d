"""What a job's supervisor noted at the end, as the contract has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ion_core.contracts.executor import MAX_RESULT, Cause, JobEnd, Step, StepResult, cause_of
from ion_core.contracts.runtime import ExitStatus
from ion_core.embedded.jobs import layout
from ion_core.embedded.jobs.printed import pieces
from ion_core.embedded.os_errors import translated
from ion_core.errors import InvalidEvent, TransientError
from ion_core.regular import read_regular

_SIGNALS = 128
"""Exit codes above are deaths by signal, as a shell tells them."""
_MOST = 1 << 22
_HOW = ("exited", "stopped", "told", "lost", "unstartable", "timeout")


def is_end(said: Mapping[str, Any]) -> bool:
    """Whether that is what a supervisor notes, and ``end_of`` can tell."""
    status, how = said.get("status"), said.get("how")
    if status is not None and (
        not isinstance(status, dict)
        or status.keys() != {"code", "signal", "limit"}
        or type(status["code"]) is not int
        or type(status["signal"]) not in (int, type(None))
        or type(status["limit"]) not in (str, type(None))
    ):
        return False
    return (
        said.get("step") in ("queued", *layout.STEPS)
        and how in _HOW
        and (how != "exited" or status is not None)
        and (how != "unstartable" or type(said.get("errno")) is int)
        and type(said.get("reason")) is str
        and layout.are_times(said.get("began"))
        and layout.is_time(said.get("ended"))
    )


def end_of(said: Mapping[str, Any], directory: str) -> JobEnd:
    """``said`` is what the file ``end`` has, and ``is_end``."""
    step = Step(said["step"])
    status = said["status"] and ExitStatus(**said["status"])
    cause, reason = _why(said, step, status, directory)
    began = {Step(name): at for name, at in said["began"].items()}
    return JobEnd(step=step, status=status, cause=cause, reason=reason, began=began, ended_at=said["ended"])


def _why(said: Mapping[str, Any], step: Step, status: ExitStatus | None, directory: str) -> tuple[Cause | None, str]:
    match said["how"]:
        case "stopped":
            return Cause.CANCELLED, "it was stopped"
        case "told":
            return Cause.INFRASTRUCTURE, "its supervisor was told to end (SIGTERM), as when the machine is shut down"
        case "lost":
            complaint = _last_line(_content(f"{directory}/{layout.COMPLAINTS}"))
            said_last = f"; it said: {complaint}" if complaint else ""
            return Cause.INFRASTRUCTURE, f"its supervisor was killed, or the machine was restarted{said_last}"
        case "unstartable":
            error = translated(OSError(said["errno"], said["reason"]), "it cannot be started")
            return (Cause.INFRASTRUCTURE if isinstance(error, TransientError) else Cause.REFUSED), str(error)
        case "timeout" if step is Step.MODULE:
            return Cause.MODULE, said["reason"]
        case "timeout":
            return Cause.INFRASTRUCTURE, f"handler {step.value}: {said['reason']} ({step.value}_allowance)"
    assert status is not None
    if step is Step.MODULE:
        return (Cause.LIMIT, status.limit) if status.limit else (Cause.MODULE, _in_words(status))
    if status.signal is not None or status.code > _SIGNALS:
        return Cause.INFRASTRUCTURE, f"handler {step.value}: {_in_words(status)}"
    cause = cause_of(status.code)
    if cause is None:
        return None, ""
    told = "; ".join(_reasons(f"{directory}/{layout.result_of(step.value)}"))
    files = (f"{directory}/{step.value}.{end}" for end in ("latest", "first"))
    printed = (_last_line(b"".join(data for *_, data in pieces(_content(file)))) for file in files)
    return cause, told or next(filter(None, printed), "") or f"handler {step.value}: {_in_words(status)}"


def _in_words(status: ExitStatus) -> str:
    return f"exit code {status.code}" if status.signal is None else f"killed by signal {status.signal}"


def _last_line(content: bytes) -> str:
    lines = content.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _content(file: str) -> bytes:
    try:
        return read_regular(file, _MOST)
    except OSError:
        return b""


def _reasons(file: str) -> Sequence[str]:
    """Those of a step's result; none where it has left none, or what is no result."""
    try:
        return StepResult.decode(read_regular(file, MAX_RESULT + 1)).reasons
    except (OSError, InvalidEvent):
        return []
