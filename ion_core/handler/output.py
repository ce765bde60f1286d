"""What a module left in ``out/``, read as what it is: untrusted.

Nothing is followed (``lstat``, ``O_NOFOLLOW``) and nothing blocks (``O_NONBLOCK``); everything wrong is said at once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ion_core.contracts.storage import check_key
from ion_core.errors import InvalidEvent, InvalidKey, OutputRefused
from ion_core.events import MAX_EVENT_BYTES, Pairs, read_pairs, type_problem
from ion_core.handler.workspace import Workspace
from ion_core.jobs import Module

SHOWN = 20
"""How many problems an error names one by one."""


@dataclass(frozen=True, kw_only=True)
class EventFile:
    """One file of ``out/events``: its name, the type, what is passed on, and the files it names."""

    file: str
    type: str
    data: Pairs
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Everything of one attempt: ``files`` are names in ``out/data`` with their sizes in bytes."""

    files: dict[str, int]
    insights: Pairs
    events: tuple[EventFile, ...]


class _Problems(list[str]):
    def raise_if_any(self) -> None:
        if self:
            more = [f"and {len(self) - SHOWN:,} more problems"] if len(self) > SHOWN else []
            raise OutputRefused("; ".join([*self[:SHOWN], *more]))


def read_output(workspace: Workspace, module: Module) -> Output:
    """Check and read ``out/``. Raises OutputRefused naming every entry that breaks the module contract."""
    problems = _Problems()
    files = _data_files(workspace.out / "data", module, problems)
    insights = _insights(workspace.out / "insights.json", module, problems)
    events = _events(workspace.out / "events", module, files, problems)
    problems.raise_if_any()
    return Output(files=files, insights=insights, events=events)


def _data_files(data: Path, module: Module, problems: _Problems) -> dict[str, int]:
    limits = module.limits
    found: dict[str, int] = {}
    total = 0
    for name, status, depth in _walk(data, "", 1, limits.max_depth, problems):
        if len(found) >= limits.max_files:
            problems.append(_over(module, "out/data", f"holds more than {limits.max_files:,} files", "max_files"))
            break
        if depth > limits.max_depth:
            problems.append(_over(module, f"out/data/{name}", f"is nested more than {limits.max_depth} deep", "max_depth"))
            break
        found[name] = status.st_size
        total += status.st_size
    if total > limits.max_output:
        problems.append(
            _over(module, "out/data", f"holds {total:,} bytes, {limits.max_output:,} are allowed", "max_output")
        )
    return dict(sorted(found.items()))


def _over(module: Module, where: str, what: str, limit: str) -> str:
    return f"{where}: {what}. Raise modules.{module.name}.limits.{limit} if that is right"


def _walk(
    directory: Path, prefix: str, depth: int, max_depth: int, problems: _Problems
) -> Iterator[tuple[str, os.stat_result, int]]:
    """Regular files below, with names relative to ``out/data``; everything else is a problem, and not entered."""
    try:
        status = os.lstat(directory)
        if not stat.S_ISDIR(status.st_mode):
            problems.append(f"out/data{'/' + prefix if prefix else ''}: is {_kind(status.st_mode)}, not a directory")
            return
        os.chmod(directory, stat.S_IMODE(status.st_mode) | 0o700)  # a module may have closed it to us
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        try:
            check_key(name)
        except InvalidKey as error:
            problems.append(f"out/data: {error}")
            continue
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if depth > max_depth:
                yield name, status, depth + 1
                return
            yield from _walk(directory / entry.name, name, depth + 1, max_depth, problems)
        elif stat.S_ISREG(status.st_mode):
            yield name, status, depth
        else:
            problems.append(f"out/data/{name}: is {_kind(status.st_mode)}; only files and directories are taken")


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISREG, "a file"),
    ):
        if test(mode):
            return name
    return "something unknown"


def _read(path: Path, what: str, limit: int, problems: _Problems) -> bytes | None:
    """Content of a regular file; None, and a problem said, for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        problems.append(f"{what}: is {_kind(os.lstat(path).st_mode)}, or cannot be opened; it must be a readable file")
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            problems.append(f"{what}: is {_kind(status.st_mode)}; it must be a file")
            return None
        if status.st_size > limit:
            problems.append(f"{what}: is {status.st_size:,} bytes long, the limit is {limit:,}. Pass large data as files")
            return None
        return file.read(limit + 1)


def _insights(path: Path, module: Module, problems: _Problems) -> Pairs:
    limit = module.limits.max_insights
    raw = _read(path, "out/insights.json", limit, problems)
    if not raw:
        return ()
    try:
        return read_pairs(raw, what="out/insights.json", limit=limit)
    except InvalidEvent as error:
        problems.extend(error.problems)
        return ()


def _events(directory: Path, module: Module, files: dict[str, int], problems: _Problems) -> tuple[EventFile, ...]:
    try:
        if not stat.S_ISDIR(os.lstat(directory).st_mode):
            problems.append(f"out/events: is {_kind(os.lstat(directory).st_mode)}, not a directory")
            return ()
        os.chmod(directory, 0o700)
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return ()
    if len(names) > module.limits.max_events:
        what = f"holds {len(names):,} events, {module.limits.max_events:,} are allowed"
        problems.append(_over(module, "out/events", what, "max_events"))
        return ()
    events = []
    for name in names:
        try:
            check_key(name)
        except InvalidKey as error:
            problems.append(f"out/events: {error}")
            continue
        raw = _read(directory / name, f"out/events/{name}", MAX_EVENT_BYTES, problems)
        if raw is not None and (event := _event(raw, name, module, files, problems)):
            events.append(event)
    return tuple(events)


def _event(raw: bytes, name: str, module: Module, files: dict[str, int], problems: _Problems) -> EventFile | None:
    what = f"out/events/{name}"
    try:
        pairs = read_pairs(raw, what=what)
    except InvalidEvent as error:
        problems.extend(error.problems)
        return None
    known = dict(pairs)
    event_type = known.get("eventType", "")
    before = len(problems)
    if not event_type:
        problems.append(f'{what}: eventType is required. Add {{"key": "eventType", "value": "<type>"}}')
    elif problem := type_problem(event_type):
        problems.append(f"{what}: {problem}")
    elif event_type not in module.publishes:
        declared = ", ".join(module.publishes) or "none"
        problems.append(
            f"{what}: module {module.name} may not publish {event_type!r} (declared: {declared}). "
            f"Add it to modules.{module.name}.publishes"
        )
    named = _named_files(known.get("files", ""), what, files, problems)
    if len(problems) > before:
        return None
    data = tuple((key, value) for key, value in pairs if key not in ("eventType", "files"))
    return EventFile(file=name, type=event_type, data=data, files=named)


def _named_files(text: str, what: str, files: dict[str, int], problems: _Problems) -> tuple[str, ...]:
    """The entries of ``files``: comma-separated, blanks around them ignored, as is one comma at the end."""
    entries = [entry.strip() for entry in text.split(",")]
    if entries[-1] == "":
        entries.pop()
    for entry in entries:
        try:
            if check_key(entry) and entry not in files:
                problems.append(f"{what}: files names {entry[:200]!r}, which is not in out/data")
        except InvalidKey as error:
            problems.append(f"{what}: files: {error}")
    return tuple(dict.fromkeys(entries))
