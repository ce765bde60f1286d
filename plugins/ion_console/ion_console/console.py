"""The service ``console``: it listens, hands requests to ``Api``, counts, and ends what is under way when told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from aiohttp import web

from ion_console.answers import Aside, refusal
from ion_console.api import Api
from ion_console.guard import Guard
from ion_console.metrics import Metrics
from ion_console.pages import Pages, Shell, is_for_people
from ion_console.publishing import Publishing
from ion_console.settings import ConsoleSettings, taken_over
from ion_console.streams import Streams
from ion_core.contracts.service import ServiceHost
from ion_core.errors import IonError, PluginFailed, TransientError
from ion_core.listening import tls
from ion_core.listening.bodies import Gone
from ion_core.listening.proxies import Proxies
from ion_core.listening.refusals import Refused, later
from ion_core.listening.settings import is_loopback
from ion_core.listening.sockets import Open, cannot_listen, listen, most_connections, url_of
from ion_core.listening.tls import Certificate

log = logging.getLogger(__name__)

HEALTH = ("/healthz", "/readyz")
IDLE_FOR = 30.0
"""Seconds that a connection may be open without a request, or with one whose head is not there as a whole."""
FINISH_WITHIN = 2.0
"""Seconds that requests under way get to finish when the service is to end."""


class Console:
    """``url`` is where it listens, once it is ready. Raises ConfigError for a certificate that cannot be used."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings = settings
        self._proxies = Proxies(settings.trusted_proxies)
        self._api: Api | None = None
        self._pages: Pages | None = None
        self._streams: Streams | None = None
        self._certificate = Certificate(settings) if settings.cert_file is not None else None
        self._under_way: set[asyncio.Task[Any]] = set()
        self.url = ""

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Raises ConfigError, TransientError where it cannot listen; what counting raises."""
        metrics = Metrics(host)
        self._streams = Streams(self._settings.max_streams, stop)
        guard = Guard(self._settings, self._proxies)
        publishing = Publishing(host, self._settings)
        guarded = self._settings.tokens is not None
        aside = Aside()
        self._api = Api(host, metrics, self._streams, guard, publishing, aside, guarded=guarded)
        self._pages = Pages(Shell(host, metrics.rates, guard, aside, guarded=guarded, tell=self._api.mended))
        server = _Server(
            self._handle,
            access_log=None,
            logger=log,
            keepalive_timeout=IDLE_FOR,
            lingering_time=1.0,
            auto_decompress=False,  # what is packed is refused, and never unpacked without a bound
            handler_cancellation=True,  # whoever leaves gives back the room of a stream at once
        )
        runner = web.ServerRunner(server, shutdown_timeout=FINISH_WITHIN)
        await runner.setup()
        counting = asyncio.Event()
        beside = [asyncio.create_task(self._count(metrics, counting), name="metrics")]
        if self._certificate is not None:
            beside.append(asyncio.create_task(self._renew(self._certificate), name="certificate"))
        try:
            await self._listen(runner)
            await counting.wait()
            log.info("the console listens", extra={"url": self.url})
            ready.set()
            await stop.wait()
        finally:
            for task in beside:
                task.cancel()
            await runner.cleanup()
            await asyncio.wait(beside)
            if self._under_way:  # cancelled by now; what they have in the work directory goes with them
                await asyncio.wait(self._under_way, timeout=FINISH_WITHIN)

    def reload(self, settings: ConsoleSettings) -> Collection[str]:
        """Take over who may look and mend; the certificate is read again. Streams of who may not any more end."""
        if self._certificate is not None:
            _look(self._certificate, again=True)
        self._settings, left = taken_over(self._settings, settings)
        for part in (self._api, None if self._pages is None else self._pages.shell):
            if part is not None:
                part.guard = Guard(self._settings, self._proxies)
                part.guarded = self._settings.tokens is not None
        return left

    async def _count(self, metrics: Metrics, counting: asyncio.Event) -> None:
        """As long as it serves. Where the host does not tell of changes, the rest goes on without counts of them."""
        try:
            await metrics.count(counting)
        except IonError as error:
            log.error("what happens is not counted: %s", error)
        except Exception as error:
            log.exception("what happens is not counted", exc_info=error)
        finally:
            counting.set()

    async def _renew(self, certificate: Certificate) -> None:
        while True:
            await asyncio.sleep(tls.LOOK_EVERY)
            _look(certificate)

    async def _listen(self, runner: web.ServerRunner) -> None:
        settings, certificate = self._settings, self._certificate
        where = f"{settings.section.where('listen')}: {settings.listen}"
        most = most_connections(settings.max_requests + settings.max_streams)
        try:
            for it in await listen(*settings.address, Open(most)):
                await web.SockSite(runner, it, ssl_context=None if certificate is None else certificate.context).start()
        except OSError as error:
            raise cannot_listen(where, error) from error
        self.url = url_of(runner.addresses[0], tls=certificate is not None)
        if certificate is None and not is_loopback(settings.listen) and not settings.exposed:
            log.warning(
                "%s: others reach it and HTTP is plain: tokens can be read on their way. Give cert_file, or put what "
                "ends TLS before it and set exposed: true",
                where,
            )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """An answer, whatever happens."""
        assert self._api is not None
        assert self._pages is not None
        assert self._streams is not None
        pages = self._pages if is_for_people(request) else None
        about = {"remote": self._proxies.client(request)}
        refused = Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "It failed here. The log of the console says why.")
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            full = len(self._under_way) - self._streams.open > self._settings.max_requests
            if full and request.path not in HEALTH:  # who is not answered there ends the process
                raise later(HTTPStatus.SERVICE_UNAVAILABLE, "There are too many requests at this moment.")
            return await (self._api if pages is None else pages).answer(request)
        except Refused as error:
            refused = error
        except Gone:
            log.info("a client left in the middle of its request", extra=about)
            refused = Refused(HTTPStatus.BAD_REQUEST, "The body is not there as a whole.")
        except TransientError as error:
            log.warning("a request could not be answered now: %s", error, extra=about)
            refused = later(HTTPStatus.SERVICE_UNAVAILABLE, "A store or the broker is away. The log says which.")
        except IonError as error:
            fault = error if isinstance(error, PluginFailed) else None
            log.error("a request could not be answered: %s", error, extra=about, exc_info=fault)
        except ConnectionError:
            raise  # it has left in the middle of its answer
        except Exception as error:
            log.exception("a request failed", extra=about, exc_info=error)
        finally:
            self._under_way.discard(task)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")  # and ends here: the client sees that it is not whole
        return refusal(refused) if pages is None else await pages.shell.refused(request, refused)


def _look(certificate: Certificate, *, again: bool = False) -> None:
    try:
        certificate.look(again=again)
    except tls.Unusable as error:
        log.error("the certificate of before stays in use: %s", error)


class _Server(web.Server):
    def __init__(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **how: Any) -> None:
        cancels = how.pop("handler_cancellation")
        super().__init__(handle, handler_cancellation=cancels, **how)
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
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        answer = refusal(
            Refused(HTTPStatus(status), "This is no request as HTTP/1.1 has it, or its head is too large.")
        )
        answer.force_close()
        return answer


@asynccontextmanager
async def open_console(settings: ConsoleSettings) -> AsyncIterator[Console]:
    """The service, which listens once it is run. Raises ConfigError."""
    yield Console(settings)
