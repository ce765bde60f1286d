"""Messages as they lie in queues, described for people and programs, readable or not."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ion_core.errors import InvalidEvent, QueueNotDeclared, UsageError
from ion_core.events import parse_event

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.contracts.messaging import MessageBroker

T = TypeVar("T")


def described(body: bytes) -> dict[str, Any]:
    """``eventId``, ``correlationId``, ``type`` and the whole ``event``; of what is no event, why not and its text."""
    try:
        event = parse_event(body)
    except InvalidEvent as error:
        text = body.decode("utf-8", "backslashreplace")
        unknown = dict.fromkeys(("eventId", "correlationId", "type", "event"))
        return {**unknown, "unreadable": str(error), "body": text}
    context = event.context
    return {
        "eventId": context.event_id,
        "correlationId": context.correlation_id,
        "type": event.type,
        "event": event.to_wire(),
    }


def row(entry: Mapping[str, Any], *keys: str) -> list[str]:
    """Cells of a table; what is not known is said to be."""
    return [str(value) if (value := entry.get(key)) is not None else "(unreadable)" for key in keys]


async def queue_of(app: App, module: str, work: Callable[[MessageBroker], Awaitable[T]], *, empty: T) -> T:
    """``work`` on the queue of ``module``; ``empty`` if nothing was ever put there.

    A queue of a module that is no longer in the configuration is as good as any. Raises UsageError if there is neither.
    """
    try:
        return await work(await app.broker())
    except QueueNotDeclared:
        names = list(app.config.modules)
        if module in names:
            return empty
        near = difflib.get_close_matches(module, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"--module: no module called {module[:80]!r}.{hint} Modules: {', '.join(names) or 'none'}."
        ) from None
