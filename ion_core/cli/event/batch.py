"""Events from a file of JSON lines: all of it is checked before the first of them is published."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ion_core.cli.event.given import file_problem
from ion_core.cli.output import say
from ion_core.cli.progress import progress
from ion_core.errors import InvalidEvent, IonError, PermanentError, StorageFull, TransientError, Unroutable, UsageError
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.events import Event
    from ion_core.intake import Intake

MAX_LINE = 2 << 20
"""Bytes: an event that is longer could not travel."""
SHOWN = 20
FINISH_WITHIN = 3.0
"""Seconds for the event that is being published when the command is interrupted."""
_KEYS = ("type", "data", "files", "eventId", "correlationId", "parentEventId")


@dataclass(frozen=True, kw_only=True)
class BatchLine:
    """An event as a line has it. ``where`` names the line."""

    where: str
    number: int
    event_type: str
    data: Sequence[tuple[str, str]] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    event_id: str | None = None
    correlation_id: str | None = None
    parent_event_id: str = ""

    def given(self) -> dict[str, Any]:
        """As the intake takes it."""
        return {
            "name": "cli",
            "data": self.data,
            "files": self.files,
            "event_id": self.event_id,
            "correlation_id": self.correlation_id,
            "parent_event_id": self.parent_event_id,
        }


def read_batch(name: str, *, event_type: str | None, correlation_id: str | None, first: int = 1) -> list[BatchLine]:
    """The lines of the file called ``name``, ``-`` for standard input. Empty lines are none.

    ``event_type`` and ``correlation_id`` are for lines without one; lines before ``first`` are left out. Relative paths
    of files start where the file of lines is. Raises UsageError with everything that is wrong, each with its line.
    """
    problems: list[str] = []
    lines = []
    base = Path() if name == "-" else Path(name).parent
    for number, raw in enumerate(_raw_lines(name), 1):
        if number < first or not raw.strip():
            continue
        where = f"{'standard input' if name == '-' else name}:{number}"
        try:
            lines.append(_line(raw, number, where, base, event_type, correlation_id))
        except InvalidEvent as error:
            problems += error.problems
    _refuse(problems)
    if not lines:
        raise UsageError(f"{name}: there is no event in it.")
    return lines


async def publish_batch(app: App, lines: Sequence[BatchLine], *, traceparent: str) -> list[Event]:
    """Publish all of them, in order, each as part of the trace that ``traceparent`` names, if any.

    Raises UsageError before the first where something of a line is wrong. Later errors name the line, and say how many
    were published before it.
    """
    intake = await app.intake()
    _check(intake, lines)
    published: list[Event] = []
    with progress(len(lines), "publishing") as done:
        for line in lines:
            publishing = asyncio.create_task(intake.publish(line.event_type, traceparent=traceparent, **line.given()))
            try:
                published.append(await asyncio.shield(publishing))
            except asyncio.CancelledError:
                await asyncio.wait({publishing}, timeout=FINISH_WITHIN)
                say(_interrupted(line, len(published), len(lines), publishing))
                raise
            except (InvalidEvent, Unroutable, PermanentError) as error:
                raise IonError(_stopped(line, len(published), len(lines), error)) from error
            except IonError as error:
                raise type(error)(_stopped(line, len(published), len(lines), error)) from error
            done(1)
    return published


def _stopped(line: BatchLine, count: int, total: int, error: IonError) -> str:
    under = ""
    if isinstance(error, TransientError) and not isinstance(error, StorageFull) and line.event_id is None:
        under = " If an event id is named here, give it to this line first, as eventId: else there may be two events."
    if not count:
        return f"{line.where}: {error} No event was published before it.{under}"
    return (
        f"{line.where}: {error} Published: {count:,} of {counted(total, 'event')}, those before this line. Go on with "
        f"--from-line {line.number}.{under}"
    )


def _interrupted(line: BatchLine, count: int, total: int, publishing: asyncio.Task[Event]) -> str:
    """``line`` was being published at that moment."""
    done = publishing.done() and not publishing.cancelled() and publishing.exception() is None
    count, next_line = (count + 1, line.number + 1) if done else (count, line.number)
    text = f"Published: {count:,} of {counted(total, 'event')}."
    if count < total:
        text += f" Go on with --from-line {next_line}."
    if not publishing.done():
        publishing.cancel()
        text += f" Whether {line.where} was published is unknown."
    return text


def _check(intake: Intake, lines: Sequence[BatchLine]) -> None:
    problems: list[str] = []
    first: dict[str, BatchLine] = {}
    for line in lines:
        try:
            intake.checked(line.event_type, **line.given())
        except InvalidEvent as error:
            problems += [f"{line.where}: {problem}" for problem in error.problems]
        except Unroutable as error:
            problems.append(f"{line.where}: {error}")
        if line.event_id is not None:
            other = first.setdefault(line.event_id, line)
            if other is not line and _content(other) != _content(line):
                problems.append(
                    f"{line.where}: eventId: {line.event_id[:80]!r} is that of another event, {other.where}"
                )
    _refuse(problems)


def _content(line: BatchLine) -> Any:
    return line.event_type, line.given()


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        raise UsageError("\n".join([*problems[:SHOWN], *more, "Nothing was published."]))


def _raw_lines(name: str) -> Iterator[bytes]:
    try:
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:
            yield from file
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}.") from error


def _line(
    raw: bytes, number: int, where: str, base: Path, event_type: str | None, correlation_id: str | None
) -> BatchLine:
    """Raises InvalidEvent with all that is wrong in it."""
    from ion_core import strict_json

    found = strict_json.loads(raw, what=where, limit=MAX_LINE)
    if not isinstance(found, dict):
        raise InvalidEvent(f'{where}: must be an object such as {{"type": "photo.received", "files": ["a.jpg"]}}')
    problems = [
        f"{where}: {key[:40]!r}: is no key of an event. Keys: {', '.join(_KEYS)}" for key in found if key not in _KEYS
    ]
    said = {"type": event_type, "correlationId": correlation_id} | {
        key: it for key, it in found.items() if it is not None
    }
    for key in ("type", "eventId", "correlationId", "parentEventId"):
        if said.get(key) is not None and not isinstance(said[key], str):
            problems.append(f"{where}: {key}: must be text")
    if said["type"] is None:
        problems.append(f"{where}: type: is required, here or as TYPE of the command")
    data = _data(said.get("data", {}), where, problems)
    files = _files(said.get("files", []), where, base, problems)
    if problems:
        raise InvalidEvent(problems)
    return BatchLine(
        where=where,
        number=number,
        event_type=str(said["type"]),
        data=data,
        files=files,
        event_id=said.get("eventId"),
        correlation_id=said.get("correlationId"),
        parent_event_id=said.get("parentEventId", ""),
    )


def _data(value: Any, where: str, problems: list[str]) -> list[tuple[str, str]]:
    """An object of texts and numbers, or pairs as they travel."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(it, dict) and it.keys() == {"key", "value"} for it in value):
        pairs = [(it["key"], it["value"]) for it in value]
    else:
        problems.append(
            f'{where}: data: must be an object such as {{"album": "holidays"}}, or pairs with key and value'
        )
        return []
    found = []
    for key, it in pairs:
        if isinstance(it, bool) or not isinstance(it, str | int | float) or not isinstance(key, str) or not key:
            problems.append(f"{where}: data.{str(key)[:40]}: must be text or a number")
        else:
            found.append((key, it if isinstance(it, str) else repr(it)))
    return found


def _files(value: Any, where: str, base: Path, problems: list[str]) -> dict[str, Path]:
    """Paths, or an object of names that modules see and paths."""
    if isinstance(value, dict):
        given = list(value.items())
    elif isinstance(value, list):
        given = [(os.path.basename(it) if isinstance(it, str) else "", it) for it in value]  # noqa: PTH119 - as given
    else:
        problems.append(f"{where}: files: must be a list of paths, or an object of names and paths")
        return {}
    found: dict[str, Path] = {}
    for name, path in given:
        if not isinstance(path, str) or not path or "\0" in path:
            problems.append(f"{where}: files: must be paths")
        elif name in found:
            problems.append(f"{where}: files: two would have the name {name[:80]!r}. Give them names: {{NAME: PATH}}")
        elif problem := file_problem(base / path):
            problems.append(f"{where}: files: {str(base / path)[:200]!r}: {problem}")
        else:
            found[name] = base / path
    return found
