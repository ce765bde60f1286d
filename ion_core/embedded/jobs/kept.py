"""Jobs as directories: made, started, read and removed. All of it blocks; processes share them, threads too."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ion_core.contracts.executor import MAX_TICKET, JobEnd, JobRef, JobState, Step, Ticket
from ion_core.contracts.output import Piece
from ion_core.embedded.jobs import layout
from ion_core.embedded.jobs.forking import Forks
from ion_core.embedded.jobs.judging import end_of, is_end
from ion_core.embedded.jobs.printed import FILES, pieces
from ion_core.embedded.programs import table
from ion_core.errors import InvalidEvent, JobNotFound, PermanentError, TransientError
from ion_core.regular import NOT_REGULAR, read_regular, write_new
from ion_core.removal import remove_directory

log = logging.getLogger(__name__)

_NEW = ".new-"
_GONE = ".gone-"
_START_WITHIN = 10.0
_PAUSE = 0.005
_MOST = 1 << 26
"""Bytes of one file of output: twice what the largest limit that makes sense keeps."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A job at a glance. ``supervisor`` is who supervises it, ``step`` where it is, as far as that is noted."""

    ref: JobRef
    state: JobState
    labels: Mapping[str, str]
    ticket: Ticket | None
    supervisor: table.ProcessId | None = None
    step: Step = Step.QUEUED
    end: JobEnd | None = None


class KeptJobs:
    """The jobs below ``path``."""

    def __init__(self, path: Path) -> None:
        """``path`` is there."""
        self._path = path
        self._is = _identity(path)
        self._forks = Forks()

    def close(self) -> None:
        """Jobs go on."""
        self._forks.close()

    def directory(self, name: str) -> str:
        return f"{self._path}/{name}"

    def add(self, name: str, labels: Mapping[str, str], spec: Mapping[str, Any], settings: bytes) -> str:
        """A new job, made as a whole; the id of the one that has its name if there is one.

        ``spec`` is what its supervisor reads, with its ``id``. Raises PermanentError where the other's labels differ.
        """
        self._check()
        with self._making():
            return self._add(name, labels, spec, settings)

    def _add(self, name: str, labels: Mapping[str, str], spec: Mapping[str, Any], settings: bytes) -> str:
        new = self.directory(f"{_NEW}{secrets.token_hex(8)}")
        os.mkdir(new, 0o700)
        try:
            said = {**spec, "name": name, "labels": dict(labels)}
            write_new(f"{new}/{layout.SPEC}", json.dumps(said).encode())
            write_new(f"{new}/{layout.SETTINGS}", settings)
            write_new(f"{new}/{layout.SUPERVISOR}", b"\0" * layout.ROOM)
            layout.keep_room(f"{new}/{layout.STOP}")
            layout.keep_room(f"{new}/{layout.END}")
            os.mkdir(layout.workspace(new, spec["id"]), 0o755)
            while not self._named(new, name):
                if (other := self._spec(name)) is not None:
                    if other["labels"] != dict(labels):
                        raise PermanentError(f"job {name}: exists with other labels. Remove it, or use another name.")
                    shutil.rmtree(new)
                    return str(other["id"])
                self._put_away(name)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return str(spec["id"])

    def start(self, ref: JobRef, ticket: Ticket) -> table.ProcessId | None:
        """Its supervisor; None if it was started before with this very ticket, or nobody can tell."""
        self._there(ref)
        directory = self.directory(ref.name)
        lock = self._to_start(directory, ref, ticket)
        if lock is None:
            return None
        try:
            file = f"{directory}/{layout.TICKET}"
            with suppress(FileNotFoundError):
                os.unlink(f"{file}.new")  # of one who died here
            write_new(f"{file}.new", ticket.encode())
            os.rename(f"{file}.new", file)
            try:
                return self._supervisor(directory, lock, layout.mark(directory, ref.id))
            except BaseException:
                os.unlink(file)
                raise
        finally:
            os.close(lock)

    def look(self, ref: JobRef) -> Seen | None:
        """As it is now; None if it is gone. One whose supervisor died has ended by this, and nothing of it runs."""
        spec = self._its(ref)
        return None if spec is None else self._seen(spec)

    def all(self, labels: Mapping[str, str]) -> Iterator[Seen]:
        self._check()
        for name in sorted(os.listdir(self._path)):
            if name.startswith("."):
                continue
            spec = self._spec(name)
            if spec is not None and labels.items() <= spec["labels"].items() and (seen := self._seen(spec)):
                yield seen

    def ask_to_stop(self, ref: JobRef, grace: float) -> None:
        """Note how long it is given, before its supervisor is told to end."""
        with suppress(FileNotFoundError):  # it is gone
            layout.write_kept(f"{self.directory(ref.name)}/{layout.STOP}", {"grace": grace})

    def printed(self, ref: JobRef, step: Step) -> Sequence[Piece] | None:
        """What this step printed so far, in order; None if it did not begin."""
        limit = layout.log_limit(self._there(ref), step.value)
        found: dict[int, Piece] = {}
        begun = False
        for end in FILES:
            try:
                content = read_regular(f"{self.directory(ref.name)}/{step.value}.{end}", _MOST)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in NOT_REGULAR:
                    raise
                content = b""  # something that its module has put there
            begun = True
            for before, stream, at, data in pieces(content):
                found[before] = Piece(before, "stdout" if stream == "stdout" else "stderr", at, bytearray(data))
        return _within([found[before] for before in sorted(found)], limit) if begun else None

    def remove(self, ref: JobRef) -> None:
        """Nothing of it may run any more."""
        self._delete(self.directory(ref.name))

    def sweep(self) -> None:
        """Remove what processes that died left half removed or half made, and what cannot be read.

        What is half made is left to the next sweep where a job is being made now. What still runs of a job that cannot
        be read is ended.
        """
        with self._nobody_making() as nobody:
            for name in os.listdir(self._path) if nobody else ():
                if name.startswith(_NEW):
                    os.rename(self.directory(name), self._gone())
        for name in os.listdir(self._path):
            entry = self.directory(name)
            try:
                if name.startswith(_GONE):
                    _delete(entry)
                elif not name.startswith(".") and self._spec(name) is None:
                    self._put_away(name)
            except (OSError, PermanentError) as error:
                log.warning("%s cannot be removed: %s", entry, error)

    def _delete(self, directory: str) -> None:
        gone = self._gone()
        with suppress(FileNotFoundError):
            os.rename(directory, gone)
            _delete(gone)

    def _gone(self) -> str:
        """A new name for what is to be removed: who dies meanwhile leaves it to the next sweep."""
        return self.directory(f"{_GONE}{secrets.token_hex(8)}")

    @contextmanager
    def _making(self) -> Iterator[None]:
        """While this lasts, what is half made is somebody's."""
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _nobody_making(self) -> Iterator[bool]:
        """Whether nobody makes a job; if so, nobody does while this lasts."""
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # somebody does, or directories cannot be locked where this one lies
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def _supervisor(self, directory: str, lock: int, mark: str) -> table.ProcessId | None:
        """It has the lock from now on, as we do."""
        complaints = os.open(
            f"{directory}/{layout.COMPLAINTS}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            return self._forks.supervisor(directory, mark, lock=lock, complaints=complaints)
        finally:
            os.close(complaints)

    def _named(self, new: str, name: str) -> bool:
        """Give the new directory its name, unless that is taken."""
        try:
            os.rename(new, self.directory(name))
        except OSError:
            if not os.path.lexists(self.directory(name)):
                raise
            return False
        return True

    def _put_away(self, name: str) -> None:
        """What has a job's name and cannot be read as one: a power cut may leave such, or its module.

        Of a job that nobody supervises any more what runs is killed: nobody finds it.
        """
        directory, lock = self.directory(name), None
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                if (lock := layout.lock(directory)) is None:
                    raise PermanentError(f"job {name}: runs, and its file {layout.SPEC} cannot be read any more.")
            if self._spec(name) is not None:
                return  # another, made meanwhile
            log.warning("%s is no job that can be read: it is removed, with what runs of it", directory)
            table.kill_marked(layout.marks(directory), by=layout.MARK, begins=True)
            self._delete(directory)
        finally:
            if lock is not None:
                os.close(lock)

    def _spec(self, name: str) -> dict[str, Any] | None:
        """None if there is no such job. Raises TransientError if that cannot be told."""
        spec = layout.read_spec(self.directory(name))
        if spec is not None and spec.get("name") == name and _is_spec(spec):
            return spec
        self._check()
        return None

    def _check(self) -> None:
        """Raises TransientError where our directory is not what it was: with it, jobs look gone, and run on."""
        if _identity(self._path) != self._is:
            raise TransientError(f"{self._path}: is no more the directory that it was. Put it back, or mount it again.")

    def _its(self, ref: JobRef) -> dict[str, Any] | None:
        """The spec of that job. Where its module has spoilt it, what whoever knows the job needs to see to it."""
        spec = self._spec(ref.name)
        if spec is None and os.path.isdir(layout.workspace(self.directory(ref.name), ref.id)):
            return {"id": ref.id, "name": ref.name, "labels": {}, "log_limit": layout.LOG_LIMIT}
        return spec if spec is not None and spec["id"] == ref.id else None

    def _there(self, ref: JobRef) -> dict[str, Any]:
        if (spec := self._its(ref)) is None:
            raise JobNotFound(f"job {ref.name}: there is none (any more).")
        return spec

    def _to_start(self, directory: str, ref: JobRef, ticket: Ticket) -> int | None:
        """Its lock, if it is ours to start; None if it was started with this ticket."""
        until = time.monotonic() + _START_WITHIN
        while time.monotonic() < until:
            # The lock first: whoever has it before there is a ticket is the one to write it.
            try:
                lock = layout.lock(directory)
            except FileNotFoundError as error:
                raise JobNotFound(f"job {ref.name}: there is none (any more).") from error
            if os.path.lexists(f"{directory}/{layout.TICKET}"):
                if lock is not None:
                    os.close(lock)
                if (first := _ticket(directory)) != ticket:
                    whom = f"attempt {first.attempt} of event {first.event_id}" if first else "another attempt"
                    raise PermanentError(f"job {ref.name}: was started for {whom}. A job runs once; make another.")
                return None
            if lock is not None:
                return lock
            time.sleep(_PAUSE)  # somebody else is about to start it
        raise TransientError(f"job {ref.name}: somebody else has been starting it for {_START_WITHIN:g} s.")

    def _seen(self, spec: Mapping[str, Any]) -> Seen | None:
        ref, labels = JobRef(id=spec["id"], name=spec["name"]), spec["labels"]
        directory = self.directory(ref.name)
        if not layout.was_started(directory):
            return Seen(ref=ref, state=JobState.CREATED, labels=labels, ticket=None)
        ticket = _ticket(directory)
        end = None  # whatever its file says while somebody supervises it: its module may have written that
        if not layout.is_locked(directory):
            end = self._end(directory) or self._settled(directory, ref)
        process, began = layout.supervised(directory)
        step = list(began)[-1] if began else Step.QUEUED.value
        if end is None and not os.path.lexists(directory):
            return None
        state = JobState.STARTED if end is None else JobState.ENDED
        return Seen(ref=ref, state=state, labels=labels, ticket=ticket, supervisor=process, step=Step(step), end=end)

    def _end(self, directory: str) -> JobEnd | None:
        said = layout.read(f"{directory}/{layout.END}")
        return None if said is None or not is_end(said) else end_of(said, directory)

    def _settled(self, directory: str, ref: JobRef) -> JobEnd | None:
        """The end of a job that nobody supervises any more: what still runs of it is killed. None if it is not so."""
        try:
            lock = layout.lock(directory)
        except FileNotFoundError:
            return None
        if lock is None:
            return None
        try:
            if (end := self._end(directory)) is not None or not layout.was_started(directory):
                return end
            table.kill_marked(layout.mark(directory, ref.id), by=layout.MARK)
            _, began = layout.supervised(directory)
            stopped = os.path.lexists(f"{directory}/{layout.STOP}")
            said = {
                "step": list(began)[-1] if began else Step.QUEUED.value,
                "status": None,
                "how": "stopped" if stopped else "lost",
                "reason": "",
                "began": began,
                "ended": time.time(),
            }
            layout.write_kept(f"{directory}/{layout.END}", said)
            return end_of(said, directory)
        finally:
            os.close(lock)


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino
    return None


def _is_spec(said: Mapping[str, Any]) -> bool:
    """As far as we go by it: what it runs is its supervisor's to read."""
    id, labels, limit = said.get("id"), said.get("labels"), said.get("log_limit")
    return (
        isinstance(id, str)
        and id.isalnum()
        and isinstance(labels, dict)
        and all(isinstance(it, str) for it in labels.values())
        and type(limit) is int
        and 0 <= limit <= _MOST
    )


def _ticket(directory: str) -> Ticket | None:
    try:
        return Ticket.decode(read_regular(f"{directory}/{layout.TICKET}", MAX_TICKET + 1))
    except (OSError, InvalidEvent):  # torn by a power cut: nothing runs then; or none of ours
        return None


def _within(found: Sequence[Piece], limit: int) -> Sequence[Piece]:
    """The first half of what may be kept and the last: a little more is there than that."""
    if not found:
        return found
    first, last = limit // 2, found[-1].end - (limit - limit // 2)
    kept: list[Piece] = []
    for piece in found:
        if piece.start >= first and piece.start < last:
            cut = min(last - piece.start, len(piece.data))
            piece = Piece(piece.start + cut, piece.stream, piece.at, piece.data[cut:])
        if piece.data:
            kept.append(piece)
    return kept


def _delete(path: str) -> None:
    """Also what a module made so that it is hard to delete. Raises OSError for what stays nevertheless."""
    if os.path.isdir(path) and not os.path.islink(path):
        remove_directory(path)
    else:
        os.unlink(path)
