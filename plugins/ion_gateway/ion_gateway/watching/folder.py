"""One folder that is watched: looked at, again and again; what is complete is published, then noted, then settled.

In this order, so that a process that is killed at any moment publishes the same event again at worst.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Set
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from ion_core.contracts.messaging import RetryPolicy
from ion_core.contracts.service import ServiceHost
from ion_core.errors import InvalidEvent, IonError, PermanentError, TransientError
from ion_core.words import counted
from ion_gateway.watching.entries import Entry, Gone, Listing, Source, Unreadable, beside, event_id, unmarked
from ion_gateway.watching.hints import Hints
from ion_gateway.watching.notes import Notes
from ion_gateway.watching.settings import Folder
from ion_gateway.watching.threads import in_thread
from ion_gateway.watching.unsettled import Unsettled

log = logging.getLogger(__name__)
T = TypeVar("T")

AT_ONCE = 8
"""Files of a folder that are on their way at a time."""
ASKED_FOR = 50
"""Files of a URL that are asked for one by one; of more the folder is listed."""
AGAIN = RetryPolicy(initial=timedelta(seconds=1), maximum=timedelta(minutes=1))
"""How long to wait where a file cannot be read or published now."""
CHECKED_WITHIN = 5.0
"""Seconds that are waited for a folder at the start."""
ANSWERS_WITHIN = 600.0
"""Seconds until a server that says nothing is given up, if its driver does not do so. Long listings take minutes."""
FINISH_WITHIN = 3.0
"""Seconds that what is under way has when we are told to end. What is cut off then is done again later."""
_NOTES = "\0notes"
"""Under which it is known what was said of them. No path can be that."""


class WatchedFolder:
    """``name`` and ``service`` are what the configuration calls them; ``clock`` is in seconds and is never set."""

    def __init__(
        self,
        name: str,
        folder: Folder,
        source: Source,
        notes: Notes,
        *,
        service: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._folder = folder
        self._source = source
        self._notes = notes
        self._service = service
        self._clock = clock
        self._published: dict[str, str] = {}
        self._unsettled = Unsettled(folder.waits)
        self._taken: asyncio.Queue[Entry | None] = asyncio.Queue()
        self._busy: dict[str, str] = {}
        """Versions of files that are taken, until nothing more is to be done for them."""
        self._changed: set[str] = set()
        """Of these, the ones that were seen to be others meanwhile."""
        self._copies: list[Path] = []
        """Of these, the ones that are being fetched."""
        self._answers = 0
        """Calls of the source that were answered."""
        self._later: dict[str, tuple[float, Entry]] = {}
        """Of these, the ones that are tried again, and when."""
        self._failures: dict[str, int] = {}
        self._unnoted: dict[str, str] = {}
        """Versions of these that were published, which could not be noted yet."""
        self._refused: dict[str, str] = {}
        self._said: dict[str, str] = {}
        """What was said last of a file, or of '', the folder: it is not said again."""
        self._trouble = 0
        self._down_until = 0.0
        self._hinted: set[str] = set()
        self._hints: Hints | None = None
        self._identity: tuple[int, int] | None = None
        self._wake = asyncio.Event()

    async def check(self, stop: asyncio.Event) -> None:
        """Raises ConfigError for what only a change of the configuration can mend, as far as that is seen soon."""
        checking = asyncio.create_task(self._ask(self._source.check))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({checking, stopping}, timeout=CHECKED_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if checking.done():
                await checking
            elif not stop.is_set():
                log.warning("watch %s: %s does not answer; it is waited for", self._name, self._source.place)
        finally:
            checking.cancel()
            stopping.cancel()

    async def run(self, host: ServiceHost, stop: asyncio.Event) -> None:
        """Publish what comes until ``stop``. Raises StateError where what is published cannot be noted."""
        self._published = await self._call(self._notes.published, self._name)
        try:
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(self._look(stop))
                workers = [tasks.create_task(self._publish_taken(host, stop)) for _ in range(AT_ONCE)]
                await stop.wait()
                self._wake.set()
                for _ in workers:
                    self._taken.put_nowait(None)
                _, hanging = await asyncio.wait([looking, *workers], timeout=FINISH_WITHIN)
                for task in hanging:
                    task.cancel()
        finally:
            if self._hints is not None:
                self._hints.end()
            await asyncio.wait({asyncio.create_task(self._call(self._source.close))}, timeout=FINISH_WITHIN)

    # What is there.

    async def _look(self, stop: asyncio.Event) -> None:
        """List the folder at the start and every so often; in between look at what is hinted at, and what is due."""
        next_listing = self._clock()
        while not stop.is_set():
            self._wake.clear()
            if self._clock() >= next_listing:
                await self._list()
                next_listing = self._clock() + self._folder.every.total_seconds()
            self._try_again()
            paths, self._hinted = self._hinted, set()
            paths.update(self._unsettled.due(self._clock()))
            if len(paths) > ASKED_FOR and not self._source.local:
                await self._list()
            elif paths:
                await self._look_at(paths)
            times = [next_listing, *(due for due, _ in self._later.values())]
            if (due := self._unsettled.next()) is not None:
                times.append(due)
            await self._woken(min(times) - self._clock())

    async def _woken(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()

    async def _list(self) -> None:
        await self._ask_for_hints()
        try:
            listing = await self._ask(self._source.list)
        except TransientError as error:
            every = self._folder.every.total_seconds()
            self._say("", "watch %s: cannot be listed, which is tried every %g s: %s", self._name, every, error)
            self._unsettled.keep(())
            return
        if self._said.pop("", None) is not None:
            log.info("watch %s: is there again", self._name)
        self._take(listing)
        if not listing.whole:
            return
        here = listing.entries
        self._unsettled.keep(here)
        for known in (self._said, self._refused):
            for path in [it for it in known if it not in here and it not in listing.problems and it[:1] != "\0"]:
                del known[path]
        try:
            ended = await self._call(self._notes.seen, self._name, [*here], time.time())
        except TransientError as error:
            self._say_of_notes(error)
            return
        for path in ended:
            self._published.pop(path, None)

    async def _ask_for_hints(self) -> None:
        """Of the directory that is there now. One that was made anew is another, of which nothing would be told."""
        identity = await self._call(self._source.identity)
        if identity == self._identity:
            return
        if self._hints is not None:
            self._hints.end()
            self._hints = None
        self._identity = identity
        if identity is not None:
            self._hints = Hints(self._source.place, deep=self._folder.compiled.deep, tell=self._hint)
            await self._hints.start()

    def _hint(self, paths: Set[str]) -> None:
        if self._source.place in paths:
            self._identity = None  # it went; what comes in its place may have its number
        root = self._source.place.rstrip("/") + "/"
        below = (path.removeprefix(root) for path in paths if path.startswith(root))
        self._hinted.update(path for path in below if not any(part.startswith(".") for part in path.split("/")))
        self._wake.set()

    async def _look_at(self, paths: set[str]) -> None:
        mark = self._folder.done
        if mark is not None:
            paths |= {path[: -len(mark)] if path.endswith(mark) else path + mark for path in paths}
        try:
            listing = await self._ask(self._source.look, [*paths])
        except TransientError as error:
            log.debug("watch %s: %s; it is listed later", self._name, error)
            self._unsettled.forget([*paths])
            return
        self._unsettled.forget([path for path in paths if path not in listing.entries])
        self._take(listing)

    def _take(self, listing: Listing) -> None:
        """What is complete, and was not published yet. Or was, and has not gone where it is to go."""
        for path, problem in listing.problems.items():
            self._say(path, "watch %s: %r %s", self._name, path, problem)
        now = self._clock()
        for path, entry in unmarked(listing, self._folder.done).items():
            if path in self._busy:
                if self._busy[path] != entry.version:
                    self._changed.add(path)
            elif self._published.get(path) == entry.version:
                self._unsettled.forget([path])
                if self._folder.after != "keep":
                    self._begin(entry)
            elif self._refused.get(path) == entry.version:
                self._unsettled.forget([path])
            elif self._unsettled.settled(entry, now):
                self._begin(entry)

    def _begin(self, entry: Entry) -> None:
        self._busy[entry.path] = entry.version
        self._taken.put_nowait(entry)

    # What is done with it.

    async def _publish_taken(self, host: ServiceHost, stop: asyncio.Event) -> None:
        while (entry := await self._taken.get()) is not None and not stop.is_set():
            if self._published.get(entry.path) != entry.version:
                await self._while_down(stop)
                if stop.is_set():
                    return
                if not await self._publish(host, entry):
                    continue
            if self._folder.after != "keep":
                await self._settle(entry)
            self._let_go(entry)

    async def _while_down(self, stop: asyncio.Event) -> None:
        while (seconds := self._down_until - self._clock()) > 0 and not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await stop.wait()

    def _let_go(self, entry: Entry) -> None:
        """Nothing more is to be done for it. Where it was seen to change meanwhile it is looked at again."""
        self._busy.pop(entry.path, None)
        self._failures.pop(entry.path, None)
        if entry.path in self._changed:
            self._changed.discard(entry.path)
            self._hinted.add(entry.path)
            self._wake.set()

    async def _publish(self, host: ServiceHost, entry: Entry) -> bool:
        """Whether it was, and is noted. If not it is tried again later, or let go."""
        if self._unnoted.get(entry.path) != entry.version:
            copy = host.work / secrets.token_hex(8)
            self._copies.append(copy)
            try:
                published = await self._try(host, entry, copy)
            except BaseException:
                copy.unlink(missing_ok=True)
                raise
            finally:
                self._copies.remove(copy)
            await self._call(partial(copy.unlink, missing_ok=True))
            if not published:
                return False
            self._unnoted[entry.path] = entry.version
        try:
            await self._call(self._notes.note, self._name, entry.path, entry.version)
        except TransientError as error:
            self._not_now(entry, error)
            return False
        del self._unnoted[entry.path]
        self._published[entry.path] = entry.version
        if self._trouble:
            log.info("watch %s: goes on", self._name)
        self._trouble, self._down_until = 0, 0.0
        for said in (entry.path, _NOTES):
            self._said.pop(said, None)
        return True

    async def _try(self, host: ServiceHost, entry: Entry, copy: Path) -> bool:
        event = event_id(self._service, self._name, entry)
        try:
            await self._ask(self._source.fetch, entry, copy)
            await host.publish(
                self._folder.type,
                data=[*self._folder.data.items(), ("folder", self._name), ("path", entry.path)],
                files={entry.name: copy},
                event_id=event,
                correlation_id=event,
                consume=True,
            )
        except Gone:
            self._let_go(entry)
            return False
        except Unreadable as error:
            self._say(entry.path, "watch %s: %r %s. It is tried again.", self._name, entry.path, error)
            self._put_off(entry)
            return False
        except (InvalidEvent, PermanentError) as error:
            self._refused[entry.path] = entry.version
            self._say(
                entry.path,
                "watch %s: %r was refused: %s. It is left alone until it changes, or serve starts anew.",
                self._name,
                entry.path,
                str(error).rstrip("."),
                about=f"{entry.version} {error}",
                level=logging.ERROR,
            )
            self._let_go(entry)
            return False
        except IonError as error:  # of the providers, whatever it is: the file is as good as any
            self._not_now(entry, error)
            return False
        return True

    def _not_now(self, entry: Entry, error: IonError) -> None:
        """All wait a while, then try again. Said once, however many files it meets."""
        if not self._trouble:
            waiting = counted(len(self._busy), "file")
            self._say(
                entry.path,
                "watch %s: %r cannot be published now: %s. It is tried again, %s in all.",
                self._name,
                entry.path,
                str(error).rstrip("."),
                waiting,
                about=str(error),
            )
        if self._clock() >= self._down_until:
            self._trouble += 1
            self._down_until = self._clock() + AGAIN.delay(self._trouble, random.uniform(-1, 1)).total_seconds()
        self._put_off(entry)

    def _put_off(self, entry: Entry) -> None:
        """Only this file, for longer each time. It is as it was listed then, or another one."""
        failures = self._failures[entry.path] = self._failures.get(entry.path, 0) + 1
        due = self._clock() + AGAIN.delay(failures, random.uniform(-1, 1)).total_seconds()
        self._later[entry.path] = (due, entry)
        self._wake.set()

    def _try_again(self) -> None:
        now = self._clock()
        for path, (due, entry) in [*self._later.items()]:
            if due <= now:
                del self._later[path]
                self._taken.put_nowait(entry)

    async def _settle(self, entry: Entry) -> None:
        """Moved or deleted, if it is still what was published. If that fails, it is tried again at the next listing."""
        event = event_id(self._service, self._name, entry)
        doing = "deleted" if self._folder.after == "delete" else "moved"
        try:
            if self._folder.after == "delete":
                await self._ask(self._source.delete, entry, self._folder.done)
            else:
                await self._ask(self._source.move, entry, self._folder.done, beside(entry.path, event))
        except Gone:
            return
        except TransientError as error:
            self._say(
                f"\0{doing}",  # which no path can be
                "watch %s: what was published cannot be %s, which is tried every %g s: %s",
                self._name,
                doing,
                self._folder.every.total_seconds(),
                error,
                about=type(error.__cause__).__name__,  # one for all files that meet the same
            )
            return
        self._said.pop(f"\0{doing}", None)
        try:
            await self._call(self._notes.forget, self._name, entry.path)
        except TransientError as error:
            self._say_of_notes(error)  # as a file that is gone it is forgotten in time
            return
        self._published.pop(entry.path, None)

    def _say_of_notes(self, error: TransientError) -> None:
        self._say(_NOTES, "watch %s: which files are gone cannot be noted now: %s", self._name, error)

    def _say(
        self, about_path: str, message: str, *given: object, about: str = "", level: int = logging.WARNING
    ) -> None:
        """Once, until it is another thing that is to be said, or the file is gone."""
        text = about or message % given
        if self._said.get(about_path) != text:
            self._said[about_path] = text
            log.log(level, message, *given)

    async def _ask(self, function: Callable[..., T], *arguments: object) -> T:
        """Of the source. Raises TransientError where its server does not answer.

        That is seen by all calls together: many drivers make them one after the other, and a large file takes long.
        """
        if self._source.local:  # of one that hangs we hear when it is there again
            return await self._call(function, *arguments)
        asking = asyncio.create_task(self._call(function, *arguments))
        try:
            signs = self._signs_of_life()
            while not (await asyncio.wait({asking}, timeout=ANSWERS_WITHIN))[0]:
                before, signs = signs, self._signs_of_life()
                if signs == before:
                    self._source.give_up()
                    raise TransientError(f"{self._source.place}: gave no answer for {ANSWERS_WITHIN:g} s")
            self._answers += 1
            return await asking
        finally:
            asking.cancel()

    def _signs_of_life(self) -> tuple[int, list[int]]:
        return self._answers, [_size(copy) for copy in self._copies]

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """In a thread of its own: a server that hangs holds up nobody else."""
        return await in_thread(f"ion-watch-{self._name}", function, *arguments)


def _size(file: Path) -> int:
    """-1 of what is not there."""
    try:
        return file.stat().st_size
    except OSError:
        return -1
