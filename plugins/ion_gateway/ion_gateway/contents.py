"""What a request brings, by its content type: pairs of JSON, or pairs and files of a form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import multipart

from ion_core.contracts.storage import BlobInfo
from ion_core.errors import InvalidEvent
from ion_core.listening.arriving import Arrivals
from ion_core.listening.bodies import Body
from ion_core.listening.forms import read_form
from ion_core.listening.refusals import Refused
from ion_gateway.answers import BROKEN
from ion_gateway.pairs import read_json

if TYPE_CHECKING:
    from aiohttp import web

    from ion_gateway.gateway_settings import GatewaySettings

JSON, FORM = "application/json", "multipart/form-data"


@dataclass(frozen=True, kw_only=True)
class Brought:
    """``files`` by the name that modules will see; ``told`` is what those hold that were hashed as they came."""

    pairs: Sequence[tuple[str, str]] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    told: Mapping[str, BlobInfo] = field(default_factory=dict)


async def read_content(
    request: web.BaseRequest,
    settings: GatewaySettings,
    *,
    into: Arrivals,
    also: Callable[[bytes], None] | None,
    whole: bool,
) -> Callable[[], Brought]:
    """Read the body, files ``into`` those of the request; what is returned says what it brings, or raises InvalidEvent.

    Until that is called nothing of the content is judged, but its form: a signature comes first. ``also`` is given each
    chunk of the body, which has the limit of signed ones then; ``whole`` refuses forms. Raises Refused and Gone.
    """
    _check_packing(request)
    given = request.headers.get("Content-Type", "")
    kind, options = multipart.parse_options_header(given)
    most = settings.max_body if also is None else settings.max_signed
    if kind == JSON or (kind != FORM and not request.body_exists):  # nothing is no JSON, and no mistake either
        if options.get("charset", "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8"):
            raise _unsupported("JSON is UTF-8. Send it as that.")
        body = Body(request, limit=min(most, settings.max_json), what="JSON", also=also, broken=BROKEN)
        raw = await body.read()
        return lambda: Brought(pairs=read_json(raw, limit=settings.max_json, max_pairs=settings.max_pairs))
    if kind == FORM and not whole:
        boundary = options.get("boundary", "")
        if not boundary or not boundary.isascii():
            raise Refused(HTTPStatus.BAD_REQUEST, "The header Content-Type has no boundary, or none in ASCII.")
        body = Body(request, limit=most, what="one request", also=also, broken=BROKEN)
        form = await read_form(
            body, boundary, multipart, into=into, max_files=settings.max_files, max_pairs=settings.max_pairs
        )

        def brought() -> Brought:
            if form.problems:
                raise InvalidEvent(form.problems)
            return Brought(pairs=form.pairs, files=form.files, told=form.told)

        return brought
    ways = JSON if whole else f"{JSON}, or {FORM} with files"
    raise _unsupported(f"The Content-Type {given[:80]!r} is not taken. Send {ways}.")


async def read_json_of_any_kind(
    request: web.BaseRequest, settings: GatewaySettings, *, also: Callable[[bytes], None] | None
) -> bytes:
    """The body, whatever its Content-Type says, as senders do that mean JSON. Raises Refused and Gone."""
    _check_packing(request)
    limit = settings.max_json if also is None else min(settings.max_json, settings.max_signed)
    return await Body(request, limit=limit, what="JSON", also=also, broken=BROKEN).read()


def _check_packing(request: web.BaseRequest) -> None:
    packed = request.headers.get("Content-Encoding", "identity").strip().lower()
    if packed != "identity":
        raise _unsupported(f"A body that is packed ({packed[:40]!r}) is not taken. Send it as it is.")


def _unsupported(detail: str) -> Refused:
    return Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
