"""What the kernel says of a folder, as a hint: which paths to look at before the folder is listed again.

It says nothing of network file systems, of files written through memory maps or other hard links, and not all where
much happens at once in new directories. So nothing is promised by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Set

log = logging.getLogger(__name__)

_GROUPED, _STEP, _ALIVE = 400, 50, 5_000
"""Milliseconds: changes are told together after at most the first, or when there was none for the second."""
_STARTED_WITHIN = 5.0
"""Seconds that are waited for the kernel to be asked. Where there are many directories it takes longer."""


class Hints:
    """Those of the directory that ``root`` is now, and with ``deep`` of all below, in a thread of its own.

    ``tell`` is called on the event loop, with absolute paths.
    """

    def __init__(self, root: str, *, deep: bool, tell: Callable[[Set[str]], None]) -> None:
        self._root = root
        self._deep = deep
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._started = asyncio.Event()

    async def start(self) -> None:
        """Returns once all that happens from now on is told, or cannot be, or it takes long."""
        threading.Thread(target=self._run, name="ion-watch", daemon=True).start()
        try:
            async with asyncio.timeout(_STARTED_WITHIN):
                await self._started.wait()
        except TimeoutError:
            log.info("watch: the kernel is asked to tell of %s, which takes long", self._root)

    def end(self) -> None:
        """Soon. Nothing is told after it."""
        self._ended.set()

    def _run(self) -> None:
        from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

        try:
            with RustNotify([self._root], False, False, 0, self._deep, True) as watcher:
                self._call(self._started.set)
                while not self._ended.is_set():
                    changes = watcher.watch(_GROUPED, _STEP, _ALIVE, self._ended)
                    if isinstance(changes, set):
                        self._call(self._told, {path for _, path in changes})
        except (OSError, WatchfilesRustInternalError) as error:
            log.warning("watch: the kernel does not tell of %s, which is listed only: %s", self._root, error)
            self._call(self._started.set)

    def _told(self, paths: set[str]) -> None:
        if not self._ended.is_set():
            self._tell(paths)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: there is nobody to tell
            self._loop.call_soon_threadsafe(function, *arguments)
