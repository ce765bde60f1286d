"""Opening what was chosen, within bounds: what a plugin may not do is told as its fault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from ion_core.errors import ConfigError, TransientError
from ion_core.opening.blame import blamed, naming
from ion_core.opening.chosen import Chosen

log = logging.getLogger(__name__)

OPEN_WITHIN = 45.0
"""Seconds a provider gets to open."""


@asynccontextmanager
async def opened(chosen: Chosen) -> AsyncIterator[Any]:
    """What a section chooses, open meanwhile.

    Raises what the contract allows, a ConfigError with the section named in it; TransientError when it takes too long;
    and PluginFailed for anything else that the plugin does. An error from within comes out as it is: what closing
    raises is then logged.
    """
    try:
        async with asyncio.timeout(OPEN_WITHIN) as bound:
            with blamed(chosen, "opened"):
                opening = _opening(chosen)
                provider = await opening.__aenter__()
    except ConfigError as error:
        if (named := naming(chosen, error)) is not error:
            raise named from error
        raise
    except TimeoutError:
        if not bound.expired():
            raise
        raise TransientError(
            f"{chosen.where}: {chosen.provider.name} did not open within {OPEN_WITHIN:.0f} s. Is it reachable?"
        ) from None
    try:
        if provider is None:
            raise chosen.fault("opened as None, which is nothing")
        yield provider
    except BaseException as error:
        try:
            await opening.__aexit__(type(error), error, error.__traceback__)
        except (Exception, SystemExit) as another:
            if another is not error:
                about = {"section": chosen.section.key, "plugin": chosen.plugin}
                log.error("a provider failed when closed", extra=about, exc_info=another)
        raise
    with blamed(chosen, "closed"):
        await opening.__aexit__(None, None, None)


def _opening(chosen: Chosen) -> AbstractAsyncContextManager[Any]:
    found = chosen.provider.open(chosen.settings)
    if isinstance(found, AbstractAsyncContextManager):
        return found
    if isinstance(found, Coroutine):
        found.close()  # it is never awaited, and would say so
    raise chosen.fault(f"opened as {type(found).__name__}, which is no asynchronous context manager")
