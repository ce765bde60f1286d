"""What ``ion-core handler prepare|commit`` exit with, by the class of what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from ion_core.contracts.ticket import HandlerExit
from ion_core.errors import (
    BlobCorrupt,
    BlobNotFound,
    ConfigError,
    DocumentNotFound,
    DocumentsDamaged,
    InvalidEvent,
    NoSuchEvent,
    OutOfTurn,
    OutputRefused,
    PermanentError,
    StateBusy,
    StateError,
    StorageFull,
    TransientError,
    UsageError,
)

_CLASSES: Sequence[tuple[tuple[type[Exception], ...], HandlerExit]] = (
    ((OutputRefused,), HandlerExit.OUTPUT_REFUSED),
    (
        (NoSuchEvent, DocumentNotFound, DocumentsDamaged, BlobNotFound, BlobCorrupt, InvalidEvent),
        HandlerExit.NO_EVENT,
    ),
    ((StorageFull,), HandlerExit.FULL),
    ((TransientError, StateBusy), HandlerExit.AWAY),
    ((ConfigError, StateError, UsageError, PermanentError), HandlerExit.CONFIGURATION),
)
"""The first that fits."""


def handler_exit(error: BaseException) -> HandlerExit:
    """How a step of a job ended that raised ``error``; what is not told apart is a bug."""
    return next((it for classes, it in _CLASSES if isinstance(error, classes)), HandlerExit.BUG)


def exit_code(error: Exception) -> int:
    """Of a command that people call: misuse, which is theirs, stays 2."""
    if isinstance(error, UsageError | OutOfTurn) and not isinstance(error, NoSuchEvent):
        return error.exit_code
    return handler_exit(error).value
