"""A container as an OCI runtime is asked for it: its ``config.json``, hardened as Podman's containers are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ion_core.containers.hardened import CPU_PERIOD, Hardened
from ion_core.errors import PermanentError
from ion_oci import capabilities
from ion_oci.host import PARENT, Groups
from ion_oci.images import Image
from ion_oci.roots import NAME, Furnished, Root
from ion_oci.settings import OciSettings

NETWORKS = Path("/run/netns")
"""Where network namespaces have names, as ``ip netns add`` gives them."""

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHM = 65_536_000
_UMASK = 0o022
_MASKED = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/fs/selinux",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
)
_READ_ONLY = ("/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_FOUND = ("/proc", "/dev", "/sys", "/ion")
"""What is mounted on in every container."""


@dataclass(frozen=True, kw_only=True)
class Wanted(Hardened[Image]):
    """One container as it is to be."""

    settings: OciSettings

    def furnished(self) -> Furnished:
        """What of the image's root must be there. Raises PermanentError for a mount of the host that is not there."""
        directories = [*_FOUND, self.image.directory]
        files: list[str] = []
        for source, target, _ in self.binds():
            if target.startswith("/ion"):
                continue
            if not Path(source).exists():
                raise PermanentError(f"container {self.spec.name}: {source} of allow.mounts is not there.")
            (directories if Path(source).is_dir() else files).append(target)
        return Furnished(
            image=self.image,
            user=self.user,
            directories=[*dict.fromkeys(directories)],
            scratch=self.tmpfs(),
            files=[*dict.fromkeys(files)],
        )

    @property
    def argv(self) -> Sequence[str]:
        """Raises PermanentError where neither the module nor the image says what runs."""
        if self.spec.command:
            return self.spec.argv
        argv = (*self.image.entrypoint, *(self.spec.args or self.image.command))
        if not argv:
            raise PermanentError(f"container {self.spec.name}: its image has no program. Give the module a command.")
        return argv

    def to_json(
        self, id: str, root: Root, seccomp: Mapping[str, Any], groups: Groups, *, terminal: bool = False
    ) -> dict[str, Any]:
        """Raises PermanentError for a network that is not there, or not allowed."""
        process: dict[str, Any] = {
            "terminal": terminal,
            "user": {"uid": root.uid, "gid": root.gid, "umask": _UMASK, "additionalGids": list(root.groups)},
            "args": list(self.argv),
            "env": [f"{name}={value}" for name, value in self._env(root, terminal=terminal).items()],
            "cwd": self.image.directory,
            "capabilities": self._capabilities(),
            "noNewPrivileges": not self.privileged,
        }
        if self.settings.nofile is not None:
            most = self.settings.nofile
            process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": most, "soft": most}]
        linux: dict[str, Any] = {
            "resources": self._resources(),
            "cgroupsPath": f"/{PARENT}/{id}",
            "namespaces": [*self._namespaces(groups)],
        }
        if not self.privileged:
            linux |= {"seccomp": seccomp, "maskedPaths": list(_MASKED), "readonlyPaths": list(_READ_ONLY)}
        return {
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": str(root.path), "readonly": True},
            "hostname": NAME,
            "mounts": [*self._mounts()],
            "linux": linux,
        }

    def _env(self, root: Root, *, terminal: bool) -> Mapping[str, str]:
        first = [_PATH, "TERM=xterm", "container=oci", f"HOME={root.home}", f"HOSTNAME={NAME}"]
        listed = (*first, *self.image.env)
        return {**dict(entry.split("=", 1) for entry in listed if "=" in entry), **self.env}

    def _capabilities(self) -> Mapping[str, Sequence[str]]:
        if not self.privileged:
            return {}
        return dict.fromkeys(("bounding", "effective", "permitted"), capabilities.ours())

    def _resources(self) -> Mapping[str, Any]:
        resources: dict[str, Any] = {
            "devices": [{"allow": self.privileged, "access": "rwm"}],
            "memory": {"limit": self.memory, "swap": self.memory},
            "pids": {"limit": self.pids},
        }
        if self.cpu_quota:
            resources["cpu"] = {"quota": self.cpu_quota, "period": CPU_PERIOD}
        return resources

    def _namespaces(self, groups: Groups) -> Iterator[Mapping[str, str]]:
        yield from ({"type": name} for name in ("pid", "ipc", "uts", "mount"))
        if groups.unified:
            yield {"type": "cgroup"}
        asked = self.spec.network
        if asked == "none":
            yield {"type": "network"}
        elif asked == "host":
            if self.module not in self.settings.allow.host_network:
                raise PermanentError(
                    f"container {self.spec.name}: network: host is not allowed for module {self.module!r}. "
                    "Allow it by name, under allow.host_network of its runtime."
                )
        elif asked == "bridge" or "/" in asked or not (NETWORKS / asked).exists():
            raise PermanentError(
                f"container {self.spec.name}: there is no network namespace {asked!r}. Make it by `ip netns add` and "
                "connect it, or use the runtime podman, which makes bridges."
            )
        else:
            yield {"type": "network", "path": str(NETWORKS / asked)}

    def _mounts(self) -> Iterator[Mapping[str, Any]]:
        rest = "ro" if not self.privileged else "rw"
        yield _mount("/proc", "proc", "nosuid", "noexec", "nodev")
        if self.privileged:
            yield _mount("/dev", "bind", "rbind", "rprivate", source="/dev")
        else:
            yield _mount("/dev", "tmpfs", "nosuid", "noexec", "strictatime", "mode=755", "size=65536k")
            yield _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
            yield _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev")
            shm = f"size={self.spec.resources.shm or _SHM}"
            yield _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", shm, source="shm")
        yield _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", rest)
        yield _mount("/sys/fs/cgroup", "cgroup", "rprivate", "nosuid", "noexec", "nodev", "relatime", rest)
        yield from sorted(self._own_mounts(), key=lambda it: it["destination"].count("/"))

    def _own_mounts(self) -> Iterator[Mapping[str, Any]]:
        for path in self.tmpfs():
            size = f"size={self.settings.tmp}"
            yield _mount(path, "tmpfs", "rw", "nosuid", "nodev", "mode=1777", size, "rprivate", "tmpcopyup")
        for source, target, writable in self.binds():
            mode = "rw" if writable else "ro"
            yield _mount(target, "bind", "rbind", "nosuid", "nodev", mode, "rprivate", source=source)


def _mount(destination: str, kind: str, *options: str, source: str = "") -> Mapping[str, Any]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}
