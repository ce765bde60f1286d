"""Settings of the service ``gateway``."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from jsonpointer import JsonPointer, JsonPointerException
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from ion_core.contracts.provider import Finding
from ion_core.contracts.settings import ByteSize, ConfigPath, Secret, Settings, Unfit
from ion_core.contracts.storage import check_key
from ion_core.errors import InvalidKey
from ion_core.listening.settings import LEAST_TOKEN, Address, KeyFile, Network, Token, as_list, is_loopback, parts
from ion_gateway.settings import checked_name, checked_type

_PATH = re.compile(r"(?:/[A-Za-z0-9._-]+)+")
_HEADER = re.compile(r"[A-Za-z0-9-]+")

NEW_LINK = "frontapi.new_link"
"""The type of what comes in by the front API."""
DOCUMENT = "/openapi.json"
"""Where the gateway says what it answers."""


def _secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < LEAST_TOKEN:
        raise Unfit(f"must have at least {LEAST_TOKEN} characters, such as `openssl rand -hex 32` prints")
    return value


def _webhook_secret(value: SecretStr) -> SecretStr:
    """What the library takes without a word: a text that is no base64 becomes other bytes there."""
    text = value.get_secret_value()
    form = "must be whsec_ and 24 to 64 bytes in base64, such as `echo whsec_$(openssl rand -base64 32)` prints"
    if not text.startswith("whsec_"):
        raise Unfit(form)
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise Unfit(f"{form}. A signing secret of Stripe's is for stripe") from None
    if not 24 <= len(key) <= 64:
        raise Unfit(form)
    return value


SharedSecret = Annotated[Secret, AfterValidator(_secret)]


def _stripe_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.startswith("whsec_") or len(text) < LEAST_TOKEN:
        raise Unfit("must be the signing secret of an endpoint, whsec_…, as Stripe shows it; not an API key")
    return value


def _holder(value: str) -> str:
    if not value or value != value.strip():
        raise Unfit(f'must be a name as certificates have it, or any (got "{value}")')
    return value


WebhookSecret = Annotated[Secret, AfterValidator(_webhook_secret)]
StripeSecret = Annotated[Secret, AfterValidator(_stripe_secret)]
Holder = Annotated[str, AfterValidator(_holder)]

ANY = "any"
"""Instead of a name in a certificate: whichever it has."""


class Auth(Settings):
    """Who may publish: by one of these; anybody where all are empty.

    Of several secrets each is taken, as is needed while one replaces another.
    """

    bearer: Annotated[list[Token], BeforeValidator(as_list)] = Field(
        [], description="Tokens: Authorization: Bearer TOKEN."
    )
    github: Annotated[list[SharedSecret], BeforeValidator(as_list)] = Field(
        [], description="Secrets of signatures as GitHub makes them: X-Hub-Signature-256, an HMAC-SHA256 of the body."
    )
    standard_webhooks: Annotated[list[WebhookSecret], BeforeValidator(as_list)] = Field(
        [], description="Secrets of Standard Webhooks, whsec_…: webhook-id, webhook-timestamp, webhook-signature."
    )

    stripe: Annotated[list[StripeSecret], BeforeValidator(as_list)] = Field(
        [], description="Secrets of signatures as Stripe makes them, whsec_…: Stripe-Signature."
    )
    certificate: Annotated[list[Holder], BeforeValidator(as_list)] = Field(
        [], description="Names in client certificates of client_ca_file: DNS, URI, e-mail, or common name; or any."
    )

    @property
    def anybody(self) -> bool:
        return not self.ways

    @property
    def ways(self) -> list[str]:
        """What tells who may: the keys that are not empty."""
        return [key for key in Auth.model_fields if getattr(self, key)]

    @property
    def secret(self) -> bool:
        """Whether a secret tells: then it says who may by itself, whatever else is configured."""
        return self.ways not in ([], ["certificate"])


WAYS = f"{', '.join([*Auth.model_fields][:-1])} and {[*Auth.model_fields][-1]}"


def _or_none(schema: dict[str, Any]) -> None:
    """For editors: beside the section there is a word."""
    reference = schema.pop("$ref", None) or schema.pop("allOf", [{}])[0].get("$ref")
    schema["anyOf"] = [{"$ref": reference}, {"const": "none"}]


def _who(value: Any) -> Any:
    if value == "none":
        return Auth.model_construct()
    if isinstance(value, Auth):
        return value
    if not isinstance(value, dict) or not value:
        raise Unfit(f"must be none, or one of {WAYS} with its secrets or names")
    return value


def _one_of_them(value: Auth) -> Auth:
    if value.model_fields_set and len(value.ways) != 1:
        raise Unfit(f"must have one of {WAYS}, and not an empty one")
    return value


Who = Annotated[Auth, BeforeValidator(_who), AfterValidator(_one_of_them)]


def _source(value: str) -> str:
    """Where in a request something is: a JSON Pointer into its body, or a header."""
    if value.startswith("/") or not value:
        try:
            JsonPointer(value)
        except JsonPointerException as error:
            raise ValueError(
                f'must be a JSON Pointer (RFC 6901), such as /repository/name: {error} (got "{value}")'
            ) from None
    elif not _HEADER.fullmatch(value):
        raise Unfit(f'must be a JSON Pointer, such as /repository/name, or the name of a header (got "{value}")')
    return value


Source = Annotated[str, AfterValidator(_source)]
Name = Annotated[str, AfterValidator(checked_name)]


class Route(Settings):
    """A path of its own, for what sends JSON in a form that cannot be changed."""

    path: str = Field(description="Such as /hooks/github.")
    type: Annotated[str, AfterValidator(checked_type)] = Field(
        description="The event's type.", examples=["photo.received"]
    )
    auth: Who | None = Field(
        None, description="Who may; as for the gateway as a whole, unless given.", json_schema_extra=_or_none
    )
    id: Source | None = Field(
        None, description="What says which event it is: a JSON Pointer into the body, or the name of a header."
    )
    when: dict[Source, Annotated[list[str], BeforeValidator(as_list)]] = Field(
        default={}, description="Only what has one of these texts there is published; the rest is passed over."
    )
    pairs: dict[str, Source] | None = Field(
        None, description="The event's pairs, each by where its value is. Unless given: the body, flattened."
    )
    file: str | None = Field(None, description="The body is a file of this name, too.")

    @field_validator("path")
    @classmethod
    def _a_path(cls, value: str) -> str:
        if not _PATH.fullmatch(value):
            raise Unfit(f'must be a path such as /hooks/github: letters, digits, ".", "_", "-" (got "{value}")')
        if value == DOCUMENT:
            raise Unfit(f'must not be {DOCUMENT}, which is the gateway\'s own (got "{value}")')
        if value == "/events" or value.startswith("/events/"):
            raise Unfit(f'must not be below /events, which is the gateway\'s own (got "{value}")')
        return value

    @field_validator("file")
    @classmethod
    def _a_file_name(cls, value: str | None) -> str | None:
        try:
            return None if value is None else check_key(value)
        except InvalidKey as error:
            raise ValueError(str(error)) from None


class GatewaySettings(Settings):
    """Events that come in by HTTP."""

    listen: Address = Field("127.0.0.1:8080", description="Address and port: 127.0.0.1:8080, or [::1]:8080.")
    cert_file: ConfigPath | None = Field(None, description="Certificate for TLS, in PEM; without it HTTP is plain.")
    key_file: KeyFile = Field(None, description="Its key, where cert_file does not hold it, too.")
    client_ca_file: ConfigPath | None = Field(
        None, description="Authorities, in PEM: clients must have a certificate of one of them."
    )
    exposed: bool = Field(False, description="Whether auth: none is meant where others than this machine reach it.")
    auth: Who = Field(description=f"Who may publish: one of {WAYS}; or none.", json_schema_extra=_or_none)
    trusted_proxies: list[Network] = Field(
        default=[], description="Addresses and networks of proxies whose X-Forwarded-For and -Host are believed."
    )
    routes: dict[Name, Route] = Field(default={}, description="Paths of their own, each under a name of your own.")
    front_api: bool = Field(False, description=f"Whether POST / takes links, as the predecessor did: {NEW_LINK}.")
    max_body: ByteSize = Field(1024**3, description="Bytes of one request, with its files.", ge=1)
    max_json: ByteSize = Field(1024**2, description="Bytes of one request that is JSON.", ge=1)
    max_signed: ByteSize = Field(32 * 1024**2, description="Bytes of one request whose signature covers them.", ge=1)
    max_files: int = Field(100, description="Files of one event.", ge=1, le=10_000)
    max_pairs: int = Field(1_000, description="Pairs of one event.", ge=1, le=100_000)
    max_requests: int = Field(100, description="Requests at a time; above them 503.", ge=1, le=10_000)
    max_pending: int = Field(
        10_000, description="Messages that may wait for the modules that take a type; above them 429.", ge=1
    )

    @field_validator("client_ca_file")
    @classmethod
    def _over_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("cert_file") is None:
            raise Unfit("asks clients for certificates, which needs TLS, and cert_file is not given")
        return value

    @field_validator("auth")
    @classmethod
    def _nobody_else(cls, value: Auth, info: ValidationInfo) -> Auth:
        _check_who(value, info)
        return value

    @field_validator("routes")
    @classmethod
    def _apart(cls, value: dict[str, Route], info: ValidationInfo) -> dict[str, Route]:
        paths: dict[str, str] = {}
        for name, route in value.items():
            if (other := paths.setdefault(route.path, name)) != name:
                raise ValueError(f"{other} and {name} have one path, {route.path}. Give one of them another")
            if route.auth is not None:
                _check_who(route.auth, info)
        return value

    def publishes(self) -> dict[str, str]:
        """Types that the settings name; what others send is refused where no module takes it."""
        links = {"front_api": NEW_LINK} if self.front_api else {}
        return {f"routes.{name}.type": route.type for name, route in self.routes.items()} | links

    def findings(self) -> Iterable[Finding]:
        from ion_core.listening import tls
        from ion_gateway.validity import not_valid_today

        return tls.findings(self, not_valid_today)

    @property
    def address(self) -> tuple[str, int]:
        return parts(self.listen)


_AROUND = ("listen", "exposed", "trusted_proxies", "client_ca_file")
"""What ``auth`` relies on where it asks for no secret."""


def taken_over(
    in_use: GatewaySettings, new: GatewaySettings, *, authorities: bool = True
) -> tuple[GatewaySettings, list[str]]:
    """``in_use`` with who may publish as in ``new``, and the keys of what else differs.

    ``authorities``: whether those of clients in use are those of the file by now.

    ``auth`` that asks for no secret is taken over only where what it is meant for is in use: ``none`` of settings that
    have another address, or of a route that has another path, would open those of before.
    """
    around = authorities and all(getattr(in_use, key) == getattr(new, key) for key in _AROUND)
    auth = new.auth if new.auth.secret or around else in_use.auth
    routes = dict(in_use.routes)
    for name in in_use.routes.keys() & new.routes.keys():
        it, other = in_use.routes[name], new.routes[name]
        if (other.auth or new.auth).secret or (around and (it.path, it.type) == (other.path, other.type)):
            routes[name] = it.model_copy(update={"auth": other.auth})
    mixed = in_use.model_copy(update={"auth": auth, "routes": routes})
    left = [key for key in GatewaySettings.model_fields if key != "routes" and getattr(mixed, key) != getattr(new, key)]
    left += [f"routes.{name}" for name in sorted({*routes, *new.routes}) if routes.get(name) != new.routes.get(name)]
    return mixed, left


def _check_who(auth: Auth, info: ValidationInfo) -> None:
    if auth.certificate and info.data.get("client_ca_file", "") is None:
        raise ValueError("asks for certificates of clients. Give client_ca_file, the authority that they are of")
    listen = info.data.get("listen")
    if auth.anybody and listen is not None and not info.data.get("exposed") and not is_loopback(listen):
        raise ValueError(
            f"none lets anybody publish who reaches {listen}. Give one of {WAYS}; listen on 127.0.0.1; or set "
            "exposed: true, if something before it says who may"
        )
