"""Who may publish: asked before the body is read, or once it has come where its signature tells."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING

from ion_core.listening.refusals import Refused
from ion_core.listening.tokens import Tokens
from ion_gateway.gateway_settings import ANY

if TYPE_CHECKING:
    from aiohttp import web

    from ion_core.listening.proxies import Proxies
    from ion_gateway.gateway_settings import Auth

log = logging.getLogger(__name__)

GITHUB_SIGNATURE = "X-Hub-Signature-256"
STRIPE_SIGNATURE = "Stripe-Signature"
STRIPE_TOLERANCE = 300
"""Seconds by which the time of a signature may be off, as Stripe recommends."""


class Signed:
    """A signature that is still to be checked: given the body piece by piece."""

    def add(self, chunk: bytes) -> None:
        """Some more of the body, as it was received."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises Refused (401)."""
        raise NotImplementedError


class Guard:
    """Of one route. ``alone``: it is for this machine only, and so for no page that somebody looks at there."""

    def __init__(self, auth: Auth, proxies: Proxies, *, alone: bool) -> None:
        self._proxies = proxies
        self._tokens = Tokens(auth.bearer)
        self._secrets = [it.get_secret_value().encode("utf-8") for it in auth.github]
        self._webhooks = [it.get_secret_value() for it in auth.standard_webhooks]
        self._stripe = [it.get_secret_value().encode("utf-8") for it in auth.stripe]
        self._holders = frozenset(auth.certificate)
        self._hosts = frozenset(it.lower() for it in auth.certificate)
        self._anybody = auth.anybody
        self._alone = alone

    @property
    def signs(self) -> bool:
        """Whether the body tells who may."""
        return bool(self._secrets or self._webhooks or self._stripe)

    @property
    def whole(self) -> bool:
        """Whether the signature is checked over the body as a whole, which therefore is no form with files."""
        return bool(self._webhooks)

    def before(self, request: web.BaseRequest) -> Signed | None:
        """What can be told from the head; what is to be checked once the body has come. Raises Refused (401, 403)."""
        if self._tokens:
            self._bearer(request)
        elif self._secrets:
            return _GitHub(self._secrets, _only(request, GITHUB_SIGNATURE))
        elif self._webhooks:
            return _StandardWebhook(
                self._webhooks,
                {name: _only(request, name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")},
            )
        elif self._stripe:
            return _Stripe(self._stripe, _only(request, STRIPE_SIGNATURE))
        elif self._holders:
            self._certificate(request)
        elif self._anybody and self._alone:
            self._no_page(request)
        return None

    def _bearer(self, request: web.BaseRequest) -> None:
        if not self._tokens.has(_only(request, "Authorization")):
            raise _denied("Bearer")

    def _certificate(self, request: web.BaseRequest) -> None:
        if ANY in self._holders:
            return  # the handshake has asked for one
        named = [*_names(request)]
        if not any(name.lower() in self._hosts if kind == "DNS" else name in self._holders for kind, name in named):
            names = [name for _, name in named]
            log.info(
                "a client has a certificate of nobody who may",
                extra={"remote": self._proxies.client(request), "names": names},
            )
            raise Refused(HTTPStatus.FORBIDDEN, "Whoever has this certificate may not publish here.")

    def _no_page(self, request: web.BaseRequest) -> None:
        """A web page that somebody looks at on this machine may send requests here, also under a name of its own.

        Raises Refused.
        """
        if self._proxies.is_page_of_another_host(request):
            raise Refused(
                HTTPStatus.FORBIDDEN, "Pages of other hosts may not publish here. Ask for localhost, without an Origin."
            )


def _names(request: web.BaseRequest) -> Iterator[tuple[str, str]]:
    """Whose certificate the client has: by its alternative names, of a kind; only without any, by the common name."""
    session = request.get_extra_info("ssl_object")
    certificate = {} if session is None else session.getpeercert() or {}
    names = [it for it in certificate.get("subjectAltName", ()) if it[0] in ("DNS", "URI", "email")]
    common = [(key, value) for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    yield from names or common


class _GitHub(Signed):
    def __init__(self, secrets: Sequence[bytes], given: str) -> None:
        self._given = given.encode("utf-8", "surrogateescape")
        if not given.startswith("sha256="):
            raise _denied(GITHUB_SIGNATURE)
        self._macs = [hmac.new(secret, digestmod=hashlib.sha256) for secret in secrets]

    def add(self, chunk: bytes) -> None:
        for mac in self._macs:
            mac.update(chunk)

    def check(self) -> None:
        found = [hmac.compare_digest(f"sha256={mac.hexdigest()}".encode("ascii"), self._given) for mac in self._macs]
        if not any(found):
            raise _denied(GITHUB_SIGNATURE)


class _Stripe(Signed):
    """https://docs.stripe.com/webhooks#verify-manually: ``t=…,v1=…``, with more of ``v1``, and of other schemes."""

    def __init__(self, secrets: Sequence[bytes], given: str) -> None:
        parts = [part.strip().partition("=") for part in given.split(",")]
        times = [text for key, _, text in parts if key == "t"]
        self._given = [text.encode("utf-8", "surrogateescape") for key, _, text in parts if key == "v1"]
        if len(times) != 1 or not re.fullmatch("[0-9]{1,12}", times[0]):
            raise _denied(STRIPE_SIGNATURE)
        self._time = times[0]
        self._macs = [hmac.new(secret, f"{self._time}.".encode("ascii"), hashlib.sha256) for secret in secrets]

    def add(self, chunk: bytes) -> None:
        for mac in self._macs:
            mac.update(chunk)

    def check(self) -> None:
        ours = [mac.hexdigest().encode("ascii") for mac in self._macs]
        found = [hmac.compare_digest(it, given) for it in ours for given in self._given]
        if not any(found) or abs(time() - int(self._time)) > STRIPE_TOLERANCE:
            raise _denied(STRIPE_SIGNATURE)


class _StandardWebhook(Signed):
    def __init__(self, secrets: Sequence[str], headers: dict[str, str]) -> None:
        self._secrets, self._headers = secrets, headers
        self._body = bytearray()

    def add(self, chunk: bytes) -> None:
        self._body += chunk

    def check(self) -> None:
        from standardwebhooks.webhooks import Webhook

        found = False
        for secret in self._secrets:
            try:
                Webhook(secret).verify(bytes(self._body), self._headers, json_parse=False)
            except Exception:
                continue
            found = True
        if not found:
            raise _denied("Standard-Webhooks")


def _only(request: web.BaseRequest, name: str) -> str:
    """A header that may be there once; '' where it is not. Raises Refused."""
    found = request.headers.getall(name, [])
    if len(found) > 1:
        raise Refused(HTTPStatus.BAD_REQUEST, f"The header {name} is there more than once.")
    return found[0] if found else ""


def _denied(challenge: str) -> Refused:
    return Refused(
        HTTPStatus.UNAUTHORIZED,
        "Who sent this may not publish here, as far as the request shows.",
        headers={"WWW-Authenticate": challenge},
    )
