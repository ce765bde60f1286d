"""Our own disk full: stop taking, say so, go on by itself once there is room; nothing is corrupt, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.pipeline import ION, Pipeline, Served, environment


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


def test_a_full_disk_stops_the_work_and_room_resumes_it(disk: SmallDisk, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    state = tmp_path / "disk" / "state"
    (pipeline.home / "input.txt").write_text("whole")
    publish = [*ION, "event", "publish", "whole.received", "--file", "input.txt", "--state-dir", str(state)]
    environ = environment(ION_CONFIG=str(pipeline.home / "ion.yaml"))

    def ion(*command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            disk.inside("env", f"--chdir={pipeline.home}", *command),
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    with ion(*publish) as published:
        _, complaint = published.communicate(timeout=60)
        assert published.returncode == 0, complaint
    disk.fill()
    with ion(*ION, "serve", "--until-idle", "--state-dir", str(state)) as process:
        served = Served(process)
        served.until("no space left")
        assert pipeline.runs()["join"] == 0
        disk.free()
        assert served.ended() == 0, served.log
        assert "ready again: storage" in served.log
    assert pipeline.runs() == {"split": pipeline.runs()["split"], "join": 3}
    pipeline.state = disk.path / "state"
    assert len(pipeline.documents("commit")) == 4
    assert pipeline.pending() == 0


def test_publishing_to_a_full_disk_says_so_and_stores_nothing(disk: SmallDisk, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    state = tmp_path / "disk" / "state"
    environ = environment(ION_CONFIG=str(pipeline.home / "ion.yaml"))
    (disk.path / "state").mkdir()
    large = pipeline.home / "large.bin"
    large.write_bytes(b"x" * (20 << 20))

    done = subprocess.run(
        disk.inside(*ION, "event", "publish", "whole.received", "--file", str(large), "--state-dir", str(state)),
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 75, done.stderr
    assert "no space left" in done.stderr.lower()
    pipeline.state = disk.path / "state"
    assert pipeline.documents() == []
    assert pipeline.pending() == 0


def test_sigterm_works_while_the_disk_is_full(disk: SmallDisk, tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline")
    state = tmp_path / "disk" / "state"
    environ = environment(ION_CONFIG=str(pipeline.home / "ion.yaml"))
    publish = disk.inside(*ION, "event", "publish", "whole.received", "--state-dir", str(state))
    subprocess.run(publish, env=environ, check=True, capture_output=True, timeout=60)
    disk.fill()
    with subprocess.Popen(
        disk.inside(*ION, "serve", "--state-dir", str(state)), env=environ, stderr=subprocess.PIPE
    ) as process:
        served = Served(process)
        served.until("no space left")
        served.send(signal.SIGTERM)
        assert served.ended() == 128 + signal.SIGTERM, served.log
