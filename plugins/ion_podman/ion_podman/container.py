"""One container that this process made: attached before it starts, its end known when both its streams end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from ion_core.containers.limits import ControlGroup, Hits, size
from ion_core.containers.scope import Scope
from ion_core.containers.stored_log import Frames, StoredLog, unseen
from ion_core.contracts.output import KeptOutput, Stream
from ion_core.contracts.runtime import ContainerRef, ContainerState, ExitStatus
from ion_core.errors import ContainerNotFound, PermanentError, ProviderError, TransientError
from ion_podman.client import Answer, Attached, Client, frames_of
from ion_podman.exit_file import ExitFile
from ion_podman.spec import Wanted

STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_STDERR = 2

_LARGEST_SIGNAL = 64
_ENDED = {"exited", "stopped", "removing"}
_NOT_STARTED = {"created", "configured", "initialized"}
_NOT_RUNNING = ("can only kill running containers", "container state improper", "is not running", "no such process")
_AT_ONCE = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_OFTEN = 0.25
_WHILE_AWAY = 0.5
_TOO_FEW_PIDS = 16
"""Below it runc's own threads, of which it has a few while it sets a container up, may not find room: seen up to 5."""
_SAYS_WITHIN = 5.0
"""Seconds for Podman to say how one ended whose control group is gone: events wait for no service that is away."""


class ConmonGone(TransientError):
    """Who holds a container was killed, and the container was not."""


class Container:
    """From create to remove. ``ended`` is its exit status, or ContainerNotFound once it was removed without one."""

    def __init__(self, client: Client, wanted: Wanted, ref: ContainerRef) -> None:
        self.wanted = wanted
        self.ref = ref
        self.log = KeptOutput(wanted.spec.log_limit)
        self.ended: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._client = client
        self._where = f"container {ref.name}"
        self._path = f"/containers/{ref.id}"
        self._seen = dict.fromkeys(STREAMS, 0)
        self._stored = StoredLog()
        self._reading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.pid = 0
        """Of its first process, which is there from ``make_ready`` on."""
        self._starting = asyncio.Lock()
        self._asked_to_start = False
        self._killed = False
        self._scope = Scope(ControlGroup({}))
        self._exit_file = ExitFile()
        self._hits = Hits()

    async def make_ready(self) -> None:
        """Namespaces made, attached, and found to be as asked for: PermanentError names what is not."""
        await self._attach()  # which initialises it
        found = await inspect(self._client, self.ref)
        if differences := self.wanted.differences(found):
            raise PermanentError(f"{self._where}: Podman made it otherwise than asked for: {'; '.join(differences)}.")
        self.pid = found["State"]["Pid"]
        self._stored = StoredLog.of(found)
        self._scope.close()
        self._scope = Scope(ControlGroup.of(self.pid))
        self._scope.watch()
        self._exit_file = ExitFile.of(self.ref.id, found["State"].get("ConmonPid", 0))

    async def start(self) -> None:
        async with self._starting:
            if self._watching is not None:
                return
            if not self._asked_to_start or await state(self._client, self.ref) is ContainerState.CREATED:
                if self._reading is None or self._reading.done():  # the service went away while this waited
                    await self._attach()
                self._asked_to_start = True
                answer = await self._client.call("POST", f"{self._path}/start")
                if not answer.ok:
                    raise await self._refusal(answer)
            self._watch()

    async def stop(self, *, grace: timedelta) -> None:
        async with self._starting:
            if self.ended.done() or not self._asked_to_start:
                return
            if self._watching is None:  # nobody knows whether the start was heard
                if await state(self._client, self.ref) is ContainerState.CREATED:
                    return
                self._watch()
        await kill(self._client, self.ref, self.wanted.stop_signal)
        if await self._ends_within(grace.total_seconds()):
            return
        self._killed = True
        await kill(self._client, self.ref, "SIGKILL")
        if not await self._ends_within(self._client.timeout):
            raise TransientError(f"{self._where}: did not end within {self._client.timeout:g} s of SIGKILL.")

    async def discard(self) -> None:
        """It is gone: nobody waits for it or follows it any longer."""
        tasks = [task for task in (self._reading, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if not self.ended.done():
            self._fail(ContainerNotFound(f"{self._where}: was removed."))
        self._scope.close()
        self.log.close()

    async def _ends_within(self, seconds: float) -> bool:
        done, _ = await asyncio.wait({self.ended}, timeout=seconds)
        return bool(done)

    async def _attach(self) -> None:
        attached = await self._client.upgraded(f"{self._path}/attach", query={"stream": 1, "stdout": 1, "stderr": 1})
        if isinstance(attached, Answer):
            raise await self._refusal(attached)
        self._reading = asyncio.create_task(self._read(attached), name=f"output of {self.ref.name}")

    async def _refusal(self, answer: Answer) -> ProviderError:
        """What a refusal means: of one that somebody has removed in the midst of it, only that."""
        try:
            await inspect(self._client, self.ref)
        except ContainerNotFound as error:
            return error
        except ProviderError:
            pass
        refusal = answer.error(self._where)
        if isinstance(refusal, TransientError) and self.wanted.pids < _TOO_FEW_PIDS:
            return TransientError(
                f"{refusal} It may be for want of room: `pids` is {self.wanted.pids}, and the OCI runtime's threads "
                f"count as well while it sets a container up. Give it {_TOO_FEW_PIDS} or more."
            )
        return refusal

    async def _read(self, attached: Attached) -> None:
        try:
            async for number, data in attached.frames():
                self._add(number, data)
        finally:
            attached.close()
        self._hits = self._scope.hits()  # now: somebody is about to remove the control group

    def _add(self, number: int, data: bytes) -> None:
        number = number if number in STREAMS else _STDERR
        self._seen[number] += len(data)
        self.log.add(STREAMS[number], data, time.time())

    def _watch(self) -> None:
        self._watching = asyncio.create_task(self._until_ended(), name=f"end of {self.ref.name}")

    async def _until_ended(self) -> None:
        try:
            if self._reading is not None:
                await asyncio.wait({self._reading})
            code, disturbed = self._exit_file.code(), False
            if code is None:
                code, disturbed = await self._told_by_podman()
            # The streams may have ended because the service did, also where the container has ended since.
            await self._catch_up(disturbed=disturbed)
            if disturbed:
                self._hits = self._scope.hits()
            if self._hits.memory is None and not self._killed:
                self._hits = replace(self._hits, memory=await self._killed_for_memory())
        except ProviderError as error:
            self._fail(error)
        else:
            self.ended.set_result(self._status(code))
        self._scope.close()
        self.log.close()

    async def _told_by_podman(self) -> tuple[int, bool]:
        """As ``until_ended``. Where conmon was killed Podman would say for ever that it runs: so it ends now."""
        try:
            return await until_ended(self._client, self.ref, self._exit_file.may_come)
        except ConmonGone:
            await kill(self._client, self.ref, "SIGKILL")
            raise

    async def _killed_for_memory(self) -> int | None:
        """What Podman says of it where the control group was gone too early; older ones never say so."""
        try:
            async with asyncio.timeout(_SAYS_WITHIN):
                found = await last_state(self._client, self.ref)
        except (TimeoutError, ProviderError):
            return None  # then nobody knows, and no limit is named
        return 1 if found.get("OOMKilled") else None

    async def _catch_up(self, *, disturbed: bool) -> None:
        """What was printed while nobody was attached, from conmon's file, or by Podman if that cannot be read."""
        frames: Frames | None
        frames = self._stored.frames() if self._stored.is_short() else await asyncio.to_thread(self._stored.frames)
        if frames is None and disturbed:
            try:
                frames = await stored_frames(self._client, self.ref)
            except ProviderError as error:  # those lines are lost, and no more
                self._note(f"output may be missing here: {error}")
        for number, data in unseen(frames or (), self._seen):
            self._add(number, data)

    def _note(self, text: str) -> None:
        self.log.add("stderr", f"[… {text} …]\n".encode(), time.time())

    def _fail(self, error: ProviderError) -> None:
        self.ended.set_exception(error)
        self.ended.exception()  # nobody may be waiting, which is fine

    def _status(self, code: int) -> ExitStatus:
        limit = None
        if not self._killed:
            if self._hits.memory:
                limit = f"memory {size(self.wanted.memory)}"
            elif code and self._hits.pids:  # whom a fork was refused may have tried again
                limit = f"pids {self.wanted.pids}"
        return exit_status(code, limit)


def exit_status(code: int, limit: str | None = None) -> ExitStatus:
    """Podman tells a death by a signal as a shell does, by 128 + signal, and nothing else."""
    signal = code - 128 if 128 < code <= 128 + _LARGEST_SIGNAL else None
    return ExitStatus(code=code, signal=signal, limit=limit)


def state_of(word: str) -> ContainerState:
    """Podman's word for a state as the contract's."""
    if word in _NOT_STARTED:
        return ContainerState.CREATED
    return ContainerState.EXITED if word in _ENDED else ContainerState.RUNNING


async def inspect(client: Client, ref: ContainerRef) -> dict[str, Any]:
    """All that Podman knows of it. Raises ContainerNotFound."""
    answer = await client.call("GET", f"/containers/{ref.id}/json")
    if not answer.ok:
        raise answer.error(f"container {ref.name}")
    body: dict[str, Any] = answer.body
    return body


async def state(client: Client, ref: ContainerRef) -> ContainerState:
    """Raises ContainerNotFound."""
    return state_of((await inspect(client, ref))["State"]["Status"])


async def until_ended(
    client: Client, ref: ContainerRef, may_be_told: Callable[[], bool] = lambda: True
) -> tuple[int, bool]:
    """Its exit code, and whether that took more than a moment or the service was away meanwhile.

    Right after its streams have ended Podman may still say that it runs. Waits for as long as it runs; a service that
    does not answer is asked again. Raises ContainerNotFound, and ConmonGone where nobody ``may_be_told`` how it ends.
    """
    found, disturbed = await _ended_state(client, ref, may_be_told)
    return int(found["ExitCode"]), disturbed


async def last_state(client: Client, ref: ContainerRef) -> Mapping[str, Any]:
    """What Podman says of its end once it has noticed that. Waits as ``until_ended``."""
    found, _ = await _ended_state(client, ref)
    return found


async def _ended_state(
    client: Client, ref: ContainerRef, may_be_told: Callable[[], bool] = lambda: True
) -> tuple[Mapping[str, Any], bool]:
    delays: Iterator[float] = itertools.chain(_AT_ONCE, itertools.repeat(_OFTEN))
    disturbed = False
    while True:
        delay = next(delays)
        try:
            found: Mapping[str, Any] = (await inspect(client, ref))["State"]
        except TransientError:
            disturbed = True
            delay = max(delay, _WHILE_AWAY)
        else:
            if found["Status"] in _ENDED:
                return found, disturbed
            disturbed = disturbed or delay == _OFTEN
            if delay == _OFTEN and not may_be_told():
                raise ConmonGone(f"container {ref.name}: its conmon was killed, so that nobody knows how it ended.")
        await asyncio.sleep(delay)


async def kill(client: Client, ref: ContainerRef, signal: str) -> None:
    """Send a signal; fine if it does not run or is gone."""
    answer = await client.call("POST", f"/containers/{ref.id}/kill", query={"signal": signal})
    if not answer.ok and not answer.no_such_container and not any(it in answer.message for it in _NOT_RUNNING):
        raise answer.error(f"container {ref.name}")


async def delete(client: Client, ref: ContainerRef) -> None:
    """Kill and remove; fine if gone. Podman may refuse while it cleans up itself, so it is asked again for a while."""
    deadline = asyncio.get_running_loop().time() + client.timeout
    for delay in itertools.chain((0.02, 0.05, 0.1, 0.2), itertools.repeat(0.5)):
        query = {"force": True, "timeout": 0, "v": True}
        answer = await client.call("DELETE", f"/containers/{ref.id}", query=query)
        if answer.ok or answer.no_such_container:
            return
        if asyncio.get_running_loop().time() + delay > deadline:
            raise answer.error(f"container {ref.name}")
        await asyncio.sleep(delay)


async def stored_frames(client: Client, ref: ContainerRef) -> list[tuple[int, bytes]]:
    """The stream's number and a piece of output, for all that Podman's own log has."""
    query = {"stdout": True, "stderr": True, "follow": False}
    status, raw = await client.raw("GET", f"/containers/{ref.id}/logs", query=query)
    if status >= 400:
        raise Answer(status, raw.decode("utf-8", "replace")).error(f"container {ref.name}")
    return frames_of(raw)
