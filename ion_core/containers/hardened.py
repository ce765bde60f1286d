"""What a container is to be, hardened: its user, its limits, what it sees of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ion_core.containers.allow import AllowSettings, mount_parts
from ion_core.containers.images import Image
from ion_core.contracts.runtime import ContainerSpec

NOBODY = "65534:65534"
CPU_PERIOD = 100_000
_ROOT = {"", "0", "root"}
_WORKSPACE = "/ion"
_TMP = "/tmp"


def _covers(outer: str, path: str) -> bool:
    return path == outer or path.startswith(f"{outer.rstrip('/')}/")


class Defaults(Protocol):
    """Of a runtime's settings, what holds for a container whose module says nothing, and what is loosened."""

    @property
    def memory(self) -> int: ...
    @property
    def pids(self) -> int: ...
    @property
    def allow(self) -> AllowSettings: ...


_Image_co = TypeVar("_Image_co", bound=Image, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Hardened(Generic[_Image_co]):
    """One container as it is to be. ``own_user`` is ours where it is made without root: files are to be ours too."""

    spec: ContainerSpec
    image: _Image_co
    settings: Defaults
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
