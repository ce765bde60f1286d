"""What Podman is asked to make, hardened, and whether it made that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ion_core.containers.hardened import CPU_PERIOD, Hardened
from ion_core.containers.images import Image
from ion_core.errors import PermanentError
from ion_podman.settings import PodmanSettings

_LOG_FILE = 1 << 20
_BIND = ("rbind", "nosuid", "nodev")


@dataclass(frozen=True, kw_only=True)
class Wanted(Hardened[Image]):
    """One container as it is to be."""

    settings: PodmanSettings

    def network(self) -> dict[str, Any]:
        """Raises PermanentError for the host's network where that is not allowed."""
        asked = self.spec.network
        if asked == "host" and self.module not in self.settings.allow.host_network:
            raise PermanentError(
                f"container {self.spec.name}: network: host is not allowed for module {self.module!r}. "
                "Allow it by name, under allow.host_network of its runtime, or use bridge."
            )
        if asked in ("none", "bridge", "host"):
            return {"netns": {"nsmode": asked}}
        return {"netns": {"nsmode": "bridge"}, "networks": {asked: {}}}

    def to_json(self) -> dict[str, Any]:
        """libpod's own form (``SpecGenerator``)."""
        spec, settings = self.spec, self.settings
        body: dict[str, Any] = {
            "name": spec.name,
            "image": self.image.id,
            "labels": dict(spec.labels),
            "env": dict(self.env),
            "httpproxy": False,
            "privileged": self.privileged,
            "read_only_filesystem": not self.privileged,
            "user": self.user,
            "umask": "0022",
            "image_volume_mode": "ignore",
            "restart_policy": "no",
            "sdnotifyMode": "ignore",
            "log_configuration": {"driver": "k8s-file", "size": max(2 * spec.log_limit, _LOG_FILE)},
            "mounts": [*self._mounts()],
            "resource_limits": self._limits(),
            "devices": [{"path": name} for name in spec.resources.gpus],
            **self.network(),
        }
        if not self.privileged:
            body |= {"cap_drop": ["ALL"], "no_new_privileges": True}
        if spec.command:
            body |= {"entrypoint": [], "command": list(spec.argv)}
        elif spec.args:
            body["command"] = list(spec.args)
        if spec.resources.shm is not None:
            body["shm_size"] = spec.resources.shm
        if self.keeps_id:
            body["userns"] = {"nsmode": "keep-id"}
        if settings.nofile is not None:
            body["r_limits"] = [
                {"type": name, "soft": most, "hard": most}
                for name, most in (("nofile", settings.nofile), ("nproc", self.pids))  # Podman puts RLIMIT_ before it
            ]
        return body

    def _mounts(self) -> Iterator[dict[str, Any]]:
        for source, target, writable in self.binds():
            options = [*_BIND, "rw" if writable else "ro"]
            yield {"type": "bind", "source": source, "destination": target, "options": options}
        options = ["rw", "nosuid", "nodev", "mode=1777", f"size={self.settings.tmp}"]
        for path in self.tmpfs():
            yield {"type": "tmpfs", "source": "tmpfs", "destination": path, "options": options}

    def _limits(self) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "memory": {"limit": self.memory, "swap": self.memory},
            "pids": {"limit": self.pids},
        }
        if self.cpu_quota:
            limits["cpu"] = {"quota": self.cpu_quota, "period": CPU_PERIOD}
        return limits

    def differences(self, found: Mapping[str, Any]) -> list[str]:
        """What of an inspected container is not as asked for, one line each."""
        host, config = found["HostConfig"], found["Config"]
        binds = {(it["Destination"], it["Source"], it["RW"]) for it in found["Mounts"] if it["Type"] == "bind"}
        networks = found["NetworkSettings"].get("Networks") or {}
        named = self.spec.network not in ("none", "bridge", "host")
        asked = [
            ("image", self.image.id, found["Image"]),
            ("privileged", self.privileged, host["Privileged"]),
            ("read-only root", not self.privileged, host["ReadonlyRootfs"]),
            ("user", self.user, config["User"]),
            ("memory", self.memory, host["Memory"]),
            ("pids", self.pids, host["PidsLimit"]),
            ("cpu quota", self.cpu_quota, host["CpuQuota"]),
            ("network", "bridge" if named else self.spec.network, host["NetworkMode"]),
            ("process namespace", "private", host["PidMode"]),
            (
                "mounts",
                sorted((target, os.path.realpath(source), rw) for source, target, rw in self.binds()),
                sorted((target, os.path.realpath(source), rw) for target, source, rw in binds),
            ),
        ]
        if self.spec.resources.shm is not None:
            asked.append(("size of /dev/shm", self.spec.resources.shm, host["ShmSize"]))
        if named:
            asked.append(("network", [self.spec.network], sorted(networks)))
        if not self.privileged:
            kept = [*(found.get("EffectiveCaps") or ()), *(found.get("BoundingCaps") or ()), *(host["CapAdd"] or ())]
            asked.append(("capabilities", [], kept))
            asked.append(("security options", ["no-new-privileges"], sorted(host["SecurityOpt"] or ())))
        return [f"{what} is {is_!r} instead of {wanted!r}" for what, wanted, is_ in asked if is_ != wanted]
