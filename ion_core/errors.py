"""Every error a caller can tell apart. A message says where, what is wrong and what would do.

The class carries the decision: a TransientError is tried again without counting (for as long as it is not one event's
own, see ``docs/delivery.md``), a PermanentError goes to the dead letters at once, a ModuleFailed is a counted retry.
Anything that is no IonError is a bug.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from ion_core.words import counted


class IonError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with when nobody handled it."""


class UsageError(IonError):
    """The command line cannot be understood as given."""

    exit_code = 2


class NoSuchEvent(UsageError):
    """No event of the id that was asked for is stored."""

    exit_code = 66


class ConfigError(IonError):
    """The configuration cannot be used. ``problems`` has one line for each thing that is wrong."""

    exit_code = 78

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class NotSetUpHere(ConfigError):
    """This machine lacks what reaching a provider takes, and the configuration may be right where it is served.

    ``ion-core check`` says that the provider was not checked; everything else ends as with any ConfigError.
    """


class StateError(IonError):
    """A state file is corrupt, of a newer version, or where it cannot be used safely."""

    exit_code = 78


class StateBusy(IonError):
    """Another process holds the state directory; the message names its pid."""

    exit_code = 75


class StillPending(IonError):
    """What is waited for may come yet, and nobody here can tell when."""

    exit_code = 75


class InvalidEvent(IonError):
    """An event, or a document of one, does not have the promised shape. ``problems`` has one line each."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__(shortened(self.problems))


class IdTaken(InvalidEvent):
    """The id that was given is that of another event; each of ``differs`` says in what, without any value."""

    def __init__(self, message: str, differs: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.differs = tuple(differs)


class PluginFailed(IonError):
    """A plugin did what no plugin may: the message names it. Its cause, where there is one, is what it raised."""

    exit_code = 70


class WorkerEnded(IonError):
    """A worker of ``serve`` ended before it was ready, and would do so again; or none can be started any more."""

    exit_code = 70


class OutOfTurn(IonError):
    """Prepare or commit was asked for when it is not its turn; nothing was changed. ``/ready`` and ``/done``: 400."""

    exit_code = 2


class ModuleFailed(IonError):
    """The module itself failed (exit code, signal, timeout): a counted retry."""


class HandlerUnreachable(ModuleFailed):
    """A module could not call its handler from where it runs."""


class ContainerRemoved(ModuleFailed):
    """Somebody removed a module's container while it ran."""


class EngineLostJob(ModuleFailed):
    """An engine lost a job more often in a row than is borne."""


class HandlerBug(ModuleFailed):
    """A step of the handler that runs elsewhere ended by a bug of ours."""


class ProviderError(IonError):
    """A provider failed. ``said`` are lines of a program that it ran, for the log: no part of the message."""

    def __init__(self, *args: object, said: Sequence[str] = ()) -> None:
        super().__init__(*args)
        self.said = tuple(said)


class TransientError(ProviderError):
    """Worth trying again later: nothing is known to be wrong with the job itself.

    A provider raises it alike for a backend that is away and for one thing in it that is not to be had now, such as a
    file without permission: which of the two it is shows by how others fare meanwhile, and the dispatcher looks.
    """

    exit_code = 69


class StorageFull(TransientError):
    """No space is left where Ion keeps its state, workspaces or blobs."""

    exit_code = 75


class DeliveryLost(TransientError):
    """The broker took the delivery back; somebody else will get it."""


class PermanentError(ProviderError):
    """Trying again cannot help."""


class AlreadySettled(ProviderError):
    """A delivery was settled twice: a bug in the caller."""


class QueueNotDeclared(PermanentError):
    """The queue was never declared on this broker."""


class Unroutable(PermanentError):
    """No queue takes this topic; nothing was stored by the broker."""


class MessageRefused(PermanentError):
    """The broker takes no such message, however often it is asked: it is larger than may be. Nothing was stored."""


class DeadLetterNotFound(PermanentError):
    """No dead letter of that id is kept for the queue."""


class InvalidKey(PermanentError):
    """A blob key is not a relative, ``/``-separated name of allowed segments."""


class BlobNotFound(PermanentError):
    """No blob is stored under that key."""


class BlobCorrupt(PermanentError):
    """A blob's size or sha256 is not what was recorded when it was stored."""


class DocumentNotFound(PermanentError):
    """No document of that kind and id is stored."""


class InvalidCursor(PermanentError):
    """What was given as the place to go on from is none that this store, or this host, has told."""


class DocumentExists(PermanentError):
    """Another document with other content is stored under that kind and id."""


class DocumentsDamaged(PermanentError):
    """What is stored is no document any more, or not whole. ``problems`` has a line for each, which names it."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__(shortened(self.problems))


@contextmanager
def passing_over_damage(note: Callable[[Sequence[str]], object]) -> Iterator[None]:
    """Within, all documents that are whole are read: ``find`` says at its end which are not, and ``note`` gets that.

    For who goes on without them; it is for the caller to tell of them, too.
    """
    try:
        yield
    except DocumentsDamaged as error:
        note(error.problems)


class ContainerNotFound(PermanentError):
    """The runtime knows no such container."""


class JobNotFound(PermanentError):
    """The executor knows no such job."""


class NoRoom(TransientError):
    """The engine has no room for a job now: a quota is used up, or nothing it fits on is free. No attempt was made."""


class EngineRefused(PermanentError):
    """An engine will not run a job as it is, or somebody took it out of its hands."""


class CannotBeExecuted(PermanentError):
    """A module's command is not there, or nothing that can be executed."""


class TooManyAttempts(PermanentError):
    """There were more attempts at a job than may be by now."""


class EventRefused(PermanentError):
    """An event that can be read, and is not one for the module whose queue it came by."""


class ImageUnavailable(PermanentError):
    """The image cannot be had: it does not exist, or may not be pulled."""


class OutputRefused(PermanentError):
    """What the module left in ``out/`` breaks the module contract; the message names every entry."""


def shortened(problems: Sequence[str], *, shown: int = 20) -> str:
    """Problems in one line; of many, the first ``shown`` and how many more there are."""
    more = [f"and {counted(len(problems) - shown, 'more problem')}"] if len(problems) > shown else []
    return "; ".join([*problems[:shown], *more])


def storage_error(where: str, error: OSError) -> ProviderError:
    """What a failed file operation means, for ``raise … from``: StorageFull when space ran out, else TransientError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"{where}: no space left ({error.strerror}). Free some; work goes on by itself then.")
    return TransientError(f"{where}: {error.strerror or error}")
