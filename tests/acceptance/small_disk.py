"""A disk that a test may fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A file system of its own, in a mount namespace that ends with the process that holds it."""

    def __init__(self, holder: subprocess.Popen[bytes], mounted: Path) -> None:
        self._holder = holder
        self._mounted = mounted

    @property
    def path(self) -> Path:
        """The disk as seen from outside."""
        return Path(f"/proc/{self._holder.pid}/root{self._mounted}")

    def fill(self) -> None:
        with (self.path / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"\0" * 65536)
            except OSError:
                ballast.close()

    def free(self) -> None:
        (self.path / "ballast").unlink()

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` where the disk is mounted."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self._holder.pid), "--mount", *user, f"--wd={Path.cwd()}", "--", *command]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = f"mount -t tmpfs -o size=16m none '{mounted}' && echo mounted && exec tail -f /dev/null"
    with subprocess.Popen(["unshare", *user, "--mount", "sh", "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mounted\n"
        yield SmallDisk(holder, mounted)
        holder.kill()
