"""Sockets that listen, and take so many connections at a time: counted as they come, before any TLS is spoken."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from typing import Any
from weakref import WeakSet

from ion_core.errors import ConfigError, IonError, TransientError
from ion_core.listening.handshakes import peer
from ion_core.words import counted

log = logging.getLogger(__name__)

CONNECTIONS = 4
"""For each request that may be under way, so many connections may be open: clients keep theirs for the next one."""


class Open:
    """The connections that are open, of all addresses: ``most`` at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._full = False

    def takes(self, connection: socket.socket) -> bool:
        """Whether there is room for one more. Where not that is said once, however many come."""
        full = sum(it.fileno() >= 0 for it in self._sockets) >= self._most
        if full and not self._full:
            log.warning("there are %s already: others are closed as they come", counted(self._most, "connection"))
        self._full = full
        if not full:
            self._sockets.add(connection)
        return not full


class _Listening(socket.socket):
    def __init__(self, bound: socket.socket, open_ones: Open) -> None:
        super().__init__(fileno=bound.detach())
        self._open_ones = open_ones

    def accept(self) -> tuple[socket.socket, Any]:
        connection, address = super().accept()
        if self._open_ones.takes(connection):
            peer.set(str(address[0]))  # the task that asyncio makes for it next begins with that
            return connection, address
        connection.close()
        raise ConnectionAbortedError("there are too many")  # which asyncio passes over


async def listen(name: str, port: int, open_ones: Open) -> list[socket.socket]:
    """One for each address that the name has. Raises OSError."""
    found: list[socket.socket] = []
    addresses = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    try:
        for family, _, _, _, address in dict.fromkeys(addresses):
            found.append(_Listening(socket.create_server(address[:2], family=family, backlog=128), open_ones))
    except OSError:
        for it in found:
            it.close()
        raise
    return found


def most_connections(max_requests: int) -> int:
    """Never more than half of the files that this process may have open: modules and stores need theirs."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS * max_requests
    return wanted if files == resource.RLIM_INFINITY else min(wanted, max(files // 2, 1))


def cannot_listen(where: str, error: OSError) -> IonError:
    """What is to be raised instead, naming the key and what it says: ``where``."""
    if error.errno == errno.EADDRINUSE:
        return TransientError(f"{where}: is taken. End what listens there (`ss -tlnp`), or choose another port.")
    return ConfigError(f"{where}: cannot be listened on: {error.strerror or error}.")


def url_of(address: tuple[Any, ...], *, tls: bool) -> str:
    """Of a socket's address."""
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{'https' if tls else 'http'}://{shown}:{address[1]}"
