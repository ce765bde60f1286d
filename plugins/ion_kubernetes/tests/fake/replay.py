"""A life that was recorded: the status sequence of a real pod, played for one of ours."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plugins.ion_kubernetes.tests.fake.node import Pod
from plugins.ion_kubernetes.tests.fake.store import now

Json = dict[str, Any]
TRANSCRIPTS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/transcripts.json").read_text("utf-8"))
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_FORM = "%Y-%m-%dT%H:%M:%SZ"


def running(container: str) -> Callable[[Json], bool]:
    """For ``hold``: whether a status has that container running."""
    return lambda status: any(it["name"] == container and "running" in it["state"] for it in _all(status))


def never(status: Json) -> bool:
    return False


@dataclass
class Replay:
    """``name`` is that of a transcript. Times are those of now.

    ``pace`` is how long a recorded second takes, in seconds; 0: one state after the other at once. After the first
    state for which ``hold`` is true it stops, sets ``held``, and waits for ``go_on``. What somebody did to the recorded
    pod (``deleted``, ``forced``) is not played: it waits until somebody does it to this one. Deleted meanwhile, running
    containers end with ``exit_code``, if ``obeys`` is set, as it is at first, or once it is.
    """

    name: str = "ok"
    pace: float = 0
    hold: Callable[[Json], bool] = never
    exit_code: int = 143
    held: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    obeys: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.obeys.set()

    async def live(self, pod: Pod) -> None:
        play = asyncio.create_task(self._play(pod))
        stop = asyncio.create_task(pod.stopping.wait())
        try:
            await asyncio.wait([play, stop], return_when=asyncio.FIRST_COMPLETED)
            if play.done():
                play.result()
                await stop
        finally:
            play.cancel()
            stop.cancel()
            await asyncio.gather(play, stop, return_exceptions=True)
        await self.obeys.wait()
        await self._end(pod)

    async def _play(self, pod: Pod) -> None:
        before = 0.0
        for seconds, kind, object in self._events():
            await asyncio.sleep((seconds - before) * self.pace)
            before = seconds
            if kind == "DELETED":
                pod.node.remove(pod.key)
                return
            meta = {key: value for key, value in object["metadata"].items() if key != "name"}
            await pod.tell(
                status=self._status(object["status"], pod.object), spec=object.get("spec", {}), metadata=meta
            )
            if not self.held.is_set() and self.hold(object["status"]):
                self.held.set()
                await self.go_on.wait()
        await pod.deleted.wait()

    def _events(self) -> Iterator[tuple[float, str, Json]]:
        events = TRANSCRIPTS[self.name]["events"]
        start, began = min(map(_parsed, _TIME.findall(json.dumps(events)))), datetime.now(UTC)
        for seconds, kind, object in events[1:]:
            if self.name in ("deleted", "forced") and "deletionTimestamp" in object["metadata"]:
                return
            yield seconds, kind, _moved(object, start, began, self.pace)

    @staticmethod
    def _status(recorded: Json, object: Json) -> Json:
        """With the images of this pod."""
        status = copy.deepcopy(recorded)
        spec = object["spec"]
        images = {it["name"]: it["image"] for it in [*spec["containers"], *(spec.get("initContainers") or [])]}
        for it in _all(status):
            it["image"] = images.get(it["name"], it["image"])
        return status

    async def _end(self, pod: Pod) -> None:
        object = pod.object
        status = object.get("status", {})
        ran = False
        for it in _all(status):
            if running := it["state"].get("running"):
                ran = True
                ended = {"exitCode": self.exit_code, "reason": "Error" if self.exit_code else "Completed"}
                it["state"] = {"terminated": {**ended, **running, "finishedAt": now()}}
                it["ready"] = it["started"] = False
        if ran or status.get("phase") == "Pending":
            status["phase"] = "Failed"
            await pod.tell(status=status)


def _all(status: Json) -> list[Json]:
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _moved(value: Any, start: datetime, began: datetime, pace: float) -> Any:
    """Every time in it as if the recording had begun at ``began`` and gone by at ``pace``."""

    def moved(found: re.Match[str]) -> str:
        return (began + (_parsed(found[0]) - start) * pace).strftime(_FORM)

    return json.loads(_TIME.sub(moved, json.dumps(value)))


def _parsed(text: str) -> datetime:
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC)
