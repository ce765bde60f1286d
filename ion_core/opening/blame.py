"""Whose fault it is: what a provider raises names the section that chose it; what none may raise, its plugin too."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from contextlib import contextmanager

from ion_core.errors import ConfigError, IonError
from ion_core.opening.chosen import Chosen


@contextmanager
def blamed(chosen: Chosen, doing: str) -> Iterator[None]:
    """Around a call of a provider. ``doing`` is what was asked of it, such as ``opened``.

    Raises PluginFailed from whatever the call raised that is no IonError, SystemExit included; so does a cancellation
    that nobody asked for, which would end a task without a word.
    """
    try:
        yield
    except IonError:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise chosen.fault(f"cancelled itself when {doing}") from error
    except (Exception, SystemExit, BaseExceptionGroup) as error:
        text = " ".join(_text(error).split()).rstrip(".")
        what = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise chosen.fault(f"raised {what[:400]} when {doing}") from error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failed:  # its own words are the plugin's code, too
        return f"an error whose text cannot be had ({type(failed).__name__})"


def naming(chosen: Chosen, error: IonError) -> IonError:
    """The same error; one that does not name the section does so from now on."""
    if isinstance(error, ConfigError):
        named = [it if chosen.section.key in it else f"{chosen.where}: {it}" for it in error.problems]
        return error if tuple(named) == error.problems else ConfigError(named)
    if chosen.section.key in str(error):
        return error
    found = copy.copy(error)
    found.args = (f"{chosen.where}: {error}",)
    found.__cause__ = error
    return found
