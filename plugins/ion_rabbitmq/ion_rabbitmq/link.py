"""Connections to RabbitMQ, made anew when they are lost, and its exceptions as ours.

Not aio-pika's robust connection: it restores channels on its own, and a channel that comes back has lost every
delivery it held, which is exactly what has to be said out loud here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import aiormq
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
from aiormq.exceptions import ChannelAccessRefused

from ion_core.errors import ConfigError, IonError, TransientError
from ion_rabbitmq.alarms import Alarm
from ion_rabbitmq.arriving import ConsumingChannel
from ion_rabbitmq.closed_frames import Reader
from ion_rabbitmq.gathered import Writer
from ion_rabbitmq.publishing import ConfirmChannel
from ion_rabbitmq.reaching import Connection, connected
from ion_rabbitmq.settings import RabbitSettings

log = logging.getLogger(__name__)

_ours: ContextVar[bool] = ContextVar("ion_rabbitmq.link", default=False)
"""Set for what is opened and asked here, and so in every task of the client library that serves it."""


class _Quiet(logging.Filter):
    """What the client library logs of our connections is for who debugs them.

    It tells of one lost connection in several lines, one of which is a traceback; we tell it in one. Connections that
    others have in this process are none of our business.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not _ours.get() or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


for _name in ("aiormq.connection", "aiormq.channel"):
    logging.getLogger(_name).addFilter(_Quiet())


class NotPermitted(ConfigError):
    """The user may not do what was asked; what already exists may still be used."""


class Link:
    """One connection. ``purpose`` is its name in RabbitMQ's management pages."""

    def __init__(self, settings: RabbitSettings, purpose: str) -> None:
        self._settings = settings
        self._purpose = purpose
        self.version = "of unknown version"
        """The server's, once connected."""
        self.connections = 0
        """How many there have been."""
        self.frame = 0
        """Bytes of a frame that the server takes, once connected."""
        self._connection: Connection | None = None
        self._told: AbstractConnection | None = None
        """Of which it has been said that it is lost."""
        self._alarm: Alarm | None = None
        self._place = settings.place()
        """Where it is connected to."""
        self._number = 0
        """Of the address that is tried first."""
        self._lock = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    async def channel(self, *, returns: bool = False) -> AbstractChannel:
        """A new channel, over a new connection if the old one is gone. Publishes on it are confirmed."""
        return (await self._opened(returns=returns))[1]

    async def confirm_channel(self) -> ConfirmChannel:
        """The same, to publish on without waiting."""
        return ConfirmChannel(*await self._bare())

    async def consuming_channel(self) -> ConsumingChannel:
        """The same, to consume on."""
        return ConsumingChannel(*await self._bare())

    async def _bare(self) -> tuple[AbstractChannel, aiormq.Channel, Reader, Writer]:
        connection, channel = await self._opened(returns=True)
        underlay, frames = await channel.get_underlay_channel(), connection.frames
        assert isinstance(underlay, aiormq.Channel)
        assert frames.reader is not None, "it has just been connected"
        assert frames.writer is not None, "it has just been connected"
        return channel, underlay, frames.reader, frames.writer

    async def _opened(self, *, returns: bool) -> tuple[Connection, AbstractChannel]:
        timeout = self._settings.timeout.total_seconds()
        with translated(self._settings):
            connection: Connection | None = None
            try:
                async with asyncio.timeout(timeout):
                    connection = await self._connected()
                    channel = connection.channel(publisher_confirms=True, on_return_raises=returns)
                    await channel.initialize()
                    return connection, channel
            except Exception as error:
                self._give_up(connection, f"it opens no channel: {str(error) or type(error).__name__}")
                raise

    @property
    def alarm(self) -> str | None:
        """Why the server takes no messages on it; None where it does, or does not say."""
        return str(self._alarm) if self._alarm else None

    def give_up(self, why: str) -> None:
        """It lives and is of no use. The next one is to another address, if there are several."""
        self._give_up(self._connection, f"{why}, and is given up")

    def _give_up(self, connection: Connection | None, why: str) -> None:
        """It may not know yet that it is dead; whatever it still had ends with it."""
        if connection is None or connection is not self._connection:
            return  # another has taken its place
        self._connection = None
        self._number += 1
        if not connection.close_called:
            self._tell_lost(connection, why)
        self.end(connection)

    def end(self, what: AbstractChannel | AbstractConnection) -> None:
        """Close it, without waiting for that."""
        ending = asyncio.create_task(closed(what, self._settings), name=f"end of what was open to {self._purpose}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _connected(self) -> Connection:
        async with self._lock:
            if self._connection is None or _is_lost(self._connection):
                self._connection, self._number, self._place = await connected(
                    self._settings, properties=self._name(), heartbeat=self._heartbeat(), first=self._number
                )
                assert self._connection.transport is not None, "it has just been connected"
                self._alarm = Alarm(self._connection.transport.connection)
                self.connections += 1
                self._connection.close_callbacks.add(self._on_close)
                self.version, self.frame = _version_of(self._connection), _frame_of(self._connection)
                about = {"purpose": self._purpose, "place": self._place, "version": self.version}
                log.info("connected to RabbitMQ", extra=about)
            return self._connection

    def _name(self) -> dict[str, Any]:
        """As operators see it: whose it is, where, and what for."""
        process = f"{socket.gethostname()} {os.getpid()}"
        return {"connection_name": f"ion {self._settings.prefix} {process} {self._purpose}"}

    def _on_close(self, connection: object, error: BaseException | None = None) -> None:
        if connection is self._connection and self._connection is not None and not self._connection.close_called:
            self._tell_lost(self._connection, str(error) or type(error).__name__)

    def _tell_lost(self, connection: AbstractConnection, why: str) -> None:
        """The one line that says so, whatever was open on it."""
        if connection is self._told:
            return
        self._told = connection
        about = {"purpose": self._purpose, "place": self._place}
        log.warning("connection to RabbitMQ lost: %s", why, extra=about)

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


@contextmanager
def _ours_alone() -> Iterator[None]:
    """Within it what the client library says, and the tasks that it starts, are about ours."""
    before = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(before)


async def closed(what: AbstractChannel | AbstractConnection, settings: RabbitSettings) -> None:
    """Close it, within the timeout; one that is gone already is closed."""
    try:
        with _ours_alone():
            async with asyncio.timeout(settings.timeout.total_seconds()):
                await what.close()
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        log.debug("was closed already: %s", error)
    except asyncio.CancelledError:
        if _we_are_cancelled():
            raise
        log.debug("its connection was lost meanwhile")
    except Exception as error:
        if not _is_nameless(error):
            raise
        log.debug("was closed meanwhile")


@contextmanager
def translated(settings: RabbitSettings) -> Iterator[None]:
    """Exceptions of aio-pika, the network and the clock as ours; what they say is all that is said."""
    section = settings.section
    try:
        with _ours_alone():
            yield
    except (IonError, ChannelNotFoundEntity, PublishError):
        raise  # the caller knows what it asked for
    except ChannelPreconditionFailed as error:
        said = error.args[0] if error.args else error
        raise ConfigError(
            f"{settings.place()}: {said}: it was declared by somebody else, or by another version. "
            f"Delete it once it is empty, or set another {section.dotted('prefix')} or {section.dotted('exchange')}."
        ) from error
    except ChannelAccessRefused as error:
        said = error.args[0] if error.args else error
        raise NotPermitted(f"{settings.place()}: {said}. {settings.permissions()}") from error
    except (AuthenticationError, ProbableAuthenticationError) as error:
        raise ConfigError(
            f"{settings.place()}: refuses user, password or virtual host. Correct {section.dotted('url')}."
        ) from error
    except asyncio.CancelledError as error:
        if _we_are_cancelled():
            raise
        raise TransientError(f"{settings.place()}: RabbitMQ: the connection was lost meanwhile") from error
    except TimeoutError as error:
        seconds = settings.timeout.total_seconds()
        raise TransientError(f"{settings.place()}: RabbitMQ does not answer within {seconds:g} s") from error
    except (*CONNECTION_EXCEPTIONS, ChannelInvalidStateError, asyncio.InvalidStateError) as error:
        raise TransientError(f"{settings.place()}: RabbitMQ: {str(error) or type(error).__name__}") from error
    except Exception as error:
        if not _is_nameless(error):
            raise
        raise TransientError(f"{settings.place()}: RabbitMQ: the connection was closed meanwhile") from error


def _we_are_cancelled() -> bool:
    """Whether anybody wants that: aiormq cancels what waits on a connection that dies."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _is_nameless(error: Exception) -> bool:
    """Whether it is aiormq's to what waits on a connection that is closed without an error, by us."""
    return type(error) is Exception and not error.args


def _is_lost(connection: AbstractConnection) -> bool:
    """Whether nothing can be asked on it any more. Its own ``is_closed`` knows only of our closing it."""
    return connection.transport is None or connection.transport.connection.is_closed


def _version_of(connection: AbstractConnection) -> str:
    assert connection.transport is not None, "it has just been connected"
    found = connection.transport.connection.server_properties.get("version", "of unknown version")
    return found.decode() if isinstance(found, bytes) else str(found)


def _frame_of(connection: AbstractConnection) -> int:
    assert connection.transport is not None, "it has just been connected"
    found: int = connection.transport.connection.connection_tune.frame_max
    return found
