"""The calls of a module whose handler stands alone beside it: prepare when it is ready, commit when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ion_core.errors import IonError, OutOfTurn
from ion_core.handler.session import CallFailed

Step = Callable[[], Coroutine[Any, Any, None]]


class AloneCalls:
    """``prepare`` and ``commit`` do the work. With ``again``, ``/ready`` after ``/done`` prepares the next event."""

    def __init__(self, prepare: Step, commit: Step, *, again: bool) -> None:
        self._prepare = prepare
        self._commit = commit
        self._again = again
        self._under_way: asyncio.Task[None] | None = None
        self._is_prepared = False
        self._is_told = False
        self._is_committed = False

    async def ready(self) -> None:
        if self._is_committed and not self._again:
            raise OutOfTurn("this event is committed already")
        if self._is_told:
            raise OutOfTurn("/ready was answered already, for this event")
        if not self._is_prepared:  # else the module hung up before it was told
            await self._do(self._prepare_now)
        self._is_told = True

    async def done(self) -> None:
        if self._is_committed:
            raise OutOfTurn("this event is committed already")
        if not self._is_told:
            raise OutOfTurn("no event is prepared: call /ready first")
        await self._do(self._commit_now)

    async def _prepare_now(self) -> None:
        await self._prepare()
        self._is_prepared, self._is_committed = True, False

    async def _commit_now(self) -> None:
        await self._commit()
        self._is_prepared, self._is_told, self._is_committed = False, False, True

    async def _do(self, step: Step) -> None:
        """One at a time, and to its end, also when the module hangs up."""
        if self._under_way is not None:
            raise OutOfTurn("a call is under way")
        self._under_way = asyncio.create_task(step())
        try:
            await asyncio.wait({self._under_way})
            await self._under_way
        except asyncio.CancelledError:
            await asyncio.wait({self._under_way})
            raise
        except OutOfTurn:
            raise
        except IonError as error:
            raise CallFailed(str(error)) from error
        finally:
            self._under_way = None
