"""Running a module inside bubblewrap: it sees its source, its workspace and the system's programs, nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ion_core.contracts.loopback import listen_inside
from ion_core.contracts.runtime import ContainerSpec, RuntimeCapabilities
from ion_core.embedded.programs.start import limited
from ion_core.embedded.programs.table import descendants, is_running
from ion_core.errors import ConfigError
from ion_core.python_environments import visible_prefixes

BASE = "/ion/"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "alternatives", "ca-certificates", "group", "host.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "localtime", "nsswitch.conf", "passwd", "pki", "protocols", "services", "ssl",
)  # fmt: skip
_FORBIDDEN_BY = {
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
    "user/max_user_namespaces": "0",
}
_PATIENCE = 20.0
_LISTEN_WITHIN = 5.0
_ANY_PORT = 49152
"""In a network of its own all are free."""


CAPABILITIES = RuntimeCapabilities(
    images=False,
    isolates=True,
    inputs_read_only=True,
    memory_limit=True,
    cpu_limit=True,
    pids_limit=False,
    gpus=False,
    handler_api=True,
    networks=frozenset({"none", "host"}),
    notice="Under bubblewrap the pids setting is not enforced.",
)


def arguments(spec: ContainerSpec, bwrap: str, program: str, python: Path | None) -> list[str]:
    """The command line that runs ``program``, which is where it is outside, with the arguments of ``spec``.

    ``python`` is the module's own environment, which it may only read.
    """
    workspace = str(spec.workspace.absolute())
    source = str(spec.source.absolute()) if spec.source else None
    return [
        bwrap,
        *_surroundings(network=spec.network == "host"),
        *(word for path in _extra(spec, python) for word in ("--ro-bind", path, path)),
        *("--bind", workspace, BASE.rstrip("/")),
        *("--ro-bind-try", f"{workspace}/in", f"{BASE}in"),
        *("--remount-ro", "/", "--chdir", source or BASE),
        "--",
        *limited(spec, program),
    ]


def visible_path(spec: ContainerSpec, path: str, python: Path | None) -> str:
    """The entries of a PATH that are there inside."""
    roots = [Path(root) for root in (*_visible(network=False), *_extra(spec, python))]
    return os.pathsep.join(
        entry for entry in path.split(os.pathsep) if any(Path(entry).is_relative_to(root) for root in roots)
    )


async def listen(pid: int, port: int) -> socket.socket | None:
    """At the loopback interface of what runs inside; None without a network of its own, or if it has ended.

    Bubblewrap makes that network a moment after its own start. Raises OSError, after some tries.
    """
    pause = 0.005
    while True:
        try:
            for inside in (await asyncio.to_thread(descendants, pid))[:1]:
                return await asyncio.to_thread(listen_inside, inside, port)
            if not is_running(pid):
                return None
        except ProcessLookupError:
            return None
        except OSError:  # it has no loopback interface yet
            if pause > _LISTEN_WITHIN / 2:
                raise
        await asyncio.sleep(pause)
        pause *= 2


async def find_bubblewrap(where: str) -> str:
    """The path of ``bwrap``, after a try. Raises ConfigError saying what to install or which setting forbids it.

    ``where`` is who asks for it: it begins the error.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise ConfigError(f"{where}: there is no program bwrap. Install the package bubblewrap.")
    process = await asyncio.create_subprocess_exec(
        bwrap,
        *_surroundings(network=False),
        *("--", "/bin/sh", "-c", ":"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            _, said = await process.communicate()
    except TimeoutError:
        process.kill()
        raise ConfigError(f"{where}: {bwrap} did not start within {_PATIENCE:g} s.") from None
    if process.returncode != 0:
        because = "".join(f" The setting {name} forbids it." for name in _forbidding())
        raise ConfigError(f"{where}: {bwrap} does not work here: {said.decode(errors='replace').strip()}.{because}")
    return bwrap


async def why_not_called(bwrap: str) -> str:
    """Why what runs inside cannot call its handler on this machine, after a try; '' where it can."""
    process = await asyncio.create_subprocess_exec(
        bwrap,
        *_surroundings(network=False),
        *("--", "/bin/sh", "-c", "read end"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        if (listening := await listen(process.pid, _ANY_PORT)) is None:
            return "it ended by itself"
        listening.close()
        return ""
    except OSError as error:
        return error.strerror or str(error)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def _surroundings(*, network: bool) -> Sequence[str]:
    return [
        *("--unshare-all", *(("--share-net",) if network else ())),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
        *(word for path in _visible(network=network) for word in ("--ro-bind-try", path, path)),
    ]


def _visible(*, network: bool) -> Iterator[str]:
    yield from _SYSTEM
    yield from (f"/etc/{name}" for name in _ETC)
    if network:
        yield "/etc/resolv.conf"
    yield from visible_prefixes(ion=False)


def _extra(spec: ContainerSpec, python: Path | None) -> Iterator[str]:
    """What this one sees besides."""
    if spec.python is not None and spec.python.ion:
        yield from visible_prefixes(ion=True)
    for path in (python, spec.source):
        if path is not None:
            yield str(path.absolute())


def _forbidding() -> Iterator[str]:
    for name, value in _FORBIDDEN_BY.items():
        with suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == value:
                yield f"{name.replace('/', '.')} = {value}"
