"""Real servers of files, each a process of its own on a free port, which can be stopped and started again."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.support.object_stores import START_WITHIN, free_port, listens

USER, PASSWORD = "ion", "testing-secret"


@dataclass
class FileServer:
    """What it has below ``root`` is at ``url``; ``options`` is what the filesystem needs to get there."""

    url: str
    port: int
    root: Path
    command: Sequence[str]
    log: Path
    options: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def protocol(self) -> str:
        return self.url.partition("://")[0]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.root)
        deadline = monotonic() + START_WITHIN
        while not listens(self.port):
            assert self.process.poll() is None, f"{self.command} ended: {self.log.read_text()}"
            assert monotonic() < deadline, f"{self.command} does not listen: {self.log.read_text()}"
            sleep(0.05)

    def stop(self) -> None:
        """With every connection that there is."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        """To it and to what it started, newest first."""
        assert self.process is not None
        for pid in reversed(_tree(self.process.pid)):
            os.kill(pid, number)

    def place(self) -> str:
        """New each time: an empty directory, which is not there yet."""
        return f"{self.url}/{uuid.uuid4().hex[:12]}"

    def path_of(self, url: str) -> Path:
        return self.root / url.rpartition("/")[2]

    def settings(self, **more: Any) -> dict[str, Any]:
        """As they stand in a configuration, for an empty directory."""
        return {"url": self.place(), "options": dict(self.options), **more}


@contextmanager
def _serving(server: FileServer) -> Iterator[FileServer]:
    server.root.mkdir(parents=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


_SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {home}/host
AuthorizedKeysFile {home}/user.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
MaxStartups 100
Subsystem sftp internal-sftp
"""


@contextmanager
def ssh_server(home: Path) -> Iterator[FileServer]:
    """OpenSSH's, with keys of its own, for the user that runs the tests."""
    program = program_of("sshd", "openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it keeps its unprivileged half
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    port = free_port()
    (home / "config").write_text(_SSHD.format(port=port, home=home))
    kind, key, *_ = (home / "host.pub").read_text().split()
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    options = {"key_filename": str(home / "user"), "known_hosts": str(home / "known_hosts"), "allow_agent": False}
    command = [program, "-D", "-e", "-f", str(home / "config")]
    url = f"sftp://{getpass.getuser()}@127.0.0.1:{port}{home}/root"
    with _serving(FileServer(url, port, home / "root", command, home / "log", options)) as server:
        yield server


@contextmanager
def webdav_server(home: Path) -> Iterator[FileServer]:
    """WsgiDAV, for one user with a password."""
    port = free_port()
    config = {
        "host": "127.0.0.1",
        "port": port,
        "server": "cheroot",
        "provider_mapping": {"/dav": str(home / "dav")},
        "http_authenticator": {"domain_controller": None},
        "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
    }
    (home / "config.json").write_text(json.dumps(config))
    options = {"base_url": f"http://127.0.0.1:{port}/dav", "auth": [USER, PASSWORD]}
    command = [sys.executable, "-m", "wsgidav.server.server_cli", "--config", str(home / "config.json")]
    with _serving(FileServer("webdav://ion", port, home / "dav" / "ion", command, home / "log", options)) as server:
        yield server


def program_of(name: str, package: str) -> str:
    """Programs of root lie where the PATH of others does not look."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"no {name}: apt-get install {package}, or scripts/setup test"
    return found


def _tree(pid: int) -> list[int]:
    """It and those it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return [pid]
    return [pid, *(one for child in children for one in _tree(int(child)))]
