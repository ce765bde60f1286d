"""How obstore gets to a bucket or a container, and what its words must be so that it does not fall over them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

from ion_core.contracts.provider import Section

CONNECT = 5.0
ANSWER = 30.0
"""Seconds until a server that says nothing is given up."""
SENT = 600.0
"""The same where much is sent first: a slow line has that long for it."""
_WHOLE = 3600.0
"""Seconds that one request may take, however much it brings."""

_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._=-]+")
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d{1,5}))?(/[A-Za-z0-9._~/-]*)?")
_LAST_PORT = 65_535
_KEY = re.compile(r"[\x21-\x7e]+")


class Wanted(Protocol):
    """Settings that name a place, as a model or plain. See ``settings.Place``."""

    @property
    def url(self) -> str: ...
    @property
    def options(self) -> dict[str, Any]: ...
    @property
    def driver(self) -> str: ...
    @property
    def at_once(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def section(self) -> Section: ...


@dataclass(frozen=True, kw_only=True)
class Direct:
    """How obstore gets there: the arguments of its ``S3Store`` or ``AzureStore``.

    ``keys`` is what its ``credential_provider`` gives; None to look for instance, container and web identities.
    """

    service: Literal["s3", "azure"]
    bucket: str
    prefix: str
    config: Mapping[str, Any]
    client: Mapping[str, Any]
    keys: Mapping[str, Any] | None
    slow: Mapping[str, Any]
    """As ``client``, for requests that send much."""


def split(url: str) -> tuple[str, Sequence[str]]:
    """The bucket or container of ``url``, and the segments of the prefix there."""
    bucket, *segments = url.partition("://")[2].rstrip("/").split("/")
    return bucket, segments


def odd_prefix(segments: Sequence[str]) -> str:
    """A sentence about a prefix that obstore writes otherwise; '' if it does not."""
    if all(_SEGMENT.fullmatch(it) for it in segments):
        return ""
    return "obstore takes prefixes of letters, digits and . _ = - only, none of them empty"


def is_address(endpoint: object) -> bool:
    address = _ENDPOINT.fullmatch(endpoint) if isinstance(endpoint, str) else None
    return address is not None and int(address["port"] or 0) <= _LAST_PORT


def is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def garbled(made: Direct) -> str:
    """What obstore would fall over instead of refusing it; '' if nothing."""
    if not is_address(made.config["endpoint"]):
        return "the endpoint is no address. It must be one such as https://store.example.org"
    if not all(_KEY.fullmatch(it) for it in (made.keys or {}).values() if it is not None):
        return "a key has other letters than keys have, perhaps a line end. Give it without"
    return ""


def client(endpoint: str, at_once: int, *, connect: float, answer: float, verify: bool = True) -> dict[str, Any]:
    """What obstore makes its connections with; ``connect`` and ``answer`` are the most seconds to wait for either."""
    return {
        "allow_http": endpoint.startswith("http://"),
        "allow_invalid_certificates": not verify,
        "connect_timeout": timedelta(seconds=connect),
        "read_timeout": timedelta(seconds=answer),
        "timeout": timedelta(seconds=_WHOLE),
        "pool_max_idle_per_host": str(at_once),
    }
