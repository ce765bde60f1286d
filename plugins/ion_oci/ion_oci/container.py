"""One container that this process made: attached before it starts, its end known when conmon's is."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from ion_core.containers.limits import ControlGroup, Hits, size
from ion_core.containers.scope import Scope
from ion_core.contracts.output import KeptOutput
from ion_core.contracts.runtime import ContainerRef, ContainerState, ExitStatus
from ion_core.errors import ContainerNotFound, ProviderError, TransientError
from ion_oci import quick
from ion_oci.conmon import Attached, Conmon, command, start
from ion_oci.kept import Bundle
from ion_oci.oci import Oci
from ion_oci.programs import Exit
from ion_oci.refusals import refusal, said_of
from ion_oci.roots import Root
from ion_oci.spec import Wanted

_LARGEST_SIGNAL = 64
_DRAINED_WITHIN = 5.0
_REAL_TIME = re.compile(r"RTM(IN\+|AX-)(\d+)")


class Container:
    """From create to remove. ``ended`` is its exit status, or ContainerNotFound once it was removed without one."""

    def __init__(self, oci: Oci, wanted: Wanted, root: Root, bundle: Bundle) -> None:
        self.wanted = wanted
        self.bundle = bundle
        self._root = root
        self.ref = ContainerRef(id=bundle.record.id, name=bundle.record.name, image_digest=bundle.record.image)
        self.log = KeptOutput(wanted.spec.log_limit)
        self.ended: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self.pid = 0
        """Of its first process, which is there from ``make_ready`` on."""
        self._oci = oci
        self._where = f"container {self.ref.name}"
        self._conmon: Conmon | None = None
        self._first: Exit | None = None
        self._attached: Attached | None = None
        self._group = ControlGroup({})
        self._scope = Scope(self._group)
        self._hits = Hits()
        self._watching: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._is_started = False
        self._killed = False

    async def make_ready(self) -> None:
        """Namespaces made and attached; nothing of it runs. Raises what it means that it cannot be made."""
        argv = command(self._oci.tools, self.bundle, str(self._oci.state), self.wanted.spec.log_limit)
        conmon, why = await start(
            argv, self.bundle, group=self._oci.conmons, timeout=self._oci.timeout, where=self._where
        )
        if conmon is None:
            raise refusal(self._where, said_of(self.bundle.why(), why), pids=self.wanted.pids)
        self._conmon, self.pid = conmon, conmon.pid
        try:
            self._first = Exit(self.pid)
            self._attached = Attached(self.bundle, self.log)
        except OSError as error:
            raise TransientError(f"{self._where}: ended before it began: {error}") from error
        self._group = ControlGroup.of(self.pid)
        self._scope = Scope(self._group)
        self._scope.watch()
        self._watching = asyncio.create_task(self._until_ended(conmon), name=f"end of {self.ref.name}")

    @property
    def state(self) -> ContainerState:
        if self.ended.done():
            return ContainerState.EXITED
        return ContainerState.RUNNING if self._is_started else ContainerState.CREATED

    async def start(self) -> None:
        async with self._starting:
            if self._is_started:
                return
            self._is_started = await self._is_heard()
            if not self._is_started:
                raise ContainerNotFound(f"{self._where}: was ended before it began.")

    async def _is_heard(self) -> bool:
        """Whether the request to start was; not so where it has ended before."""
        if self._first is None or not self._runs():
            return False
        if await quick.start(self._notes, self._first.ended):
            return True
        said = await self._oci.start(self.ref.id) if self._runs() else None
        if said is None or said.code == 0:
            return said is not None
        if not self._runs():
            return False
        raise refusal(self._where, said_of("", said.stderr), pids=self.wanted.pids)

    async def stop(self, *, grace: timedelta) -> None:
        async with self._starting:
            if self.ended.done() or not self._is_started:
                return
        assert self._first is not None
        self._first.send(signal_of(self.wanted.stop_signal))
        if await self._ends_within(grace.total_seconds()):
            return
        self._killed = True
        await self.kill()

    async def delete(self) -> None:
        """What the OCI runtime has of it. All its processes have ended."""
        # Control groups take their time to go, in which others may start.
        is_known = bool(self._group.paths)
        if not is_known and not self._notes.exists():
            return  # it was never made
        if not is_known or not await asyncio.to_thread(quick.delete, self._notes, self._group, self.ref.id):
            await self._oci.delete(self.ref.id)

    @property
    def _notes(self) -> Path:
        return self._oci.state / self.ref.id

    async def kill(self) -> None:
        """All its processes; they have ended when this returns, of one that was never started too."""
        if self._first is None:
            return
        self._first.send(signal.SIGKILL)
        ends = self._first.within if self._watching is None else self._ends_within
        if not await ends(self._oci.timeout):
            raise TransientError(f"{self._where}: did not end within {self._oci.timeout:g} s of SIGKILL.")

    async def discard(self) -> None:
        """It is gone: nobody waits for it or follows it any longer."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        if not self.ended.done():
            self._fail(ContainerNotFound(f"{self._where}: was removed."))
        for held in (self._attached, self._first, self._conmon):
            if held is not None:
                held.close()
        self._scope.close()
        self.log.close()

    async def _ends_within(self, seconds: float) -> bool:
        done, _ = await asyncio.wait({self.ended}, timeout=seconds)
        return bool(done)

    def _runs(self) -> bool:
        return self._first is not None and not self._first.ended.done()

    async def _until_ended(self, conmon: Conmon) -> None:
        assert self._first is not None
        assert self._attached is not None
        await asyncio.wait({conmon.ended})
        await asyncio.wait({self._attached.ended}, timeout=_DRAINED_WITHIN)
        self._hits = self._scope.hits()  # its control group is there until it is deleted
        code = self.bundle.code()
        if code is None:
            await self._without_conmon()
        elif code and not self._killed and not self._root.is_there():
            self._fail(
                TransientError(
                    f"{self._where}: its image was removed or unmounted while it ran, and it ended with {code}. Images "
                    "that modules run in are not in use by any container of Podman: `podman image prune --all` removes "
                    "them as well."
                )
            )
        else:
            self.ended.set_result(self._status(code))
        self._scope.close()
        self.log.close()

    async def _without_conmon(self) -> None:
        """Somebody killed conmon: nobody will know how this ends, and nobody hears it. So it ends now."""
        assert self._first is not None
        self._first.send(signal.SIGKILL)
        await self._first.within(self._oci.timeout)
        self._fail(TransientError(f"{self._where}: its conmon was killed, so that nobody knows how it ended."))

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
    """conmon tells a death by a signal as a shell does, by 128 + signal, and nothing else."""
    number = code - 128 if 128 < code <= 128 + _LARGEST_SIGNAL else None
    return ExitStatus(code=code, signal=number, limit=limit)


def signal_of(name: str) -> int:
    """``SIGINT``, ``INT``, ``2`` or ``SIGRTMIN+3`` as a number; that of SIGTERM for what is none."""
    name = name.upper().removeprefix("SIG")
    if name.isascii() and name.isdecimal():
        return int(name) if 0 < int(name) <= _LARGEST_SIGNAL else signal.SIGTERM
    if found := _REAL_TIME.fullmatch(name):
        offset = int(found[2])
        number = signal.SIGRTMIN + offset if found[1] == "IN+" else signal.SIGRTMAX - offset
        return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else signal.SIGTERM
    with suppress(KeyError):
        return signal.Signals[f"SIG{name}"]
    return signal.SIGTERM


def is_of(pid: int, id: str) -> bool:
    """Whether that process is in the container with this id, as its control group tells."""
    try:
        return pid > 0 and id in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return False
