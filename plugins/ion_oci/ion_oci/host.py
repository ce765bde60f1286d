"""What this machine must have for containers as they are hardened: looked for when the runtime is opened."""

from __future__ import annotations

import os
import re
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ion_core.errors import ConfigError, ProviderError
from ion_oci.programs import run
from ion_oci.settings import OciSettings

PARENT = "ion-oci"
"""The control group that all containers are below."""

_ANSWERS_WITHIN = 10.0
_NEEDED = ("memory", "pids")
_BESIDE = "/usr/local/sbin:/usr/sbin:/sbin"
_OLDEST = {"runc": (1, 1), "crun": (1, 0), "conmon": (2, 1), "podman": (4, 3)}
_PACKAGES = (
    "Install it: on Debian and Ubuntu `apt-get install runc conmon podman`, on Fedora `dnf install runc podman`."
)
_RAISES_LIMITS = 1 << 24
"""CAP_SYS_RESOURCE, among the capabilities of a process."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The programs, each by its path."""

    oci: str
    conmon: str
    podman: str
    mount: str
    umount: str


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Where control groups are: ``unified`` is of version 2 alone. ``controllers`` are those that there are.

    ``conmons`` is a control group for conmon: whatever ends all processes of ours, as systemd does when it stops a
    service, ends no container's. None where systemd would know of none.
    """

    unified: bool
    hybrid: bool
    controllers: frozenset[str]
    conmons: Path | None = None

    @classmethod
    def found(cls, root: Path = Path("/sys/fs/cgroup")) -> Groups:
        unified = root / "cgroup.controllers"
        if unified.exists():
            controllers = frozenset(unified.read_text("ascii").split())
            return cls(unified=True, hybrid=False, controllers=controllers, conmons=root / PARENT / "conmon")
        each = (it.name for it in (root.iterdir() if root.is_dir() else ()) if (it / "cgroup.procs").exists())
        names = {part for name in each for part in name.split(",")}
        conmons = root / "systemd" / PARENT / "conmon" if "systemd" in names else None
        controllers = frozenset(names - {"unified", "systemd"})
        return cls(unified=False, hybrid="unified" in names, controllers=controllers, conmons=conmons)


async def tools_of(settings: OciSettings, environ: Mapping[str, str] = os.environ) -> Tools:
    """Raises ConfigError, with what would do, for one that is missing, too old, or refuses this machine."""
    path = f"{environ.get('PATH', os.defpath)}:{_BESIDE}"
    asked = [settings.runtime] if settings.runtime else ["runc", "crun"]
    where = settings.section.where("runtime")
    tools = Tools(
        oci=_found(asked, path, where),
        conmon=_found(["conmon"], path, where),
        podman=_found(["podman"], path, where),
        mount=_found(["mount"], path, where),
        umount=_found(["umount"], path, where),
    )
    for program in (tools.oci, tools.conmon, tools.podman):
        await _check_version(program, where)
    return tools


def _found(names: Sequence[str], path: str, where: str) -> str:
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        raise ConfigError(f"{where}: there is no {' or '.join(names)} on this machine. {_PACKAGES}")
    return found


async def _check_version(program: str, where: str) -> None:
    try:
        said = (await run([program, "--version"], timeout=_ANSWERS_WITHIN)).stdout
    except ProviderError as error:
        raise ConfigError(f"{where}: {error}") from error
    version = re.search(r"^(\w+) version (\d+)\.(\d+)", said, re.MULTILINE)
    if version is None or version[1] not in _OLDEST:
        raise ConfigError(f"{where}: {program} is none of {', '.join(_OLDEST)}: it says {said[:80]!r} of its version.")
    oldest = _OLDEST[version[1]]
    if (int(version[2]), int(version[3])) < oldest:
        needed = ".".join(map(str, oldest))
        raise ConfigError(
            f"{where}: {program}: version {version[2]}.{version[3]}; {needed} or newer is needed. Install a newer one, "
            "or use the runtime podman."
        )


def check_host(settings: OciSettings, tools: Tools, groups: Groups, user: int) -> None:
    """Raises ConfigError, with what would do, where no container would start as it is to be."""
    where = settings.section.where("runtime")
    if user != 0:
        raise ConfigError(
            f"{where}: containers are made without an engine, which takes root here; this is user {user}. Run "
            "`ion-core serve` as root, or use the runtime podman, whose service makes them for an ordinary user."
        )
    if missing := [name for name in _NEEDED if name not in groups.controllers]:
        raise ConfigError(
            f"{where}: containers have limits of memory and processes, but there is no control group controller for "
            f"{' and '.join(missing)} here. Enable them: in the kernel (cgroup_enable=memory), or for the container "
            "that this runs in (systemd: `Delegate=cpu cpuset io memory pids`)."
        )
    if groups.hybrid and "crun" in Path(tools.oci).name:
        raise ConfigError(
            f"{where}: crun refuses this machine's control groups (hybrid: of version 1 and 2). Install runc and set "
            "`runtime: runc`, or boot with systemd.unified_cgroup_hierarchy=1."
        )
    _check_nofile(settings)


def _check_nofile(settings: OciSettings) -> None:
    most = most_files()
    if settings.nofile is not None and settings.nofile > most:
        raise ConfigError(
            f"{settings.section.where('nofile')}: is {settings.nofile:,}, and this process may give another {most:,} "
            "open files at most (its hard limit). Set it lower, or raise that limit: LimitNOFILE= of the systemd unit, "
            "or `ulimit -Hn` before it is started."
        )


def most_files(proc: Path = Path("/proc")) -> int:
    """How many open files we may give another process."""
    status = (proc / "self/status").read_text(encoding="utf-8")
    capabilities = re.search(r"^CapEff:\s+([0-9a-f]+)", status, re.MULTILINE)
    if capabilities is not None and int(capabilities[1], 16) & _RAISES_LIMITS:
        return int((proc / "sys/fs/nr_open").read_text())
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
