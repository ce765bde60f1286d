"""What is told of an attempt, and the file that it is added to."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from ion_core.jobs import Attempt, Outcome


def of(attempt: Attempt, outcome: Outcome, at: datetime) -> dict[str, Any]:
    event = attempt.job.event
    return {
        "at": at.isoformat(),
        "module": attempt.job.module,
        "eventId": event.context.event_id,
        "correlationId": event.context.correlation_id,
        "attempt": attempt.number,
        "outcome": outcome.verdict.value,
        "reason": outcome.reason,
        "seconds": round(outcome.seconds, 3),
    }


def add(path: Path, line: dict[str, Any]) -> None:
    """In one write: with `serve --workers` several processes add to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)
