"""Listening in the network namespace of another process, with privileges and without."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ion_core.contracts.loopback import _by_a_process_of_there, listen_inside

PORT = 8137
ANYBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
Inside = subprocess.Popen[str]


@pytest.fixture(params=["by root", "by anybody", "by anybody, in one more user namespace"])
def inside(request: pytest.FixtureRequest) -> Iterator[Inside]:
    """The first process of a network of its own: it asks once it is told to, and prints the answer."""
    prefix = ANYBODY if request.param.startswith("by anybody") and os.geteuid() == 0 else ()
    # bubblewrap mounts that from a second user namespace; that of the network is the first one
    devices = ("--dev", "/dev") if "one more" in request.param else ()
    with subprocess.Popen(
        [
            *prefix,
            "bwrap",
            "--unshare-all",
            "--bind",
            "/",
            "/",
            *devices,
            "sh",
            "-c",
            f"echo ready; read go; busybox nc 127.0.0.1 {PORT}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def by_a_process(pid: int, port: int) -> socket.socket:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        return _by_a_process_of_there(namespace, port)
    finally:
        os.close(namespace)


@pytest.mark.parametrize("listen", [listen_inside, by_a_process])
def test_who_runs_inside_reaches_the_socket(inside: Inside, listen: Callable[[int, int], socket.socket | None]) -> None:
    children = Path(f"/proc/{inside.pid}/task/{inside.pid}/children").read_text(encoding="ascii").split()
    listening = listen(int(children[0]), PORT)
    assert listening is not None
    with listening:
        assert inside.stdin is not None
        assert inside.stdout is not None
        inside.stdin.write("go\n")
        inside.stdin.flush()
        listening.settimeout(10)
        connection, _ = listening.accept()
        connection.sendall(b"from here\n")
        connection.close()
        assert inside.stdout.readline() == "from here\n"


def test_our_own_network_needs_no_socket_of_its_own() -> None:
    assert listen_inside(os.getpid(), PORT) is None


def test_a_process_that_has_ended_is_named() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(ProcessLookupError, match=str(ended.pid)):
        listen_inside(ended.pid, PORT)
