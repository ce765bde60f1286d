"""Reaching RabbitMQ at one of several addresses: of a list, or of a name that has several.

Each gets its share of the time: a node that is frozen still takes TCP connections, and would use up that of the others.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import aio_pika
from aio_pika.connection import make_url
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AMQPConnectionError,
    AuthenticationError,
    ProbableAuthenticationError,
)

from ion_core.errors import ConfigError
from ion_core.words import counted
from ion_rabbitmq import tls
from ion_rabbitmq.closed_frames import Transport
from ion_rabbitmq.settings import RabbitSettings

CONNECTING_TAKES = 0.8
"""Of the timeout, at most: what is left is for what was to be asked."""


class Connection(aio_pika.Connection):
    """As aio-pika's, but that it hands on what others wrote unread, and starts nothing when it is collected: we close
    what we have opened ourselves.

    Its own would close itself there, also where connecting failed, in a task that nobody owns. Collected at the end of
    an event loop that task is never run.
    """

    frames: Transport
    """What its frames go through."""

    def to(self, address: str) -> Connection:
        """That it will be to that address of its name; to any of them, without one."""
        self.frames = Transport(address)
        self.kwargs["transport_factory"] = self.frames
        return self

    def __del__(self) -> None:
        """Not the base's."""


async def connected(
    settings: RabbitSettings, *, properties: dict[str, Any], heartbeat: int, first: int
) -> tuple[Connection, int, str]:
    """A connection to the first address that answers, from number ``first`` on, its number, and the address for people.

    Raises what connecting raised; of several failures what no waiting mends, else one that has all of them.
    """
    found = [
        (settings.at(url), address) for url in settings.addresses() for address in await _resolved(settings.at(url))
    ]
    order = [(first + n) % len(found) for n in range(len(found))]
    timeout = settings.timeout.total_seconds()
    give_up = asyncio.get_running_loop().time() + timeout * (CONNECTING_TAKES if len(found) > 1 else 1)
    failures: list[BaseException] = []
    for tried, number in enumerate(order):
        at, address = found[number]
        share = (give_up - asyncio.get_running_loop().time()) / (len(found) - tried)
        try:
            connection = await _connected(at, address, properties, heartbeat, max(share, 0.01))
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            if (refused := await tls.refusal(at, error)) is not None:
                refused.__cause__ = error
            failures.append(refused or error)
        else:
            return connection, number, _named(at, address)
    final = (ConfigError, AuthenticationError, ProbableAuthenticationError)
    of_these = next((it for it in failures if isinstance(it, final)), failures[0])
    if len(failures) == 1 or isinstance(of_these, final):
        raise of_these
    said = "; ".join(
        f"{_named(at, address)}: {str(error) or type(error).__name__}"
        for (at, address), error in zip([found[number] for number in order], failures, strict=True)
    )
    raise AMQPConnectionError(f"none of {counted(len(found), 'address')} answers: {said}") from of_these


def _named(settings: RabbitSettings, address: str) -> str:
    return f"{settings.place()} ({address})" if address else settings.place()


async def _connected(
    settings: RabbitSettings, address: str, properties: dict[str, Any], heartbeat: int, within: float
) -> Connection:
    connection = Connection(
        make_url(settings.url.get_secret_value(), heartbeat=heartbeat),
        ssl_context=tls.context(settings),
        client_properties=properties,
    ).to(address)
    await connection.connect(timeout=within)
    return connection


async def _resolved(settings: RabbitSettings) -> Sequence[str]:
    """The addresses of its name, if there are several; otherwise the name is good enough, whatever it stands for."""
    host, port = settings.host_and_port()
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return [""]
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return addresses if len(addresses) > 1 else [""]
