"""What all pages have: the frame around them, their policy, who looks, and how what is refused is said."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from ion_console.answers import BROKEN, HEADERS, Aside
from ion_console.guard import READING, Guard
from ion_console.pages import words
from ion_console.pages.words import segment
from ion_console.rates import Rates
from ion_console.routing import Parameter, number, one_of
from ion_core.contracts.looking import LetterId, QueueView
from ion_core.contracts.messaging import DeadLetter
from ion_core.contracts.service import ServiceHost
from ion_core.errors import IonError
from ion_core.listening.bodies import Body
from ion_core.listening.refusals import RETRY_AFTER, Refused
from ion_core.words import counted

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing of a page is from elsewhere, and no script or style stands in it, whatever a name or a log holds."""
_OF_PAGES = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
"""Browsers name no origin for a form of a page with ``no-referrer``."""
COUNTED_FOR = 2.0
"""Seconds that counts of queues are shown again before they are asked for anew."""
COUNTED_WITHIN = 1.0
"""Seconds that a page waits for them, which are beside the matter on most."""
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
MOST_FORM = 1024 * 1024
MOST_FIELDS = 10_000
_DONE = {"redrive": "put back into the queue", "purge": "deleted"}
DID: tuple[Parameter, ...] = (
    one_of("did", "What was done to dead letters.", tuple(_DONE)),
    number("count", "To how many.", 999_999_999),
)
"""Of the page that one comes to after that."""


class Shell:
    """Around every page. ``guard`` is that which is in use now; ``tell`` is called when dead letters were mended."""

    def __init__(
        self, host: ServiceHost, rates: Rates, guard: Guard, aside: Aside, *, guarded: bool, tell: Callable[[], None]
    ) -> None:
        self.host, self.rates, self.guard, self.guarded = host, rates, guard, guarded
        self.aside = aside
        self._tell = tell
        self._queues: tuple[float, int, list[QueueView]] = (0.0, -1, [])
        self._templates = Environment(
            loader=PackageLoader("ion_console.pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters = (
            "moment",
            "exact",
            "duration",
            "short",
            "segment",
            "size",
            "pairs",
            "title",
            "jobs_in_short",
            "ends",
            "asking",
        )
        self._templates.filters |= {name: getattr(words, name) for name in filters}
        self._templates.filters["number"] = "{:,}".format
        self._templates.tests["picture"] = lambda name: name.endswith(_PICTURES)
        self._templates.globals |= {"counted": counted, "states": words.STATES, "took": words.took}

    async def page(
        self,
        request: web.BaseRequest,
        name: str,
        /,
        *,
        at: str = "",
        status: HTTPStatus = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> web.Response:
        """The template of that name in the frame; ``at`` says where we are among the views that the frame links."""
        looks = self.may(request, "look")
        frame = {
            "at": at,
            "now": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "looks": looks,
            "live": looks and request.method in READING,  # what a form was answered with is not asked for again
            "mends": self.may(request, "mend"),
            "guarded": self.guarded,
            "dead": await self._dead() if looks else None,
            "health": self.host.health() if looks else None,
        }

        def make() -> bytes:
            text = self._templates.get_template(name).render(**frame, **values)
            return text.encode("utf-8", "backslashreplace")  # half a surrogate pair may have come in

        return web.Response(
            status=status,
            body=await self.aside.made(make),
            content_type="text/html",
            charset="utf-8",
            headers={**HEADERS, **_OF_PAGES, **(headers or {})},
        )

    async def refused(self, request: web.BaseRequest, error: Refused) -> web.Response:
        """What was refused, as a page that says what would do; who is not known is asked for a token."""
        if error.status == HTTPStatus.UNAUTHORIZED and request.method == "GET":
            return await self.page(
                request, "sign_in.html", status=HTTPStatus.UNAUTHORIZED, then=request.path_qs, wrong=False
            )
        headers = {name: it for name, it in error.headers.items() if name != "WWW-Authenticate"}
        if error.status == HTTPStatus.SERVICE_UNAVAILABLE and request.method == "GET":
            headers["Refresh"] = RETRY_AFTER  # without a script, too
        found = await self.page(request, "refused.html", status=error.status, headers=headers, error=error)
        if error.closes:
            found.force_close()
        return found

    def may(self, request: web.BaseRequest, role: Any) -> bool:
        try:
            return self.guard.may(request, role)
        except Refused:
            return False

    async def queues(self) -> list[QueueView]:
        """As they were a moment ago, if nothing has happened here since. Raises as the host does."""
        then, seen, found = self._queues
        if time.monotonic() - then > COUNTED_FOR or seen != self.rates.seen:
            seen = self.rates.seen
            found = list(await self.host.queues())
            self._queues = (time.monotonic(), seen, found)
        return found

    def mended(self) -> None:
        """Dead letters were put back or deleted here: pages that are open are told."""
        self._queues = (0.0, -1, [])
        self._tell()

    async def _dead(self) -> int | None:
        """How many dead letters there are; None where that is not to be had at once."""
        try:
            async with asyncio.timeout(COUNTED_WITHIN):
                return sum(it.stats.dead for it in await self.queues())
        except (TimeoutError, IonError) as error:
            log.debug("dead letters are not counted: %s", error)
            return None


async def form(request: web.BaseRequest) -> dict[str, list[str]]:
    """What a form of ours has sent. Raises Refused, Gone."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the form of the page.")
    body = await Body(request, limit=MOST_FORM, what="a form", broken=BROKEN).read()
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "This is no form.") from error
    given: dict[str, list[str]] = {}
    for name, value in fields:
        given.setdefault(name, []).append(value)
    return given


def letter_name(letter: DeadLetter) -> str:
    """As a form sends it; ``letter_of`` reads it."""
    return f"{segment(letter.queue)}/{segment(letter.id)}"


def letter_of(name: str) -> LetterId:
    """Of a name that is none there is no dead letter."""
    queue, _, id = name.partition("/")
    return LetterId(unquote(queue), unquote(id))


def done(asked: Mapping[str, Any]) -> str:
    """What was done to dead letters, in words; nothing where nothing was."""
    return f"{counted(asked['count'], 'dead letter')} {_DONE[asked['did']]}." if asked["did"] and asked["count"] else ""


def to(place: str) -> web.Response:
    """Goes on there, by GET."""
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={**HEADERS, "Location": place})
