"""What this machine lacks for any container to start as it is hardened: told when the runtime is opened."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ion_core.errors import ConfigError

_NEEDED = ("memory", "pids")
"""Every container has a limit of these."""
_DELEGATE = (
    "Give this user's session the controllers (systemd: `Delegate=cpu cpuset io memory pids` in user@.service.d, then "
    "log in again), or run Podman's service as root."
)


_RAISES_LIMITS = 1 << 24
"""CAP_SYS_RESOURCE, among the capabilities of a process."""
_HERE = "0 0 4294967295"
"""The map of users of a process that is in no user namespace of its own: only there do capabilities raise limits."""
_HARD_LIMIT = re.compile(r"^Max open files\s+\S+\s+(\d+)", re.MULTILINE)
_CAPABILITIES = re.compile(r"^CapEff:\s+([0-9a-f]+)", re.MULTILINE)


def check_nofile(nofile: int | None, service: str, where: str) -> None:
    """Raises ConfigError for more open files than the service at that socket may give: no container would start."""
    most = None if nofile is None else most_files(_listener(service))
    if nofile is not None and most is not None and nofile > most:
        raise ConfigError(
            f"{where}: is {nofile:,}, and Podman's service may give a process {most:,} open files at most (its hard "
            "limit). Set it lower, or raise that of the service: LimitNOFILE= of its systemd unit, or `ulimit -Hn` "
            "before it is started."
        )


def most_files(pid: int, proc: Path = Path("/proc")) -> int | None:
    """How many open files that process may give another; None where that cannot be told."""
    try:
        limits, status, users = ((proc / f"{pid}" / name).read_text() for name in ("limits", "status", "uid_map"))
        highest = int((proc / "sys/fs/nr_open").read_text())
    except (OSError, ValueError):  # of another user, or of a virtual machine
        return None
    if re.search(r"^Name:\s+(systemd|init)$", status, re.MULTILINE):
        return None  # which listens, and starts the service with limits of its own
    limit, capabilities = _HARD_LIMIT.search(limits), _CAPABILITIES.search(status)
    raises = capabilities is not None and int(capabilities[1], 16) & _RAISES_LIMITS and " ".join(users.split()) == _HERE
    if raises or limit is None:
        return highest
    return int(limit[1])


def _listener(service: str) -> int:
    """The process that listens there; 0, which is none, where the system does not tell."""
    with suppress(OSError, AttributeError), socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(1.0)
        asking.connect(service)
        pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return int(pid)
    return 0


def check_host(info: Mapping[str, Any], where: str, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raises ConfigError for what Podman's ``info`` already tells, with what would do."""
    host = info["host"]
    version = str(host.get("cgroupVersion") or "")
    controllers = set(host.get("cgroupControllers") or ())
    if missing := [name for name in _NEEDED if name not in controllers]:
        raise ConfigError(
            f"{where}: containers have limits of memory and processes, but Podman has no control group controller for "
            f"{' and '.join(missing)} here. {_cure(host, version)}"
        )
    runtime = str((host.get("ociRuntime") or {}).get("name") or "")
    if runtime == "crun" and version == "v1" and _is_hybrid(mounts):
        raise ConfigError(
            f"{where}: Podman runs containers by crun, which refuses this machine's control groups (hybrid: of version "
            '1 and 2). Install runc and set `runtime = "runc"` under [engine] in containers.conf, or boot with '
            "systemd.unified_cgroup_hierarchy=1."
        )


def _cure(host: Mapping[str, Any], version: str) -> str:
    rootless = bool((host.get("security") or {}).get("rootless"))
    if rootless and version == "v1":
        return (
            "An ordinary user has none under control groups of version 1: boot with "
            "systemd.unified_cgroup_hierarchy=1, or run Podman's service as root."
        )
    if rootless:
        return _DELEGATE
    return "Enable them: in the kernel (cgroup_enable=memory), or for the container that Podman runs in."


def _is_hybrid(mounts: Path) -> bool:
    """Version 2 beside version 1, as crun sees it."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:  # the service is in a virtual machine
        return False
    return any(line.split()[1:3] == ["/sys/fs/cgroup/unified", "cgroup2"] for line in lines)
