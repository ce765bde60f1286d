"""What a module left in ``out/``, read as what it is: untrusted.

Nothing is followed (``lstat``, ``O_NOFOLLOW``) and nothing blocks (``O_NONBLOCK``); everything wrong is said at once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ion_core.contracts.storage import check_key
from ion_core.errors import InvalidEvent, InvalidKey, OutputRefused, shortened
from ion_core.events import MAX_EVENT_BYTES, Pairs, file_name, read_pairs, type_problem
from ion_core.handler.workspace import TooMuch, World
from ion_core.stores import MAX_NAME_BYTES
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.modules import Module

MAX_ALL_EVENTS_BYTES = 16 * 1024**2
"""Of all events of one job: they end in one commit record."""
_PIECE = 16 * 1024
_READ = 1 << 18
_MEANT = {"data", "events", "insights.json"}
_MOST_NAMED = 8


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
    executable: frozenset[str] = frozenset()
    """Those of ``files`` that their owner may execute."""
    insights: Pairs
    events: tuple[EventFile, ...]
    remarks: tuple[str, ...] = ()
    """For the attempt's log: what lies where nothing is kept from."""


class _Problems(list[str]):
    """What is wrong. ``most`` bounds how much is looked at, in directory entries and pieces of files."""

    def __init__(self, most: int | None) -> None:
        self._most = most

    def raise_if_any(self) -> None:
        if self:
            raise OutputRefused(shortened(self))

    def look_at(self, count: int) -> None:
        if self._most is not None:
            self._most -= count
            if self._most < 0:
                raise TooMuch


def read_output(workspace: World, module: Module, *, most: int | None = None) -> Output:
    """Check and read ``out/``. Raises OutputRefused naming every entry that breaks the module contract.

    Raises TooMuch where there are more than about ``most`` things to look at: call it again where it may take long.
    """
    problems = _Problems(most)
    out = str(workspace.out)
    for directory, what in ((str(workspace.root), "the workspace"), (out, "out")):
        if not _is_directory(directory, what, problems):
            problems.raise_if_any()
            return Output(files={}, insights=(), events=())
    executable: set[str] = set()
    files = _data_files(f"{out}/data", module, problems, executable)
    insights = _insights(f"{out}/insights.json", module, problems)
    events = _events(f"{out}/events", module, files, problems)
    problems.raise_if_any()
    return Output(
        files=files, executable=frozenset(executable), insights=insights, events=events, remarks=_remarks(out)
    )


def _remarks(out: str) -> tuple[str, ...]:
    """Names the first entries of ``out/`` that mean nothing: a module that left them there meant something."""
    with os.scandir(out) as entries:
        first = islice(entries, len(_MEANT) + _MOST_NAMED + 1)
        others = sorted(repr(entry.name[:80]) for entry in first if entry.name not in _MEANT)
    if not others:
        return ()
    named = ", ".join(others[:_MOST_NAMED]) + (" and more" if len(others) > _MOST_NAMED else "")
    return (
        f"out: {named} not kept: only out/data, out/events and out/insights.json are looked at. Files to keep "
        "belong in out/data, facts in out/insights.json, events in out/events",
    )


def _data_files(data: str, module: Module, problems: _Problems, executable: set[str]) -> dict[str, int]:
    limits = module.limits
    found: dict[str, int] = {}
    total = 0
    for name, status, depth in _walk(data, "", 1, module, problems):
        if len(found) >= limits.max_files:
            problems.append(
                over_limit(module, "out/data", f"holds more than {counted(limits.max_files, 'file')}", "max_files")
            )
            break
        if depth > limits.max_depth:
            problems.append(
                over_limit(module, f"out/data/{name}", f"is nested more than {limits.max_depth} deep", "max_depth")
            )
            break
        found[name] = status.st_size
        if status.st_mode & stat.S_IXUSR:
            executable.add(name)
        total += status.st_size
    if total > limits.max_output:
        problems.append(
            over_limit(
                module, "out/data", f"holds {counted(total, 'byte')}, {limits.max_output:,} are allowed", "max_output"
            )
        )
    return dict(sorted(found.items()))


def over_limit(module: Module, where: str, what: str, limit: str) -> str:
    return f"{where}: {what}. Raise modules.{module.name}.limits.{limit} if that is right"


def _walk(
    directory: str, prefix: str, depth: int, module: Module, problems: _Problems
) -> Iterator[tuple[str, os.stat_result, int]]:
    """Regular files below, with names relative to ``out/data``; everything else is a problem, and not entered."""
    what = f"out/data/{prefix}" if prefix else "out/data"
    if not _is_directory(directory, what, problems):
        return
    most = 2 * module.limits.max_files  # as many directories as files
    entries = _entries(directory, most, problems)
    if len(entries) > most:
        problems.append(over_limit(module, what, f"holds more files and directories than {most:,}", "max_files"))
        return
    for entry in entries:
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        try:
            check_key(name)
        except InvalidKey as error:
            problems.append(f"out/data: {error}")
            continue
        if len(os.fsencode(name)) > MAX_NAME_BYTES:
            problems.append(
                f"out/data/{name[:80]}…: has a name of more than {MAX_NAME_BYTES} bytes, with its directories"
            )
            continue
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if depth > module.limits.max_depth:
                yield name, status, depth + 1
                return
            yield from _walk(entry.path, name, depth + 1, module, problems)
        elif stat.S_ISREG(status.st_mode):
            if not status.st_mode & stat.S_IRUSR and status.st_uid == os.geteuid():
                os.chmod(entry.path, 0o600)
            yield name, status, depth
        else:
            problems.append(f"out/data/{name}: is {kind_of(status.st_mode)}; only files and directories are taken")


def _is_directory(path: str, what: str, problems: _Problems) -> bool:
    """Whether it is one, opened to us should the module have closed it; one that is missing is no problem."""
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            problems.append(f"{what}: is {kind_of(status.st_mode)}, not a directory")
            return False
    except FileNotFoundError:
        return False
    if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(path, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
    if status.st_uid != os.geteuid() and not os.access(path, os.R_OK | os.X_OK):
        problems.append(f"{what}: cannot be opened, it is another user's. Leave it readable")
        return False
    return True


def _entries(directory: str, most: int, problems: _Problems) -> list[os.DirEntry[str]]:
    """What is in it, in lexical order; of too many, ``most`` and one more."""
    found = []
    with os.scandir(directory) as entries:
        for entry in islice(entries, most + 1):
            problems.look_at(1)
            found.append(entry)
    found.sort(key=lambda entry: entry.name)
    return found


def kind_of(mode: int) -> str:
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


def _read(path: str, what: str, limit: int, problems: _Problems) -> bytes | None:
    """Content of a regular file; None, and a problem said, for anything else."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            problems.append(f"{what}: is {kind_of(status.st_mode)}; it must be a file")
            return None
        if not status.st_mode & stat.S_IRUSR and status.st_uid == os.geteuid():
            os.chmod(path, 0o600)
        if not status.st_size and status.st_uid == os.geteuid():
            return b""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError:
        problems.append(f"{what}: cannot be opened, it is another user's. Leave it readable")
        return None
    try:
        problems.look_at(status.st_size // _PIECE)
        if status.st_size > limit:
            problems.append(
                f"{what}: is {counted(status.st_size, 'byte')} long, the limit is {limit:,}. Pass large data as files"
            )
            return None
        return _content(descriptor, limit)
    finally:
        os.close(descriptor)


def _content(descriptor: int, limit: int) -> bytes:
    """Of a file, as far as one byte beyond the limit."""
    pieces, left = [], limit + 1
    while left and (piece := os.read(descriptor, min(left, _READ))):
        pieces.append(piece)
        left -= len(piece)
        if len(piece) < _READ:  # that was its end: nobody writes to it any more
            break
    return b"".join(pieces)


def _insights(path: str, module: Module, problems: _Problems) -> Pairs:
    limit = module.limits.max_insights
    raw = _read(path, "out/insights.json", limit, problems)
    if raw is None or raw.strip() in (b"", b"null"):  # Go's encoder writes null for a list that nothing was added to
        return ()
    try:
        return read_pairs(raw, what="out/insights.json", limit=limit)
    except InvalidEvent as error:
        problems.extend(error.problems)
        return ()


def _events(directory: str, module: Module, files: dict[str, int], problems: _Problems) -> tuple[EventFile, ...]:
    if not _is_directory(directory, "out/events", problems):
        return ()
    most = module.limits.max_events
    names = [entry.name for entry in _entries(directory, most, problems)]
    if len(names) > most:
        problems.append(over_limit(module, "out/events", f"holds more than {counted(most, 'event')}", "max_events"))
        return ()
    events = []
    room = MAX_ALL_EVENTS_BYTES
    for name in names:
        try:
            check_key(name)
        except InvalidKey as error:
            problems.append(f"out/events: {error}")
            continue
        raw = _read(f"{directory}/{name}", f"out/events/{name}", MAX_EVENT_BYTES, problems)
        room -= len(raw or b"")
        if room < 0:
            problems.append(f"out/events: holds more than {MAX_ALL_EVENTS_BYTES:,} bytes. Pass large data as files")
            break
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
        import difflib

        near = difflib.get_close_matches(event_type, module.publishes, n=1, cutoff=0.85)
        hint = f"Did you mean {near[0]!r}? If not, add it" if near else "Add it"
        problems.append(
            f"{what}: module {module.name} may not publish {event_type!r} (declared: {declared}). "
            f"{hint} to modules.{module.name}.publishes"
        )
    named = _named_files(known.get("files", ""), what, files, problems)
    if len(problems) > before:
        return None
    data = tuple((key, value) for key, value in pairs if key not in ("eventType", "files"))
    return EventFile(file=name, type=event_type, data=data, files=named)


def _named_files(text: str, what: str, files: dict[str, int], problems: _Problems) -> tuple[str, ...]:
    """The entries of ``files``: comma-separated, each as ``file_name`` reads it; one comma at the end is ignored."""
    parts = text.split(",")
    if not parts[-1].strip():
        parts.pop()
    entries = [file_name(part) for part in parts]
    for entry in entries:
        try:
            if check_key(entry) and entry not in files:
                problems.append(f"{what}: files names {entry[:200]!r}, which is not in out/data")
        except InvalidKey as error:
            problems.append(f"{what}: files: {error}")
    return tuple(dict.fromkeys(entries))
