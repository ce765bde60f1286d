"""Listening at a container's own loopback interface, for runtimes whose containers have one."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_PATIENCE = 20.0

_NS_GET_USERNS = 0xB701

_IN_ITS_USER_NAMESPACE = f"""
import ctypes, fcntl, os, socket, sys
network, port, channel = map(int, sys.argv[1:])
owner = fcntl.ioctl(network, {_NS_GET_USERNS})
ours = os.stat("/proc/self/ns/user")
for descriptor in (network,) if os.path.samestat(os.fstat(owner), ours) else (owner, network):
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("127.0.0.1", port))
listening.listen()
socket.send_fds(socket.socket(fileno=channel), [b"x"], [listening.fileno()])
"""
"""Only a process of a single thread may enter a user namespace. Which one that is the kernel says: the owner of the
network namespace, which need not be that of the process. Bubblewrap nests two of them to mount devices."""


def listen_inside(pid: int, port: int) -> socket.socket | None:
    """A socket that listens at 127.0.0.1 of the network namespace of process ``pid``; None if that is our own.

    It serves from wherever it is accepted on. Blocks for a few milliseconds. Without privileges it works where the
    process is in a user namespace of ours, as rootless containers are. Raises OSError; ProcessLookupError if it ended.
    """
    try:
        theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}") from error
    try:
        if os.path.samestat(os.fstat(theirs), Path("/proc/self/ns/net").stat()):
            return None
        try:
            return _in_a_thread_of_there(theirs, port)
        except PermissionError:
            return _by_a_process_of_there(theirs, port)
    finally:
        os.close(theirs)


def _in_a_thread_of_there(namespace: int, port: int) -> socket.socket:
    """The thread ends with its work: it stays in the other namespace."""
    found: list[socket.socket | OSError] = []

    def listen() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            found.append(socket.create_server(("127.0.0.1", port)))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=listen, name="listen inside")
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _by_a_process_of_there(namespace: int, port: int) -> socket.socket:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _IN_ITS_USER_NAMESPACE, *map(str, (namespace, port, theirs.fileno()))],
            pass_fds=[namespace, theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
        if ran.returncode:
            said = ran.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {ran.returncode}"]
            raise PermissionError(errno.EPERM, f"its network namespace cannot be entered: {said[-1]}")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptors[0])
