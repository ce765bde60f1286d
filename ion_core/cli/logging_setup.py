"""How the command line prints what the library logs; the library itself configures no logging."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from ion_core.cli.output import LEAST, RED, YELLOW, coloured, hidden, hidden_in, plain, short_id, shortened

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; all others are fields given by ``extra=``."""

_SHORT = ("eventId", "correlationId", "module", "attempt", "seconds")
COLOURS = {logging.WARNING: YELLOW, logging.ERROR: RED, logging.CRITICAL: RED}

_ours: list[logging.Handler] = []


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as ``extra=``, in order. A record's own ``module`` is a source file; ours takes that name."""
    given = {name: value for name, value in vars(record).items() if name not in _USUAL}
    return {"module" if name == "moduleName" else name: value for name, value in given.items()}


class TextFormatter(logging.Formatter):
    """``2026-03-01T12:00:00.123Z INFO job committed module=detect attempt=1``."""

    def format(self, record: logging.LogRecord) -> str:
        said = [_time(record), record.levelname, plain(hidden(record.getMessage()))]
        said += [f"{name}={_value(value)}" for name, value in fields(record).items()]
        return "\n".join([" ".join(said), *self._traceback(record)])

    def _traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        return [plain(line) for line in hidden(self.formatException(record.exc_info)).splitlines()]


class TerminalFormatter(TextFormatter):
    """For a terminal: short ids, and no line wider than it. Warnings and errors in colour.

    What becomes of a job is one line, cut if need be, but for dead letters; everything else is wrapped.
    """

    def format(self, record: logging.LogRecord) -> str:
        import shutil  # and so four ways to pack files, which only few need

        width = shutil.get_terminal_size().columns - 1
        begin, message, said = f"{_time(record)[11:19]}Z", plain(hidden(record.getMessage())), fields(record)
        is_of_job = "eventId" in said and "module" in said
        end = _whose(said) if is_of_job else " ".join(f"{name}={_value(value)}" for name, value in said.items())
        if is_of_job and message.startswith("job ") and record.levelno < logging.ERROR:
            lines = [f"{begin} {shortened(message, max(width - len(begin) - len(end) - 3, LEAST))}  {end}"]
        else:
            level = "" if record.levelno < logging.WARNING or message.startswith("job ") else f"{record.levelname} "
            text = f"{begin} {level}{message} {end}".rstrip()
            lines = textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        colour = COLOURS.get(record.levelno)
        return "\n".join([*(coloured(line, colour, sys.stderr) for line in lines), *self._traceback(record)])


def _whose(said: Mapping[str, Any]) -> str:
    """Of a record about a job: its module, its event, which attempt if not the first, and how long it took.

    What else was said of it stands behind.
    """
    attempt, seconds = said.get("attempt", 1), said.get("seconds")
    return " ".join(
        [
            shortened(str(said["module"]), 24),
            short_id(str(said["eventId"])),
            *([f"attempt {attempt}"] if attempt != 1 else []),
            *([f"{seconds:.3g} s"] if isinstance(seconds, int | float) else []),
            *(f"{name}={_value(value)}" for name, value in said.items() if name not in _SHORT),
        ]
    )


class WarningFormatter(TextFormatter):
    """For commands that end at once: who says it matters, when does not."""

    def format(self, record: logging.LogRecord) -> str:
        said = [f"ion-core: {record.levelname.lower()}: {plain(hidden(record.getMessage()))}"]
        said += [f"{name}={_value(value)}" for name, value in fields(record).items()]
        return "\n".join([" ".join(said), *self._traceback(record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, the fields, and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            **{name: hidden_in(value) for name, value in fields(record).items()},
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": hidden(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = hidden(self.formatException(record.exc_info))
        first = ("time", "level", "logger", "message")
        return json.dumps(
            {name: line[name] for name in first} | line, default=lambda value: hidden(str(value)), ensure_ascii=True
        )


def log_warnings() -> None:
    """Print warnings and errors to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WarningFormatter())
    log_to(handler, logging.WARNING)


class Lines(logging.StreamHandler[TextIO]):
    """Prints records, and lines that another process has made of its own."""

    def say(self, text: str) -> None:
        """Print it, between records."""
        self.acquire()
        try:
            self.write(text)
        except OSError:  # as of a record: there is nobody to whom it could be said
            return
        finally:
            self.release()

    def write(self, text: str) -> None:
        """Print it, with whatever a line takes here."""
        self.stream.write(text + self.terminator)
        self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record))
        except Exception:
            self.handleError(record)


class Told(logging.Handler):
    """Of a worker: what it logs is made lines, with its number, and given to ``tell``."""

    def __init__(self, tell: Callable[[str], None], worker: int) -> None:
        super().__init__()
        self._tell = tell
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        try:
            record.worker = self._worker
            self._tell(self.format(record))
        except Exception:
            self.handleError(record)


class OfOurs(logging.Filter):
    """What Ion and plugins log, by the package that a logger is named after; of libraries warnings and errors alone.

    What a plugin has to say of a request it says itself: its HTTP client, which says it of each, is nobody's here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._packages: Collection[str] | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        package = record.name.partition(".")[0]
        if record.levelno >= logging.WARNING or package == "ion_core":
            return True
        if self._packages is None:
            from ion_core.registry import plugin_packages

            self._packages = plugin_packages().keys()
        return package in self._packages


def log_to(handler: logging.Handler, level: int) -> None:
    """Print what is logged at ``level`` and above through ``handler`` and no other of ours.

    What libraries say below warnings is for ``level`` DEBUG.
    """
    if level > logging.DEBUG:
        handler.addFilter(OfOurs())
    top = logging.getLogger()
    while _ours:
        old = _ours.pop()
        top.removeHandler(old)
        old.close()
    _ours.append(handler)
    top.addHandler(handler)
    top.setLevel(level)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: Any) -> str:
    """A field's value; quoted where a space or a quotation mark would make it ambiguous. A list is joined by commas."""
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    text = hidden(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))
    if not text or any(character in text for character in ' "=\n'):
        text = json.dumps(text, ensure_ascii=False)
    return plain(text)
