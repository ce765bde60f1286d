"""One watch for all pods with our labels: what is known of each, and who follows one is told.

A list, then a watch from its version on. However the watch ends – cut, silent, its version too old, the server
restarted – there is a list again, and what is not in it any more was deleted while nobody looked. Versions are numbers
that only grow: they say which of two states is the newer one, so that a list and a watch may be on their way together.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ion_core.errors import ProviderError, TransientError
from ion_kubernetes.api import PODS, Api, Json, WatchEvent
from ion_kubernetes.refusals import ApiRefused, ApiUnavailable, refusal

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
"""Seconds between one try and the next, doubled each time."""


@dataclass(frozen=True)
class PodState:
    """What is known of a pod. ``object`` is the newest that was seen of it, also when it is ``gone``.

    ``gone``: the API has no such pod any more, or it has lost the labels by which it is ours. It is the last state.
    ``unseen``: it went while nobody watched, so that ``object`` need not be its last state.
    """

    object: Json
    gone: bool = False
    unseen: bool = False

    @property
    def uid(self) -> str:
        return str(self.object["metadata"]["uid"])

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def version(self) -> int:
        return int(self.object["metadata"]["resourceVersion"])


@dataclass(eq=False)
class Follower:
    """Somebody who waits for a pod."""

    state: PodState
    """The newest."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def states(self) -> AsyncGenerator[PodState]:
        """What is known, at once, then what is newer; ends after a state that is gone.

        Those that came and went between two looks are left out: a pod's status tells all that counts of earlier ones.
        """
        while True:
            self._news.clear()
            state = self.state
            yield state
            if state.gone:
                return
            await self._news.wait()

    def tell(self, state: PodState) -> None:
        if not self.state.gone and (state.gone or state.version > self.state.version):
            self.state = state
            self._news.set()


class PodWatch:
    """The pods of the API's namespace that have these labels.

    Whoever makes one runs ``run`` as a task of its own, for as long as it is used. ``pause`` waits for so many seconds;
    ``silence`` is after how many without as much as a bookmark, which comes each minute, a watch counts as dead.
    ``told`` is given every state of every pod, as it comes.
    """

    def __init__(
        self,
        api: Api,
        labels: Mapping[str, str],
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        silence: float = 90,
        told: Callable[[PodState], None] | None = None,
    ) -> None:
        self._api = api
        self._told = told
        self._labels = dict(labels)
        self._pause = pause
        self._silence = silence
        self._pods: dict[str, PodState] = {}
        self._version = 0
        """Up to here everything is known: a pod that is not in ``_pods`` was not there at this version."""
        self._followers: dict[str, set[Follower]] = {}
        self._listing = asyncio.Lock()
        self._begun = 0
        self._ended: tuple[int, ProviderError | None] = (0, None)
        """Which list was the last one to end, and how."""
        self._failures = 0
        self._trouble: str | None = None

    @property
    def pods(self) -> Mapping[str, PodState]:
        """What is known, by uid. It may be some time old: see ``refreshed``."""
        return MappingProxyType(self._pods)

    @property
    def trouble(self) -> str | None:
        """Why nothing is learnt at the moment, for readiness. None: all is well."""
        return self._trouble

    async def refreshed(self) -> Mapping[str, PodState]:
        """All pods by uid, as they are at some moment after this call began: nothing older is left out or told.

        One list, and no more for many who ask at a time. Raises what a list raises: ApiUnavailable, ApiRefused.
        """
        asked = self._begun
        async with self._listing:
            number, error = self._ended
            if number <= asked:  # none that began after we asked
                self._begun = number = self._begun + 1
                error = await self._list()
                self._ended = (number, error)
            if error is not None:
                raise error
            return dict(self._pods)

    @contextmanager
    def following(self, pod: Mapping[str, Any]) -> Iterator[Follower]:
        """What becomes of a pod. ``pod`` is its object as the API gave it last, from ``create``, ``get`` or a list.

        The watch need not have seen it yet: by its version it is told from one that is gone already.
        """
        state = PodState(dict(pod))
        known = self._pods.get(state.uid)
        if known is not None and known.version > state.version:
            state = known
        elif known is None and self._version >= state.version:
            state = PodState(state.object, gone=True, unseen=True)
        follower = Follower(state)
        followers = self._followers.setdefault(state.uid, set())
        followers.add(follower)
        try:
            yield follower
        finally:
            followers.discard(follower)
            if not followers:
                self._followers.pop(state.uid, None)

    async def run(self) -> None:
        """Goes on until it is cancelled, whatever the API server does; pods that run know nothing of it."""
        lost = self._version == 0
        while True:
            error: ProviderError | None = None
            told = False
            try:
                if lost:
                    await self.refreshed()
                    lost, self._trouble = False, None
                async with aclosing(self._events()) as events:
                    async for event in events:
                        self._take(event)
                        told = True
                        self._heard()
            except (TransientError, ApiRefused) as failed:
                error, lost = failed, True
            if error is not None or not told:  # what ends at once, again and again, must not become a storm
                await self._rest(error)

    def _events(self) -> AsyncGenerator[WatchEvent]:
        return self._api.watch(PODS, str(self._version), labels=self._labels, silence=self._silence)

    def _heard(self) -> None:
        if self._failures:
            logger.info("the watch of pods goes on", extra={"namespace": self._api.namespace, "tries": self._failures})
        self._failures = 0

    async def _rest(self, error: ProviderError | None) -> None:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1)
        if error is not None:
            self._trouble = str(error)
            asked = error.retry_after if isinstance(error, ApiUnavailable) else None
            pause = max(pause, asked or 0)
            usual = isinstance(error, ApiRefused) and error.expired
            if self._failures == 0 and not usual:
                logger.warning(
                    "the watch of pods ended", extra={"namespace": self._api.namespace, "reason": self._trouble}
                )
        self._failures += 1
        await self._pause(pause)

    def _take(self, event: WatchEvent) -> None:
        """Raises ApiUnavailable or ApiRefused for an ERROR, 410 for a version that is too old."""
        if event.kind == "ERROR":
            code = event.object.get("code")
            raise refusal("kubernetes: watch of pods", code if isinstance(code, int) else 500, event.object)
        version = int(event.object["metadata"]["resourceVersion"])
        if event.kind == "DELETED":
            known = self._pods.get(event.object["metadata"]["uid"])
            if known is None or known.version <= version:
                self._gone(PodState(event.object, gone=True))
        elif event.kind in ("ADDED", "MODIFIED"):
            state = PodState(event.object)
            known = self._pods.get(state.uid)
            # Of a pod that is not known, a state not newer than all that is known: it went before the last list.
            if version > (self._version if known is None else known.version):
                self._seen(state)
        self._version = max(self._version, version)

    async def _list(self) -> ProviderError | None:
        """Takes a list over. What it raised, where it was not to be had."""
        before = self._version
        try:
            listed = await self._api.list(PODS, labels=self._labels)
        except (TransientError, ApiRefused) as error:
            return error
        version = int(listed["metadata"]["resourceVersion"])
        if version < before:
            # No server tells of a version and later of an earlier one, but one that was set back to a copy of its data.
            logger.warning(
                "Kubernetes was set back: what is known of pods is forgotten", extra={"was": before, "is": version}
            )
        elif version < self._version:
            return None  # the watch has told more meanwhile
        states = {it.uid: it for it in map(PodState, listed["items"])}
        for uid, known in list(self._pods.items()):
            if uid not in states:
                self._gone(PodState(known.object, gone=True, unseen=True))
        for state in states.values():
            self._seen(state)
        self._version = version
        self._miss(states)
        return None

    def _miss(self, listed: Mapping[str, PodState]) -> None:
        """Tells those who follow a pod that the list should have, and the watch never knew."""
        for uid, followers in list(self._followers.items()):
            if uid not in listed:
                for it in followers:
                    if it.state.version <= self._version:
                        it.tell(PodState(it.state.object, gone=True, unseen=True))

    def _seen(self, state: PodState) -> None:
        self._pods[state.uid] = state
        if self._told is not None:
            self._told(state)
        for it in self._followers.get(state.uid, ()):
            it.tell(state)

    def _gone(self, state: PodState) -> None:
        self._pods.pop(state.uid, None)
        if self._told is not None:
            self._told(state)
        for it in self._followers.get(state.uid, ()):
            it.tell(state)
