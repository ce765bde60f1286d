"""What this machine knows of a container without asking Podman: what its control group counted, and its exit code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


@dataclass(frozen=True)
class Hits:
    """How often a limit was hit; None where nobody can tell."""

    memory: int | None = None
    pids: int | None = None


@dataclass(frozen=True)
class ControlGroup:
    """The control group of one container. ``paths`` by controller; '' is the one of version 2."""

    paths: Mapping[str, Path]

    @classmethod
    def of(cls, pid: int) -> ControlGroup:
        """That of the first process, which Podman's service names; empty where it is not of this machine."""
        paths: dict[str, Path] = {}
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines() if pid else []
        except OSError:
            lines = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                paths[controller] = _CGROUPS / controller / path.lstrip("/")
        return cls(paths)

    def hits(self) -> Hits:
        return Hits(
            memory=self._count("memory", ("memory.oom_control", "memory.events"), "oom_kill"),
            pids=self._count("pids", ("pids.events",), "max"),
        )

    def _count(self, controller: str, files: tuple[str, ...], key: str) -> int | None:
        directory = self.paths.get(controller, self.paths.get(""))
        if directory is None:
            return None
        for file in files:
            try:
                text = (directory / file).read_text(encoding="ascii")
            except OSError:
                continue
            for line in text.splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
        return None


@dataclass(frozen=True)
class ExitFile:
    """Where conmon, which holds a container, leaves its exit code, whatever becomes of the service."""

    path: Path | None = None

    @classmethod
    def of(cls, container: str, conmon: int) -> ExitFile:
        """That of the container with this id; empty where its conmon is not of this machine."""
        try:
            arguments = Path(f"/proc/{conmon}/cmdline").read_bytes().split(b"\0") if conmon else []
            directory = arguments[arguments.index(b"--exit-dir") + 1]
        except (OSError, ValueError, IndexError):
            return cls()
        return cls(Path(os.fsdecode(directory)) / container)

    def code(self) -> int | None:
        """None where there is none, or none to be read."""
        try:
            return int(self.path.read_text(encoding="ascii")) if self.path is not None else None
        except (OSError, ValueError):
            return None


def size(count: int) -> str:
    """Bytes as people write them: ``512 MiB``."""
    for unit, name in _UNITS:
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} bytes"
