"""The predecessor's front API: a link that is sent to ``POST /`` starts a flow. Its names are the module contract's."""

from __future__ import annotations

from http import HTTPStatus

from ion_core import strict_json
from ion_core.errors import InvalidEvent
from ion_core.listening.refusals import Refused

NAME = "frontapi"
"""Of what publishes, and of the parent that no event is."""


def read_link(raw: bytes, *, limit: int) -> str:
    """The ``url`` of a body, which may have other keys. Raises Refused (400) for what is no JSON; InvalidEvent."""
    try:
        value = strict_json.loads(raw, what="body", limit=limit)
    except InvalidEvent as error:
        raise Refused(HTTPStatus.BAD_REQUEST, 'Send {"url": "…"} as JSON.', problems=error.problems) from error
    if not isinstance(value, dict):
        raise InvalidEvent('body: must be an object {"url": "…"}')
    url = value.get("url")
    if not isinstance(url, str) or not url:
        raise InvalidEvent(f"body.url: {'must be text, and not empty' if 'url' in value else 'is missing'}")
    return url
