"""A RabbitMQ server of one's own, for tests and benchmarks: private node, free port, data in a temporary directory."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STARTS_WITHIN = 90.0
ENDS_WITHIN = 10.0


EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """One that nobody listens on, and that no outgoing connection is given: those may take it before we listen."""
    try:
        lowest, highest = map(int, EPHEMERAL.read_text().split())
    except OSError:  # as IANA has it
        lowest, highest = 49_152, 65_535
    outside = [port for port in range(10_000, 65_536) if not lowest <= port <= highest]
    for port in random.sample(outside, k=len(outside)):
        with contextlib.closing(socket.socket()) as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise AssertionError(f"no port is free outside of {lowest} to {highest} ({EPHEMERAL})")


@dataclass(frozen=True, kw_only=True)
class ServerTls:
    """PEM files of a TLS listener. ``asks``: clients need a certificate that ``authority`` has issued."""

    authority: Path
    certificate: Path
    key: Path
    asks: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a server runs: here, or where a command runs that begins with ``within``, as in a network namespace."""

    address: str
    """By which others know it there."""
    mapper_port: int
    """Of Erlang's port mapper: the same for all nodes of one cluster."""
    within: Sequence[str] = ()


class RabbitServer:
    """Start it, stop it kindly, by kill -9 or for a while, start it again with what it had stored."""

    def __init__(self, home: Path, *, place: Place | None = None) -> None:
        self.home = home
        self.address = place.address if place else "127.0.0.1"
        self.port = free_port()
        self.tls_port = free_port()
        """Where it listens after ``configure(tls=…)``."""
        self.node = f"ion-{self.port}@{place.address if place else 'localhost'}"
        self._within = list(place.within) if place else []
        self._tls = False
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)
        self._environ = {
            "PATH": f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}:/usr/sbin",
            "HOME": str(home),  # the Erlang cookie lies there
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_USE_LONGNAME": "true" if place else "false",
            "RABBITMQ_NODE_IP_ADDRESS": self.address,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "ERL_EPMD_ADDRESS": self.address,
            "ERL_EPMD_PORT": str(place.mapper_port if place else free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        (home / "plugins").write_text("[].")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.address}:{self.port}/"

    def configure(
        self, *, tls: ServerTls | None = None, kernel: Mapping[str, int] | None = None, **settings: int | str
    ) -> None:
        """Settings of the application ``rabbit``, numbers or terms of Erlang, and a TLS listener beside the plain one.

        ``kernel``: those of the application of that name. They hold from the next start on.
        """
        of_kernel = ",".join(f"{{{name},{value}}}" for name, value in (kernel or {}).items())
        terms = [f"{{{name},{value}}}" for name, value in settings.items()]
        self._tls = tls is not None
        if tls is not None:
            verify = "verify_peer" if tls.asks else "verify_none"
            options = [
                *(
                    f'{{{name},"{path}"}}'
                    for name, path in (
                        ("cacertfile", tls.authority),
                        ("certfile", tls.certificate),
                        ("keyfile", tls.key),
                    )
                ),
                f"{{verify,{verify}}}",
                f"{{fail_if_no_peer_cert,{str(tls.asks).lower()}}}",
            ]
            terms += [f'{{ssl_listeners,[{{"127.0.0.1",{self.tls_port}}}]}}', f"{{ssl_options,[{','.join(options)}]}}"]
        (self.home / "advanced.config").write_text(f"[{{kernel,[{of_kernel}]}},{{rabbit,[{','.join(terms)}]}}].")

    def start(self) -> None:
        """Returns once it answers."""
        self.begin()
        self.answers()

    def begin(self) -> None:
        """Start it, and do not wait."""
        server = self._program("rabbitmq-server")
        with (self.home / "output").open("ab") as output:
            self._process = subprocess.Popen(
                server, cwd=self.home, env=self._environ, stdout=output, stderr=output, start_new_session=True
            )

    def answers(self) -> None:
        """Returns once it does, after ``begin``."""
        assert self._process is not None
        deadline = time.monotonic() + STARTS_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"RabbitMQ does not start:\n{(self.home / 'output').read_text()[-2000:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), timeout=5) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                if not connection.recv(1):
                    return False
            if self._tls:  # which is opened a moment after the plain one
                socket.create_connection(("127.0.0.1", self.tls_port), timeout=5).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """As an operator would."""
        self.ctl("stop")
        self._wait()

    def kill(self) -> None:
        """kill -9, of all of it."""
        self._send(signal.SIGKILL)
        self._wait()

    def freeze(self) -> None:
        """Its process stands still. What the kernel does for it goes on: connections are taken, and nobody answers."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(60)
        self._process = None

    def ctl(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._program("rabbitmqctl"), "--node", self.node, *arguments],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def remove(self) -> None:
        """End whatever it has started, the port mapper too, which Erlang leaves running, and nothing else."""
        if self._process is not None:
            self.kill()
        deadline = time.monotonic() + ENDS_WITHIN
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.home, ignore_errors=True)

    def processes(self) -> list[int]:
        """What runs in this server's environment, whoever its parent is by now; empty where there is no ``/proc``."""
        ours = f"RABBITMQ_MNESIA_BASE={self._environ['RABBITMQ_MNESIA_BASE']}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if ours in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found

    def _program(self, name: str) -> list[str]:
        found = shutil.which(name, path=self._environ["PATH"])
        assert found is not None, (
            f"{name} is not installed. On Debian or Ubuntu, as root: apt-get install rabbitmq-server"
        )
        return [*self._within, found]
