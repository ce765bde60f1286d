"""Connections to RabbitMQ, made anew when they are lost, and its exceptions as ours.

Not aio-pika's robust connection: it restores channels on its own, and a channel that comes back has lost every
delivery it held, which is exactly what has to be said out loud here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AuthenticationError,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ProbableAuthenticationError,
    PublishError,
)

from ion_core.errors import ConfigError, IonError, TransientError
from ion_rabbitmq import tls
from ion_rabbitmq.settings import RabbitSettings

log = logging.getLogger(__name__)


class _Connection(aio_pika.Connection):
    """As aio-pika's, but that it starts nothing when it is collected: we close what we have opened ourselves.

    Its own would close itself there, also where connecting failed, in a task that nobody owns. Collected at the end of
    an event loop that task is never run.
    """

    def __del__(self) -> None:
        """Not the base's."""


class Link:
    """One connection. ``purpose`` is its name in RabbitMQ's management pages."""

    def __init__(self, settings: RabbitSettings, purpose: str) -> None:
        self._settings = settings
        self._purpose = purpose
        self.version = "of unknown version"
        """The server's, once connected."""
        self._connection: AbstractConnection | None = None
        self._lock = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    async def channel(self, *, returns: bool = False) -> AbstractChannel:
        """A new channel, over a new connection if the old one is gone. Publishes on it are confirmed."""
        timeout = self._settings.timeout.total_seconds()
        with translated(self._settings):
            connection: AbstractConnection | None = None
            try:
                async with asyncio.timeout(timeout):
                    connection = await self._connected()
                    channel = connection.channel(publisher_confirms=True, on_return_raises=returns)
                    await channel.initialize()
                    return channel
            except Exception:
                self._give_up(connection)
                raise

    def _give_up(self, connection: AbstractConnection | None) -> None:
        """It opens no channel and may not know yet that it is dead; whatever it still had ends with it."""
        if connection is None or connection is not self._connection:
            return  # another has taken its place
        self._connection = None
        ending = asyncio.create_task(closed(connection, self._settings), name=f"end of a connection to {self._purpose}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _connected(self) -> AbstractConnection:
        async with self._lock:
            if self._connection is None or _is_lost(self._connection):
                try:
                    self._connection = await aio_pika.connect(
                        self._settings.url.get_secret_value(),
                        timeout=self._settings.timeout.total_seconds(),
                        ssl_context=tls.context(self._settings),
                        client_properties={"connection_name": f"ion {self._purpose}"},
                        heartbeat=self._heartbeat(),
                        connection_class=_Connection,
                    )
                except CONNECTION_EXCEPTIONS as error:
                    if (refused := await tls.refusal(self._settings, error)) is not None:
                        raise refused from error
                    raise
                self.version = _version_of(self._connection)
                about = {"purpose": self._purpose, "place": self._settings.place(), "version": self.version}
                log.info("connected to RabbitMQ", extra=about)
            return self._connection

    def _heartbeat(self) -> int:
        """A little less than asked for: aiormq waits three times as long and a second more for each, then looks."""
        return max(int(self._settings.heartbeat.total_seconds() * 0.9), 1)

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[AbstractChannel]:
        """A channel for a while; what was got on it and not acked goes back when it is closed."""
        channel = await self.channel(returns=True)
        try:
            with translated(self._settings):
                yield channel
        finally:
            await closed(channel, self._settings)

    async def close(self) -> None:
        if self._connection is not None:
            await closed(self._connection, self._settings)
        if self._ending:
            await asyncio.wait(self._ending)


async def closed(what: AbstractChannel | AbstractConnection, settings: RabbitSettings) -> None:
    """Close it, within the timeout; one that is gone already is closed."""
    try:
        async with asyncio.timeout(settings.timeout.total_seconds()):
            await what.close()
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        log.debug("was closed already: %s", error)


@contextmanager
def translated(settings: RabbitSettings) -> Iterator[None]:
    """Exceptions of aio-pika, the network and the clock as ours."""
    try:
        yield
    except (IonError, ChannelNotFoundEntity, PublishError):
        raise  # the caller knows what it asked for
    except ChannelPreconditionFailed as error:
        said = error.args[0] if error.args else error
        raise ConfigError(
            f"{settings.place()}: {said}: it was declared by somebody else, or by another version. "
            "Delete it once it is empty, or set another messaging.prefix or messaging.exchange."
        ) from error
    except (AuthenticationError, ProbableAuthenticationError) as error:
        raise ConfigError(
            f"{settings.place()}: refuses user, password or virtual host. Correct messaging.url."
        ) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # aiormq cancels what waits on a connection that dies; nobody has cancelled us.
        raise TransientError(f"{settings.place()}: RabbitMQ: the connection was lost meanwhile") from error
    except TimeoutError as error:
        seconds = settings.timeout.total_seconds()
        raise TransientError(f"{settings.place()}: RabbitMQ does not answer within {seconds:g} s") from error
    except (*CONNECTION_EXCEPTIONS, ChannelInvalidStateError, asyncio.InvalidStateError) as error:
        raise TransientError(f"{settings.place()}: RabbitMQ: {str(error) or type(error).__name__}") from error


def _is_lost(connection: AbstractConnection) -> bool:
    """Whether nothing can be asked on it any more. Its own ``is_closed`` knows only of our closing it."""
    return connection.transport is None or connection.transport.connection.is_closed


def _version_of(connection: AbstractConnection) -> str:
    assert connection.transport is not None, "it has just been connected"
    found = connection.transport.connection.server_properties.get("version", "of unknown version")
    return found.decode() if isinstance(found, bytes) else str(found)
