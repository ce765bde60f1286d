"""The predecessor's flags for what a handler tells of itself: how much it logs, where to, and what it was given."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from ion_core.cli.output import out_json
from ion_core.errors import UsageError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
log = logging.getLogger(__name__)


def begin(given: Mapping[str, Any], action: str) -> None:
    """Log and print as asked. Raises UsageError where the log file cannot be opened."""
    if given["print_config"]:
        out_json(_shown(given, action), indent=2)
    _log_to(given["log_file"], LEVELS[given["log_level"].lower()])


def _shown(given: Mapping[str, Any], action: str) -> dict[str, Any]:
    """Under the names of the flags; a shared secret is none of these."""
    return {
        "action": action,
        "context.name": given["name"],
        "context.eventid": given["event_id"],
        "context.correlationid": given["correlation_id"],
        "context.parenteventid": given["parent_event_id"],
        "valideventtypes": list(given["types"]),
        "basedir": given["base"],
        "development.enabled": given["development"],
        "development.basedir": given["development_base"],
        "loglevel": given["log_level"].lower(),
        "logfile": given["log_file"],
    }


def _log_to(path: str | None, level: int) -> None:
    from ion_core.cli.logging_setup import TextFormatter, WarningFormatter, log_to

    if path is None:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(f"--logfile: {path} cannot be written: {error.strerror}. Name a file that can.") from error
    handler.setFormatter(WarningFormatter() if path is None and level >= logging.WARNING else TextFormatter())
    log_to(handler, level)
