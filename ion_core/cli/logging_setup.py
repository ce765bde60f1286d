"""How the command line prints what the library logs; the library itself configures no logging."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from ion_core.cli.output import plain

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; all others are fields given by ``extra=``."""

_ours: list[logging.Handler] = []


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as ``extra=``, in order. A record's own ``module`` is a source file; ours takes that name."""
    given = {name: value for name, value in vars(record).items() if name not in _USUAL}
    return {"module" if name == "moduleName" else name: value for name, value in given.items()}


class TextFormatter(logging.Formatter):
    """``2026-03-01T12:00:00.123Z INFO job committed module=detect attempt=1``."""

    def format(self, record: logging.LogRecord) -> str:
        said = [_time(record), record.levelname, plain(record.getMessage())]
        said += [f"{name}={_value(value)}" for name, value in fields(record).items()]
        return "\n".join([" ".join(said), *self._traceback(record)])

    def _traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        return [plain(line) for line in self.formatException(record.exc_info).splitlines()]


class WarningFormatter(TextFormatter):
    """For commands that end at once: who says it matters, when does not."""

    def format(self, record: logging.LogRecord) -> str:
        said = [f"ion-core: {record.levelname.lower()}: {plain(record.getMessage())}"]
        said += [f"{name}={_value(value)}" for name, value in fields(record).items()]
        return "\n".join([" ".join(said), *self._traceback(record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, the fields, and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            **fields(record),
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        first = ("time", "level", "logger", "message")
        return json.dumps({name: line[name] for name in first} | line, default=str, ensure_ascii=True)


def log_warnings() -> None:
    """Print warnings and errors to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WarningFormatter())
    log_to(handler, logging.WARNING)


def log_to(handler: logging.Handler, level: int) -> None:
    """Print what is logged at ``level`` and above through ``handler`` and no other of ours."""
    top = logging.getLogger()
    while _ours:
        top.removeHandler(_ours.pop())
    _ours.append(handler)
    top.addHandler(handler)
    top.setLevel(level)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: Any) -> str:
    """A field's value; quoted where a space or a quotation mark would make it ambiguous. A list is joined by commas."""
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if not text or any(character in text for character in ' "=\n'):
        text = json.dumps(text, ensure_ascii=False)
    return plain(text)
