"""What this machine knows of a container without asking anybody: what its control group counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ion_core.words import counted

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
        """That of the first process; empty where it is not of this machine."""
        paths: dict[str, Path] = {}
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines() if pid else []
        except OSError:
            lines = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                paths[controller] = _hierarchy(controller) / path.lstrip("/")
        return cls(paths)

    def event_files(self, controller: str) -> Sequence[Path]:
        """Where version 2 counts, which is one for all controllers: with crun the limits are one level further up."""
        directory = self.paths.get("")
        if directory is None or controller in self.paths:
            return ()
        places = (directory, directory.parent) if directory.name == "container" else (directory,)
        return [place / f"{controller}.events" for place in places]

    def hits(self) -> Hits:
        """As version 1 counts, up to now."""
        return Hits(
            memory=self._count("memory", "memory.oom_control", "oom_kill"),
            pids=self._count("pids", "pids.events", "max"),
        )

    def _count(self, controller: str, file: str, key: str) -> int | None:
        for line in self._text(controller, file).splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
        return None

    def _text(self, controller: str, file: str) -> str:
        """'' where it cannot be read."""
        directory = self.paths.get(controller)
        try:
            return (directory / file).read_text(encoding="ascii") if directory is not None else ""
        except OSError:
            return ""


def _hierarchy(controller: str) -> Path:
    """Where it is mounted: version 2 in a place of its own where version 1 is beside it, a named one by its name."""
    unified = _CGROUPS / "unified"
    if not controller and (unified / "cgroup.procs").exists():
        return unified
    return _CGROUPS / controller.removeprefix("name=")


def size(count: int) -> str:
    """Bytes as people write them: ``512 MiB``."""
    for unit, name in _UNITS:
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{counted(count, 'byte')}"
