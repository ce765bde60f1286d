"""The files of one job's directory, as executor and supervisor know them.

``spec``        what to run. There from the beginning, like the directory's name: both come to be in one rename.
``settings``    configuration file of steps 1 and 3.
``supervisor``  locked for as long as somebody starts the job or supervises it, and only then; says who, and how far.
``ticket``      there from the start on.
``stop``        there once it is to be stopped: how long it is given.
``end``         there once it has ended, and nothing of it runs.
``workspace-…``  what the module sees as ``/ion``; beside it, ``<step>.…`` are what steps print and what they tell.

What has to be written when the disk is full has its room from the beginning: it is written into a file that is there.
Nothing is flushed: after a power cut nothing runs, and what a job has committed is not in here.

A module that nothing isolates can write all of it. What is not as we write it counts as not written: it costs that job,
and no other.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ion_core.embedded.programs.table import ProcessId
from ion_core.regular import open_regular, read_regular

SPEC = "spec"
SETTINGS = "settings.yaml"
TICKET = "ticket"
SUPERVISOR = "supervisor"
STOP = "stop"
END = "end"
MARK = "HANDLER_BASE_DIR"
"""The variable by which processes of a job are known: where its workspace is, which no other has."""
COMPLAINTS = "supervisor.log"
"""What a supervisor prints: nothing, unless there is a bug in it."""
STEPS = ("prepare", "module", "commit")

LOG_LIMIT = 1 << 20
ROOM = 8192
"""Bytes kept free for each of what must be written in any case."""
_KEPT = ".room"
_NO_TIME = 1e12
_WE_LACK = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_MOST = 1 << 22
"""Bytes of a file that we read: a command can be long."""


def result_of(step: str) -> str:
    """Where step 1 or 3 tells how it ended."""
    return f"{step}.result"


def workspace(directory: str, id: str) -> str:
    """What the module sees as ``/ion``."""
    return f"{directory}/workspace-{id}"


def mark(directory: str, id: str) -> str:
    """What ``MARK`` says in all processes of that job: its workspace, as a module is told where it is."""
    return f"{workspace(directory, id)}/"


def marks(directory: str) -> str:
    """What ``MARK`` begins with in processes of whatever job lies there."""
    return workspace(directory, "")


def log_limit(spec: Mapping[str, Any], step: str) -> int:
    """Bytes that are kept of what it prints."""
    return int(spec["log_limit"]) if step == "module" else LOG_LIMIT


def keep_room(file: str) -> None:
    """For ``write_kept``, in a new directory."""
    _write(file + _KEPT, os.O_CREAT | os.O_EXCL, b"\0" * ROOM)


def write_kept(file: str, content: dict[str, Any]) -> None:
    """Write ``file``, for which room was kept: there as a whole or not at all. It is written over if it is there."""
    written = json.dumps(content).encode()
    for name in (file, file + _KEPT):
        _make_way(name)
    try:
        _write(file + _KEPT, 0, written)
        os.rename(file + _KEPT, file)
    except FileNotFoundError:  # it is there already, or comes to be at this moment; or somebody took its room
        _write(file, os.O_CREAT, written)


def read(file: str) -> dict[str, Any] | None:
    """What was written there; None if there is no such file, or nothing of ours in it."""
    try:
        return _parsed(read_regular(file, _MOST))
    except OSError:
        return None


def read_spec(directory: str) -> dict[str, Any] | None:
    """As ``read``. Raises OSError where it is we who lack what reading takes: then it may be there."""
    try:
        return _parsed(read_regular(f"{directory}/{SPEC}", _MOST))
    except OSError as error:
        if error.errno in _WE_LACK:
            raise
        return None


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content.rstrip(b"\0"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def lock(directory: str, how: int = fcntl.LOCK_EX) -> int | None:
    """A descriptor that holds the lock of the job until it, and what was made of it, is closed. None if it is held.

    FileNotFoundError if the job is gone. Where only the file to lock is, that is made anew: nobody can hold it then.
    """
    _make_way(f"{directory}/{SUPERVISOR}")
    fd, _ = open_regular(f"{directory}/{SUPERVISOR}", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def grace(directory: str) -> float | None:
    """Seconds that whoever has it stopped gives it; None if nobody has."""
    said = read(f"{directory}/{STOP}")
    return None if said is None or not is_time(said.get("grace")) else float(said["grace"])


def use(file: str) -> None:
    """Hold a lock shared until this process ends: what it stands for is not removed while a job needs it."""
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    fcntl.flock(fd, fcntl.LOCK_SH)
    os.utime(fd)


def was_started(directory: str) -> bool:
    """Also where its ticket is there no more."""
    return any(os.path.lexists(f"{directory}/{name}") for name in (TICKET, END)) or supervised(directory)[0] is not None


def is_locked(directory: str) -> bool:
    """Whether somebody starts or supervises it. False too if it is gone."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if (fd := lock(directory, fcntl.LOCK_SH)) is None:  # shared: who only looks is in nobody's way who does
            return True
        os.close(fd)
    return False


def note(lock: int, supervisor: ProcessId, began: dict[str, float]) -> None:
    """Write into the locked file who supervises, and when which step began."""
    content = json.dumps({"process": vars(supervisor), "began": began}).encode()
    os.pwrite(lock, content.ljust(ROOM // 4, b"\0"), 0)


def supervised(directory: str) -> tuple[ProcessId | None, dict[str, float]]:
    """Who supervises it, as far as that is noted, and when which step began."""
    said = read(f"{directory}/{SUPERVISOR}") or {}
    began = said.get("began", {})
    return _process(said.get("process")), began if are_times(began) else {}


def are_times(began: Any) -> bool:
    """Whether it says of steps when they began."""
    return type(began) is dict and all(name in STEPS and is_time(at) for name, at in began.items())


def is_time(said: Any) -> bool:
    return type(said) in (int, float) and abs(said) < _NO_TIME  # which NaN is not either


def _make_way(file: str) -> None:
    """What has the name of a file of ours and is none is put beside it."""
    try:
        if not stat.S_ISREG(os.lstat(file).st_mode):
            os.rename(file, f"{file}.was-{os.urandom(4).hex()}")
    except FileNotFoundError:
        pass


def _process(said: object) -> ProcessId | None:
    if not isinstance(said, dict) or said.keys() != ProcessId.__annotations__.keys():
        return None
    process = ProcessId(**said)
    texts = (process.started, process.boot)
    return process if type(process.pid) is int and process.pid > 0 and all(type(it) is str for it in texts) else None


def _write(file: str, how: int, content: bytes) -> None:
    fd, _ = open_regular(file, os.O_WRONLY | how)
    try:
        written = 0
        while written < len(content):
            written += os.write(fd, content[written:])
        os.ftruncate(fd, written)
    finally:
        os.close(fd)
