"""The container runtime contract: create, start, wait, logs, stop, remove, find.

Every rule is a sentence in ``docs/contracts/runtime.md`` and a test of ``ion_core.testing.runtime``.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Limits of one container; None is the runtime's own default. ``memory`` in bytes, ``gpus`` as CDI names.

    ``shm`` is the size of ``/dev/shm`` in bytes; what is in it counts as memory.
    """

    cpus: float | None = None
    memory: int | None = None
    pids: int | None = None
    shm: int | None = None
    gpus: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class PythonEnvironment:
    """Which ``python3`` a module finds in a runtime without images; where images run it is the image's.

    ``requirements`` is a file of pip's, for an environment of the module's own: made before the first container, and
    another one when the file says something else. With ``ion`` it is what Ion itself is installed in.
    """

    requirements: Path | None = None
    ion: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """What to make. Nothing of an event is in here: environment and labels belong to a slot, made ahead of its event.

    ``name``       unique, ``^[a-z0-9][a-z0-9-]{0,62}$``.
    ``module``     whose container it is, for settings that are made for modules by their names.
    ``image``      what to run, for runtimes that take images; with ``command`` empty, the image's own command.
    ``build``      directory that ``image`` is made from, or an image without a name of its own where that is None:
                   before the first container, and again when something in it has changed.
    ``command``    argv, in place of the image's ENTRYPOINT and CMD; under a runtime without images the program and its
                   arguments.
    ``args``       arguments behind ``command``; without one, for the image's ENTRYPOINT, in place of its CMD.
    ``source``     directory of the module's own files, for runtimes without images: where ``command`` starts.
    ``python``     which Python it finds, for runtimes without images; without it, one with no packages of ours.
    ``workspace``  directory the module sees as ``/ion`` (or finds through ``HANDLER_BASE_DIR``).
    ``network``    ``none``, ``bridge``, ``host`` or a network's name.
    ``log_limit``  bytes of output kept; the middle of what is more is dropped and said to be.
    """

    name: str
    module: str | None = None
    image: str | None = None
    build: Path | None = None
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    source: Path | None = None
    python: PythonEnvironment | None = None
    workspace: Path
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    network: str = "none"
    log_limit: int = 1 << 20

    @property
    def argv(self) -> Sequence[str]:
        """``command`` with its arguments; empty where the image says what runs."""
        return (*self.command, *self.args) if self.command else ()


@dataclass(frozen=True, kw_only=True)
class ContainerRef:
    """A made container. ``image_digest`` is what ``image`` resolved to, None without images."""

    id: str
    name: str
    image_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExitStatus:
    """How it ended. ``code`` as a shell gives it: 128 + signal for a death by signal, which is in ``signal`` too.

    ``limit`` names the limit that ended it, such as ``memory 512 MiB``, where the runtime knows or strongly suspects.
    Beside code 0 too: then a process of it was killed for that limit, and the first one took no notice.
    """

    code: int
    signal: int | None = None
    limit: str | None = None


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of output without its newline; bytes that are no UTF-8 are replaced. ``at`` in seconds since 1970."""

    stream: Literal["stdout", "stderr"]
    text: str
    at: float


class ContainerState(Enum):
    """``created`` not started yet · ``running`` · ``exited`` ended, not removed."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, kw_only=True)
class ContainerStatus:
    """A container as ``find`` sees it."""

    ref: ContainerRef
    state: ContainerState
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class RuntimeCapabilities:
    """What this runtime offers. What a module asks for and is not offered is refused when the config is checked.

    ``images``              runs images; without it modules need ``command`` (and ``source``).
    ``builds``              makes images from ``build``; a runtime without images ignores ``image`` and ``build``.
    ``isolates``            a module cannot reach the host's files, processes and network beyond what it was given.
    ``inputs_read_only``    the module cannot write to ``in/``, not even as root: inputs may be hard links.
    ``shm_size``            gives a ``/dev/shm`` of the size that is asked for.
    ``shares_workspace``    sees the dispatcher's directories (else the three steps run inside it).
    ``handler_api``         a module can call its handler at ``localhost:$HANDLER_PORT``; see ``listen``.
    ``networks``            network modes a module may ask for; a restriction it cannot enforce is in its ``notice``.
    ``networks_for``        what the modules of these names may ask for besides, as they were allowed by name.
    ``named_networks``      takes any other name as that of a network which somebody has made.
    ``notice``              one sentence for the log at start, such as "isolates nothing"; empty for none.
    """

    images: bool
    builds: bool = False
    isolates: bool
    inputs_read_only: bool
    shares_workspace: bool = True
    memory_limit: bool
    cpu_limit: bool
    pids_limit: bool
    gpus: bool
    handler_api: bool
    networks: frozenset[str]
    networks_for: Mapping[str, frozenset[str]] = field(default_factory=dict)
    named_networks: bool = False
    shm_size: bool = False
    notice: str = ""


class ContainerRuntime(Protocol):
    """Runs containers. Safe for concurrent use by the tasks of one event loop.

    Every method is bounded in time but ``wait`` and following ``logs``; a service that does not answer is a
    TransientError. Cancelling any method leaves the container as it was or as the method would have left it.
    """

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    async def create(self, spec: ContainerSpec) -> ContainerRef:
        """Make a container ready to start: image present, workspace mounted, namespaces made. Nothing of it runs.

        With the name of one that exists: that one, if labels agree; PermanentError otherwise. Raises
        ImageUnavailable, also where ``build`` makes none; PermanentError when it could never start (no such program,
        no such source).
        """

    async def start(self, ref: ContainerRef) -> None:
        """Start it. Idempotent while it runs and after it has ended: it never runs twice.

        Raises ContainerNotFound; PermanentError when the program cannot be executed.
        """

    async def listen(self, ref: ContainerRef, port: int) -> socket.socket | None:
        """A socket that listens at 127.0.0.1:``port`` as the container sees it; None where it shares our loopback.

        Whoever is given it serves and closes it. May be called once after ``create``, before ``start`` or after; waits
        for the start where the container has no network before. None too where ``handler_api`` is not offered, or the
        container has ended. Raises ContainerNotFound; PermanentError when the container's network cannot be entered:
        the attempt fails at once then, as a failed module.
        """

    async def wait(self, ref: ContainerRef) -> ExitStatus:
        """Until it has ended; any exit code is data. May be called again, by many, and after the end.

        Cancelling ``wait`` stops nothing. When it returns no process of the container runs any more. Raises
        ContainerNotFound.
        """

    def logs(self, ref: ContainerRef, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """What it printed so far, from the start, in order of arrival; with ``follow`` until it has ended."""

    async def stop(self, ref: ContainerRef, *, grace: timedelta) -> None:
        """SIGTERM, or the signal that its image names instead, and SIGKILL after ``grace``; returns once it has ended.

        This call is idempotent, and must not raise if the container has ended, was never started, or is gone.
        """

    async def remove(self, ref: ContainerRef) -> None:
        """Remove it, killing it first if it runs. Idempotent; fine if gone."""

    async def find(self, labels: Mapping[str, str]) -> Sequence[ContainerStatus]:
        """Containers that have every one of ``labels``, also those made by an earlier process."""


@dataclass(frozen=True, kw_only=True)
class Foreground:
    """A program of this machine to be run in the foreground: ``argv``, its whole environment, where it starts.

    Nothing of a container's environment is in ``argv``, which others on the machine can read.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path


@runtime_checkable
class InteractiveRuntime(Protocol):
    """What a ContainerRuntime may offer besides: a container on the user's own terminal, for `ion-core debug`."""

    async def interactive(self, spec: ContainerSpec, *, terminal: bool) -> Foreground:
        """What to run so that ``spec`` runs with our standard input, output and error; nothing of it runs yet.

        As ``create`` and ``start`` would run it: image, environment, workspace, source, limits and isolation. Its exit
        code is the container's, and nothing is left when it has ended. ``terminal`` says that standard input is one.
        Raises as ``create``; PermanentError where a program that is needed for it is missing.
        """
