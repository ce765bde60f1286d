"""A Podman service of one's own, for tests and benchmarks: its containers and images are seen by nobody else.

Needs root, ``podman`` and ``runc``; ``busybox`` linked statically for the image. Podman may keep to another storage
than it was told, as it does for an ordinary user: then nothing is started, and nothing removed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

BUSYBOX = "localhost/ion-test/busybox:latest"

# crun refuses hybrid control groups, and where we lack CAP_SYS_RESOURCE Podman's default limits cannot be set. Locks in
# files: those in shared memory are for all of a machine's Podmans, and a new one frees what it finds.
_CONTAINERS_CONF = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "{directory}/tmp"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[network]
network_config_dir = "{directory}/networks"
"""
_STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{directory}/images"
runroot = "{directory}/run"
"""
# Registries that a test runs on this machine have no certificate.
_REGISTRIES_CONF = """
[[registry]]
location = "127.0.0.1"
insecure = true
"""
_FILES = {
    "CONTAINERS_CONF": ("containers.conf", _CONTAINERS_CONF),
    "CONTAINERS_STORAGE_CONF": ("storage.conf", _STORAGE_CONF),
    "CONTAINERS_REGISTRIES_CONF": ("registries.conf", _REGISTRIES_CONF),
}
_ANSWERS_WITHIN = 20.0


@dataclass
class PodmanService:
    """``directory`` is for all it keeps, on a disk; its path is short, since sockets lie in it."""

    directory: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _made: bool = field(default=False, init=False)

    @property
    def socket(self) -> Path:
        return self.directory / "podman.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def environ(self) -> dict[str, str]:
        """For commands that are to see the same containers."""
        return {**os.environ, **{name: str(self.directory / file) for name, (file, _) in _FILES.items()}}

    def make(self) -> None:
        """Its directory and its configuration, so that ``podman`` works; no service runs yet. Idempotent.

        Raises RuntimeError where the directory holds something that is not ours, or Podman's storage is not in it.
        """
        if not self._made:
            self.directory.mkdir(parents=True, exist_ok=True)
            if any(self.directory.iterdir()):
                raise RuntimeError(f"{self.directory}: is not empty, and all of it would be removed. Name another.")
            self._made = True
        for file, text in _FILES.values():
            (self.directory / file).write_text(text.format(directory=self.directory), encoding="utf-8")
        self._check_storage()

    def start(self) -> None:
        """Start the service, made before if it is not; it answers when this returns. Fine if it runs.

        Raises RuntimeError as ``make`` does.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.make()
        self.socket.unlink(missing_ok=True)
        with (self.directory / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["podman", "system", "service", "--time=0", self.url],
                cwd=self.directory,  # where conmon notes that memory ran out
                env=self.environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + _ANSWERS_WITHIN
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.directory / "service.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"podman system service does not start: {said[-2000:]}")
            time.sleep(0.02)

    def _check_storage(self) -> None:
        """Whatever removes "all" may only be said to a storage of our own. Raises RuntimeError."""
        kept = self.podman("info", "--format", "{{.Store.GraphRoot}}").strip()
        if not kept or not Path(kept).resolve().is_relative_to(self.directory.resolve()):
            raise RuntimeError(
                f"podman keeps its containers in {kept or 'a place that it does not tell'} though it was told "
                f"{self.directory}: they are somebody else's. An ordinary user's Podman does that; tests need root."
            )

    def kill(self) -> None:
        """As a crash ends it. Containers go on."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        """It hangs until ``resume``. Returns once none of its threads goes on."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None, "it was never started"
        if self._process.poll() is None:
            self._process.send_signal(number)

    def podman(self, *arguments: str) -> str:
        """What ``podman …`` prints."""
        command = ["podman", *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def containers(self) -> Sequence[str]:
        """Names of all there are, whatever their state."""
        return [entry["Names"][0] for entry in json.loads(self.podman("ps", "--all", "--format", "json") or "[]")]

    def build(self, name: str, context: Path) -> None:
        """An image from the Containerfile in ``context``; nothing is pulled."""
        self.podman("build", "--quiet", "--pull=never", "--tag", name, str(context))

    def build_busybox(self) -> str:
        """``BUSYBOX``, an image with a shell and the usual commands and nothing else; its name."""
        context = self.directory / "busybox"
        root = context / "root"
        (root / "bin").mkdir(parents=True, exist_ok=True)
        busybox = shutil.which("busybox") or "/bin/busybox"
        libraries = subprocess.run(["ldd", busybox], capture_output=True, text=True, check=False).stdout
        if "=>" in libraries:
            raise RuntimeError(f"{busybox} needs libraries that an image of it alone lacks. Install busybox-static.")
        shutil.copy2(busybox, root / "bin/busybox")
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
        for command in set(listed.stdout.split()) - {"busybox"}:
            link = root / "bin" / command
            if not link.is_symlink():
                link.symlink_to("busybox")
        (context / "Containerfile").write_text('FROM scratch\nCOPY root /\nCMD ["/bin/sh"]\n', encoding="utf-8")
        self.build(BUSYBOX, context)
        return BUSYBOX

    def remove(self) -> None:
        """Stop it and remove every container, image and file of it; nothing where it never was."""
        if not self._made:
            return
        try:
            if self._process is not None:  # else it never had a container
                self._check_storage()
                self.podman("rm", "--all", "--force", "--time", "0")
        finally:
            if self._process is not None:
                self.resume()
                self._signal(signal.SIGTERM)
                self._process.wait(timeout=20)
            self._end_forgotten()
            for place in _mounted_below(self.directory):
                subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
            shutil.rmtree(self.directory)

    def _end_forgotten(self) -> None:
        """Conmons of containers that Podman does not know of, since the service was killed as it made them."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                command = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                if Path(command[0]).name == "conmon" and any(it.startswith(f"{self.directory}/") for it in command):
                    waited_for = (process / "task" / process.name / "children").read_text(encoding="ascii").split()
                    for pid in (process.name, *waited_for):  # conmon first, which would have Podman clean up
                        os.kill(int(pid), signal.SIGKILL)


def _mounted_below(directory: Path) -> Sequence[str]:
    """Mount points below it, inner ones first."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return sorted((it.split()[1] for it in lines if it.split()[1].startswith(f"{directory}/")), reverse=True)


@contextmanager
def podman_service(directory: Path) -> Iterator[PodmanService]:
    """One that runs while the body does, and of which nothing is left afterwards."""
    service = PodmanService(directory)
    try:
        service.start()
        yield service
    finally:
        service.remove()
