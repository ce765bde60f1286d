"""The same for scripts and notebooks: each call returns when it is done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ion_core.client.asking import NAME, AsyncFile, AsyncFlow, AsyncIon
from ion_core.client.values import Data, Files
from ion_core.contracts.looking import EventView, FlowSummary, JobView, LogView

T = TypeVar("T")


class _Loop:
    """An event loop in a thread of its own: a notebook has one in the thread of its cells already."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ion", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Interrupted, it is cancelled, and ends what it has begun before this raises."""
        if not self._thread.is_alive():
            work.close()
            raise RuntimeError("this Ion is closed. Do it within `with Ion.open(...)`.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def close(self) -> None:
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Held:
    """What is open between two calls: by a task, since providers are closed by the one that opened them."""

    def __init__(self, opening: AbstractAsyncContextManager[AsyncIon]) -> None:
        self._opening = opening
        self._done = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None

    async def open(self) -> AsyncIon:
        opened: asyncio.Future[AsyncIon] = asyncio.get_running_loop().create_future()
        self._holding = asyncio.create_task(self._hold(opened))
        both: set[asyncio.Future[Any]] = {opened, self._holding}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            await self._holding  # which raises
        return await opened

    async def close(self) -> None:
        self._done.set()
        assert self._holding is not None
        await self._holding

    async def _hold(self, opened: asyncio.Future[AsyncIon]) -> None:
        async with self._opening as ion:
            opened.set_result(ion)
            await self._done.wait()


class Ion:
    """A pipeline: ``with Ion.open("ion.yaml") as ion``, or ``Ion.connect(url, token=…)``. AsyncIon says all of it."""

    def __init__(self, ion: AsyncIon, loop: _Loop) -> None:
        self._ion = ion
        self._loop = loop

    @classmethod
    @contextmanager
    def open(cls, config: str | Path | None = None) -> Iterator[Ion]:
        """As ``AsyncIon.open``."""
        with cls._by(AsyncIon.open(config)) as ion:
            yield ion

    @classmethod
    @contextmanager
    def connect(
        cls, url: str, *, token: str | None = None, ca_file: str | Path | None = None, plain_http: bool = False
    ) -> Iterator[Ion]:
        """As ``AsyncIon.connect``."""
        with cls._by(AsyncIon.connect(url, token=token, ca_file=ca_file, plain_http=plain_http)) as ion:
            yield ion

    @classmethod
    @contextmanager
    def _by(cls, opening: AbstractAsyncContextManager[AsyncIon]) -> Iterator[Ion]:
        loop = _Loop()
        try:
            held = _Held(opening)
            ion = loop.run(held.open())
            try:
                yield cls(ion, loop)
            finally:
                loop.run(held.close())
        finally:
            loop.close()

    def publish(
        self,
        event_type: str,
        *,
        data: Data = (),
        files: Files = (),
        event_id: str | None = None,
        name: str = NAME,
    ) -> Flow:
        """As ``AsyncIon.publish``."""
        publishing = self._ion.publish(event_type, data=data, files=files, event_id=event_id, name=name)
        return Flow(self._loop.run(publishing), self._loop)

    def flow(self, correlation_id: str) -> Flow:
        """As ``AsyncIon.flow``."""
        return Flow(self._ion.flow(correlation_id), self._loop)


class Flow:
    """A flow: an event from outside, and all that follows from it. See AsyncFlow for all of it.

    A notebook shows it as its graph.
    """

    def __init__(self, flow: AsyncFlow, loop: _Loop) -> None:
        self._flow = flow
        self._loop = loop
        self.id = flow.id
        self.event_id = flow.event_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def outcome(self) -> str:
        """``done``, ``dead``, ``failed`` or ``running``: as it stands. ``state`` has more."""
        return self.state().outcome

    def state(self) -> FlowSummary:
        """As ``AsyncFlow.outcome``."""
        return self._loop.run(self._flow.outcome())

    def wait(self, timeout: float | None = None) -> FlowSummary:
        """As ``AsyncFlow.wait``."""
        return self._loop.run(self._flow.wait(timeout))

    def events(self) -> Sequence[EventView]:
        """As ``AsyncFlow.events``."""
        return self._loop.run(self._flow.events())

    def jobs(self) -> Sequence[JobView]:
        """As ``AsyncFlow.jobs``."""
        return self._loop.run(self._flow.jobs())

    def insights(self) -> list[dict[str, str | list[str]]]:
        """As ``AsyncFlow.insights``."""
        return self._loop.run(self._flow.insights())

    def files(self) -> list[File]:
        """As ``AsyncFlow.files``."""
        return [File(it, self._loop) for it in self._loop.run(self._flow.files())]

    def fetch(self, directory: str | Path) -> list[Path]:
        """As ``AsyncFlow.fetch``."""
        return self._loop.run(self._flow.fetch(directory))

    def logs(self, module: str | None = None) -> list[LogView]:
        """As ``AsyncFlow.logs``."""
        return self._loop.run(self._flow.logs(module))

    def _repr_html_(self) -> str:
        return self._loop.run(self._flow.html())


class File:
    """A file of a flow. See AsyncFile."""

    def __init__(self, file: AsyncFile, loop: _Loop) -> None:
        self._file = file
        self._loop = loop
        self.name = file.name
        self.size = file.size
        self.sha256 = file.sha256
        self.module = file.module
        self.event_id = file.event_id
        self.came_in = file.came_in

    def __repr__(self) -> str:
        return repr(self._file).replace("AsyncFile", "File", 1)

    def fetch(self, path: str | Path) -> Path:
        """As ``AsyncFile.fetch``."""
        return self._loop.run(self._file.fetch(path))
