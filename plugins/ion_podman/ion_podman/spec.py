"""What Podman is asked to make, hardened, and whether it made that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ion_core.contracts.runtime import ContainerSpec
from ion_core.errors import PermanentError
from ion_podman.images import Image
from ion_podman.settings import PodmanSettings, mount_parts

NOBODY = "65534:65534"
_ROOT = {"", "0", "root"}
CPU_PERIOD = 100_000
_LOG_FILE = 1 << 20
_WORKSPACE = "/ion"
_TMP = "/tmp"
_BIND = ("rbind", "nosuid", "nodev")


def _covers(outer: str, path: str) -> bool:
    return path == outer or path.startswith(f"{outer.rstrip('/')}/")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One container as it is to be. ``own_user`` is ours where Podman runs without root: files are to be ours too."""

    spec: ContainerSpec
    image: Image
    settings: PodmanSettings
    own_user: str | None = None

    @property
    def module(self) -> str:
        return self.spec.module or ""

    @property
    def memory(self) -> int:
        return self.spec.resources.memory or self.settings.memory

    @property
    def pids(self) -> int:
        return self.spec.resources.pids or self.settings.pids

    @property
    def cpu_quota(self) -> int:
        return round((self.spec.resources.cpus or 0) * CPU_PERIOD)

    @property
    def privileged(self) -> bool:
        return self.module in self.settings.allow.privileged

    @property
    def user(self) -> str:
        """The image's own; nobody instead of root unless that is allowed. Without root ours, or root that is us."""
        is_root = self.image.user.split(":")[0] in _ROOT
        loosened = self.privileged or self.module in self.settings.allow.root
        if self.own_user is not None:
            return self.image.user if loosened and is_root else self.own_user
        return NOBODY if is_root and not loosened else self.image.user

    @property
    def env(self) -> Mapping[str, str]:
        """With a home that may be written to where the image had root's, which is another user's now."""
        replaced = self.user != self.image.user and not self.image.sets_home
        return {**({"HOME": _TMP} if replaced else {}), **self.spec.env}

    @property
    def keeps_id(self) -> bool:
        """Whether our own user is to be the same number inside; root inside is us anyway."""
        return self.own_user is not None and self.user == self.own_user

    @property
    def stop_signal(self) -> str:
        return self.image.stop_signal or "SIGTERM"

    def tmpfs(self) -> Sequence[str]:
        """What may be written to beside the workspace: /tmp, and what the image declares as volumes."""
        taken = (_TMP, *(target for _, target, _ in self.binds()))
        volumes = (os.path.normpath(f"/{path.lstrip('/')}") for path in self.image.volumes)
        return [_TMP, *(it for it in volumes if it != "/" and not any(_covers(outer, it) for outer in taken))]

    def binds(self) -> Sequence[tuple[str, str, bool]]:
        """Source, target and whether it may be written to; inputs lie read-only over the workspace."""
        workspace = str(self.spec.workspace.absolute())
        allowed = map(mount_parts, self.settings.allow.mounts.get(self.module, ()))
        return [(workspace, _WORKSPACE, True), (f"{workspace}/in", f"{_WORKSPACE}/in", False), *allowed]

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
