"""The service ``gateway``: it listens, hands requests to ``Receiver``, and ends what is under way when told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from aiohttp import web

from ion_core.contracts.service import ServiceHost
from ion_core.errors import IonError, PluginFailed
from ion_core.listening import tls
from ion_core.listening.bodies import Gone
from ion_core.listening.refusals import Refused, later
from ion_core.listening.settings import is_loopback
from ion_core.listening.sockets import Open, cannot_listen, listen, most_connections, url_of
from ion_core.listening.system import keep_freed_memory
from ion_core.listening.tls import Certificate
from ion_gateway.answers import refusal
from ion_gateway.gateway_settings import GatewaySettings, taken_over
from ion_gateway.receiving import Receiver

log = logging.getLogger(__name__)

IDLE_FOR = 30.0
"""Seconds that a connection may be open without a request, or with one whose head is not there as a whole."""
LINGER_FOR = 2.0
"""Seconds for which what a refused client still sends is read, so that it sees the answer."""
FINISH_WITHIN = 3.0
"""Seconds that requests under way get to finish when the service is to end, and again when they are cancelled."""


class Gateway:
    """``url`` is where it listens, once it is ready."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._receiver: Receiver | None = None
        self._certificate: Certificate | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self.url = ""

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Raises ConfigError, TransientError where it cannot listen."""
        self._stopping = False
        certificate = Certificate(self._settings) if self._settings.cert_file is not None else None
        self._receiver, self._certificate = Receiver(self._settings, host, stop), certificate
        server = _Server(
            self._handle,
            access_log=None,
            logger=log,
            keepalive_timeout=IDLE_FOR,
            lingering_time=LINGER_FOR,
            auto_decompress=False,  # what is packed is refused, and never unpacked without a bound
        )
        runner = web.ServerRunner(server, shutdown_timeout=FINISH_WITHIN)
        await runner.setup()
        renewing = None if certificate is None else asyncio.create_task(self._renew(certificate), name="certificate")
        try:
            await self._listen(runner, certificate)
            log.info("the gateway listens", extra={"url": self.url})
            ready.set()
            await stop.wait()
        finally:
            self._stopping = True
            if renewing is not None:
                renewing.cancel()
            await runner.cleanup()
            if self._under_way:  # cancelled by now; what they have in the work directory goes with them
                await asyncio.wait(self._under_way, timeout=FINISH_WITHIN)

    def reload(self, settings: GatewaySettings) -> Collection[str]:
        """Take over who may publish, here and by routes that are in both; requests under way keep who might.

        Certificates are read again before: names in those of clients are of the authorities that are in use.
        """
        usable = self._certificate is None or self._look(self._certificate, again=True)
        self._settings, left = taken_over(self._settings, settings, authorities=usable)
        if self._receiver is not None:
            self._receiver = self._receiver.by(self._settings)
        return left

    async def _renew(self, certificate: Certificate) -> None:
        while True:
            await asyncio.sleep(tls.LOOK_EVERY)
            self._look(certificate)

    def _look(self, certificate: Certificate, *, again: bool = False) -> bool:
        """Whether the files are in use as they are by now."""
        try:
            certificate.look(again=again)
        except tls.Unusable as error:
            log.error("the certificates of before stay in use: %s", error)
            return False
        return True

    async def _listen(self, runner: web.ServerRunner, certificate: Certificate | None) -> None:
        name, port = self._settings.address
        where = f"{self._settings.section.where('listen')}: {self._settings.listen}"
        try:
            for it in await listen(name, port, Open(most_connections(self._settings.max_requests))):
                await web.SockSite(runner, it, ssl_context=None if certificate is None else certificate.context).start()
        except OSError as error:
            raise cannot_listen(where, error) from error
        self.url = url_of(runner.addresses[0], tls=certificate is not None)
        if certificate is None and not is_loopback(self._settings.listen) and not self._settings.exposed:
            log.warning(
                "%s: others reach it and HTTP is plain: tokens and files can be read on their way. Give cert_file, or "
                "put what ends TLS before it and set exposed: true",
                where,
            )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """An answer, whatever happens."""
        task, receiver = asyncio.current_task(), self._receiver
        assert task is not None
        assert receiver is not None
        try:
            if self._stopping:
                raise later(HTTPStatus.SERVICE_UNAVAILABLE, "The gateway is ending.")
            if len(self._under_way) >= self._settings.max_requests:
                raise later(HTTPStatus.SERVICE_UNAVAILABLE, "There are too many requests at this moment.")
            if self._certificate is not None and not self._certificate.trusts(request.get_extra_info("ssl_object")):
                raise later(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "Clients need a certificate of other authorities by now. Send it again on a new connection.",
                    close=True,
                )
            self._under_way.add(task)
            return await receiver.answer(request)
        except Refused as refused:
            return refusal(refused)
        except Gone:
            log.info("a client left in the middle of its request", extra=_of(request, receiver))
            return refusal(Refused(HTTPStatus.BAD_REQUEST, "The body is not there as a whole."))
        except IonError as error:
            log.error(
                "a request could not be answered: %s",
                error,
                extra=_of(request, receiver),
                exc_info=error if isinstance(error, PluginFailed) else None,
            )
        except Exception as error:
            log.exception("a request failed", extra=_of(request, receiver), exc_info=error)
        finally:
            self._under_way.discard(task)
        return refusal(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "It failed here. The log of the gateway says why."))


def _of(request: web.BaseRequest, receiver: Receiver) -> dict[str, str]:
    """Whose request it is, for the log."""
    return {"remote": receiver.proxies.client(request)}


class _Server(web.Server):
    def __init__(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **how: Any) -> None:
        super().__init__(handle, **how)
        self._how = how

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._how)


class _Connection(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """For what is no HTTP: in our words, which show nothing of what came, nor of what we are."""
        log.info("no request: %s", " ".join(str(exc).split())[:200], extra={"remote": request.remote})
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        answer = refusal(
            Refused(HTTPStatus(status), "This is no request as HTTP/1.1 has it, or its head is too large.")
        )
        answer.force_close()
        return answer


@asynccontextmanager
async def open_gateway(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """The service, which listens once it is run."""
    keep_freed_memory()
    yield Gateway(settings)
