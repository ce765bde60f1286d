"""The exit code of a container, as conmon leaves it: it is there without asking Podman."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExitFile:
    """Where conmon, which holds a container, leaves its exit code, whatever becomes of the service."""

    path: Path | None = None
    container: str = ""
    conmon: int = 0

    @classmethod
    def of(cls, container: str, conmon: int) -> ExitFile:
        """That of the container with this id; empty where its conmon is not of this machine."""
        try:
            arguments = Path(f"/proc/{conmon}/cmdline").read_bytes().split(b"\0") if conmon else []
            directory = arguments[arguments.index(b"--exit-dir") + 1]
        except (OSError, ValueError, IndexError):
            return cls()
        return cls(Path(os.fsdecode(directory)) / container, container, conmon)

    def code(self) -> int | None:
        """None where there is none, or none to be read."""
        try:
            return int(self.path.read_text(encoding="ascii")) if self.path is not None else None
        except (OSError, ValueError):
            return None

    def may_come(self) -> bool:
        """Whether there is one, or somebody to leave it; yes where nobody here can know."""
        if self.path is None:
            return True
        try:
            arguments = Path(f"/proc/{self.conmon}/cmdline").read_bytes().split(b"\0")
        except OSError:
            arguments = []
        return self.container.encode() in arguments or self.code() is not None
