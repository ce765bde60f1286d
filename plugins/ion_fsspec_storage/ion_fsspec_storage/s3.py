"""Which driver S3 gets, and what s3fs's options are in obstore's words. Neither is imported here.

The options of the configuration are s3fs's. What they and the environment say must mean the same to obstore: where that
is not certain, this says why, and the driver is s3fs.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ion_core.contracts.provider import Section
from ion_core.errors import ConfigError

log = logging.getLogger(__name__)

PROTOCOLS = ("s3", "s3a")

_CONNECT = 5.0
_ANSWER = 30.0
"""Seconds until a server that says nothing is given up."""
_SENT = 600.0
"""The same where much is sent first: a slow line has that long for it."""
_WHOLE = 3600.0
"""Seconds that one request may take, however much it brings."""

_TAKEN = {"anon", "key", "secret", "token", "endpoint_url", "use_ssl", "client_kwargs", "config_kwargs"}
_MEANS_NOTHING = {
    "default_block_size", "default_cache_options", "default_cache_type", "default_fill_cache", "listings_expiry_time",
    "skip_instance_cache", "use_listings_cache",
}  # fmt: skip
"""Options of how s3fs caches and buffers, which nothing here makes use of."""
_OF_CLIENT = {"endpoint_url", "region_name", "use_ssl", "verify"}
_OF_CONFIG = {"connect_timeout", "max_pool_connections", "read_timeout", "s3", "signature_version"}
_SWITCHES = ("anon", "use_ssl")
_TEXTS = ("key", "secret", "token", "endpoint_url")

_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._=-]+")
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d{1,5}))?(/[A-Za-z0-9._~/-]*)?")
_LAST_PORT = 65_535
_NO_ADDRESS = "must be an address such as https://s3.example.org"
_KEY = re.compile(r"[\x21-\x7e]+")
_REGION = re.compile(r"(?!cn-|us-iso)[a-z0-9-]{1,32}")
"""Whose address is made of its name alone."""

_PROFILES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
_BOTOCORES = ("AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT")
"""Variables that botocore reads and obstore does not. ``AWS_CA_BUNDLE`` is one more, where there is TLS."""
_OBSTORES = re.compile(
    r"AWS_(SERVER_SIDE_ENCRYPTION|SSE_.*|CHECKSUM_ALGORITHM|S3_EXPRESS|UNSIGNED_PAYLOAD|REQUEST(ER)?_PAY.*"
    r"|VIRTUAL_HOSTED_STYLE_REQUEST|CONDITIONAL_PUT)"
)
"""The reverse."""

_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where systems keep the certificates that obstore goes by: Debian, Fedora, older ones of these, SUSE, Alpine."""


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


@dataclass(frozen=True)
class Direct:
    """How obstore gets to a bucket: the arguments of its ``S3Store``.

    ``keys`` is what its ``credential_provider`` gives; None to look for instance, container and web identities.
    """

    bucket: str
    prefix: str
    config: Mapping[str, Any]
    client: Mapping[str, Any]
    keys: Mapping[str, Any] | None
    slow: Mapping[str, Any]
    """As ``client``, for requests that send much."""


def misfit(url: str, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first key of the settings that obstore has nothing for, with a sentence about it; None if there is none.

    Nothing is looked at but these settings. The sentence shows no value.
    """
    bucket, *segments = url.partition("://")[2].rstrip("/").split("/")
    if not _BUCKET.fullmatch(bucket):
        return "url", "obstore takes plain bucket names only"
    if not all(_SEGMENT.fullmatch(it) for it in segments):
        return "url", "obstore takes prefixes of letters, digits and . _ = - only, none of them empty"
    for key in sorted(options.keys() - _TAKEN - _MEANS_NOTHING):
        return f"options.{key}", "obstore has nothing like it"
    for name, taken in (("client_kwargs", _OF_CLIENT), ("config_kwargs", _OF_CONFIG)):
        below = options.get(name) or {}
        if not isinstance(below, dict):
            return f"options.{name}", "must be a mapping"
        for key in sorted(below.keys() - taken):
            return f"options.{name}.{key}", "obstore has nothing like it"
    for key in _TEXTS:
        if not isinstance(options.get(key), str | None):
            return f"options.{key}", "must be text"
    if (given := options.get("endpoint_url")) and not _is_address(given):
        return "options.endpoint_url", _NO_ADDRESS
    for key in _SWITCHES:
        if not isinstance(options.get(key), bool | None):
            return f"options.{key}", "must be true or false"
    if bool(options.get("key")) != bool(options.get("secret")):
        return "options", "obstore takes key and secret together"
    return _misfit_below(options.get("client_kwargs") or {}, options.get("config_kwargs") or {})


def _misfit_below(client: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, str] | None:
    if not isinstance(client.get("verify"), bool | None):
        return "options.client_kwargs.verify", "obstore adds certificates to those of the system, and replaces none"
    if (given := client.get("endpoint_url")) and not _is_address(given):
        return "options.client_kwargs.endpoint_url", _NO_ADDRESS
    region = client.get("region_name")
    if region is not None and not (isinstance(region, str) and _REGION.fullmatch(region)):
        return "options.client_kwargs.region_name", "obstore knows no address for such a region"
    for key in ("connect_timeout", "read_timeout"):
        seconds = config.get(key, 1)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
            return f"options.config_kwargs.{key}", "must be seconds"
    if config.get("signature_version", "s3v4") != "s3v4":
        return "options.config_kwargs.signature_version", "obstore signs by s3v4 alone"
    s3 = config.get("s3") or {}
    if not isinstance(s3, dict) or s3.keys() - {"addressing_style"}:
        return "options.config_kwargs.s3", "obstore has nothing for all of it"
    if s3.get("addressing_style", "path") not in ("path", "auto"):
        return "options.config_kwargs.s3.addressing_style", "obstore is used with paths alone"
    return None


def elsewhere(options: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """What else than its options botocore would be told by, and obstore would not be, or not alike; '' if nothing."""
    if found := next((name for name in (*_PROFILES, *_BOTOCORES) if environ.get(name)), ""):
        return f"{found} is set"
    if found := next((name for name in environ if name.startswith("FSSPEC_")), ""):
        return f"{found} is set"
    if found := next((name for name in environ if _OBSTORES.fullmatch(name)), ""):
        return f"{found} is set, which only obstore reads"
    if environ.get("AWS_CA_BUNDLE") and not _endpoint(options, environ).startswith("http://"):
        return "AWS_CA_BUNDLE is set"
    files = [environ.get(name) or place for name, place in _FILES.items()]
    if found := next((it for it in (*files, "~/.config/fsspec") if _is_there(it, environ)), ""):
        return f"{found} is there"
    if not (options.get("anon") or options.get("key") or _keys_of(environ)):
        return "no keys are given"
    client = options.get("client_kwargs") or {}
    if not _endpoint(options, environ) and not (client.get("region_name") or environ.get("AWS_DEFAULT_REGION")):
        return "no region is given"
    return ""


def _is_there(place: str, environ: Mapping[str, str]) -> bool:
    """As botocore sees it: what may not be looked at is not there."""
    home = environ.get("HOME")
    try:
        path = Path(place.replace("~", home, 1)) if home and place.startswith("~/") else Path(place).expanduser()
        return path.exists()
    except (OSError, RuntimeError):
        return False


def direct(settings: Wanted, environ: Mapping[str, str] | None = None) -> Direct | None:
    """How obstore gets there; None where it is not the driver. Raises ConfigError where it must be and cannot.

    With ``driver: auto`` it is wherever it means the same as s3fs, and is installed.
    """
    environ = os.environ if environ is None else environ
    if settings.protocol not in PROTOCOLS or settings.driver == "fsspec":
        return None
    if find_spec("obstore") is None:
        if settings.driver == "auto":
            return None
        raise ConfigError(
            f"{settings.section.where('driver')}: obstore is not installed. pip install 'ion-fsspec-storage[s3]'"
        )
    if settings.driver == "auto":
        found = misfit(settings.url, settings.options)
        if why := ": ".join(found) if found is not None else elsewhere(settings.options, environ):
            log.debug("s3fs makes the requests, not obstore: %s", why)
            return None
    made = _direct(settings, environ)
    if not (why := _garbled(made)):
        return made
    if settings.driver == "auto":
        log.debug("s3fs makes the requests, not obstore: %s", why)
        return None
    raise ConfigError(f"{settings.section.where('options')}: with what the environment says, {why}")


def listing_options(where: Direct, options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Those for s3fs beside obstore: it trusts the servers that obstore trusts, and not a bundle of its own.

    As far as that is one file: of a directory of certificates (``SSL_CERT_DIR``) s3fs can make nothing.
    """
    client = dict(options.get("client_kwargs") or {})
    file = _authorities(environ)
    if where.config["endpoint"].startswith("https://") and client.get("verify") is not False and file:
        client["verify"] = file
    return {**options, "client_kwargs": client} if client else dict(options)


def _authorities(environ: Mapping[str, str]) -> str:
    if environ.get("SSL_CERT_FILE") or environ.get("SSL_CERT_DIR"):  # then the system's do not count
        return environ.get("SSL_CERT_FILE", "")
    return next((it for it in _AUTHORITIES if Path(it).is_file()), "")


def _garbled(made: Direct) -> str:
    """What obstore would fall over instead of refusing it; '' if nothing."""
    if not _REGION.fullmatch(made.config["region"]):
        return "the region is no name of one. It must be one such as eu-west-1"
    if not _is_address(made.config["endpoint"]):
        return "the endpoint is no address. It must be one such as https://s3.example.org"
    if not all(_KEY.fullmatch(it) for it in (made.keys or {}).values() if it is not None):
        return "a key has other letters than keys have, perhaps a line end. Give it without"
    return ""


def _is_address(endpoint: object) -> bool:
    address = _ENDPOINT.fullmatch(endpoint) if isinstance(endpoint, str) else None
    return address is not None and int(address["port"] or 0) <= _LAST_PORT


def _direct(settings: Wanted, environ: Mapping[str, str]) -> Direct:
    options = settings.options
    client, config = options.get("client_kwargs") or {}, options.get("config_kwargs") or {}
    region = client.get("region_name") or environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION") or "us-east-1"
    scheme = "https" if options.get("use_ssl", client.get("use_ssl", True)) else "http"
    endpoint = (_endpoint(options, environ) or f"{scheme}://s3.{region}.amazonaws.com").rstrip("/")
    keys: Mapping[str, Any] | None = None
    if options.get("key"):
        keys = _keys(options["key"], options["secret"], options.get("token"))
    elif not options.get("anon"):
        keys = _keys_of(environ)
    answer = config.get("read_timeout", _ANSWER)
    common = {
        "allow_http": endpoint.startswith("http://"),
        "allow_invalid_certificates": client.get("verify") is False,
        "connect_timeout": timedelta(seconds=config.get("connect_timeout", _CONNECT)),
        "timeout": timedelta(seconds=_WHOLE),
        "pool_max_idle_per_host": str(settings.at_once),
    }
    bucket, _, prefix = settings.url.partition("://")[2].rstrip("/").partition("/")
    return Direct(
        bucket=bucket,
        prefix=prefix,
        config={
            "aws_endpoint_url_s3": endpoint,  # both, or what the environment says would count more
            "endpoint": endpoint,
            "region": region,
            "skip_signature": bool(options.get("anon")),
            "disable_bulk_delete": True,
        },
        client={**common, "read_timeout": timedelta(seconds=answer)},
        slow={**common, "read_timeout": timedelta(seconds=config.get("read_timeout", _SENT))},
        keys=keys,
    )


def _endpoint(options: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    given = options.get("endpoint_url") or (options.get("client_kwargs") or {}).get("endpoint_url")
    if given or environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return str(given or "")
    return environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""


def _keys_of(environ: Mapping[str, str]) -> Mapping[str, Any] | None:
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    return _keys(key, secret, environ.get("AWS_SESSION_TOKEN")) if key and secret else None


def _keys(key: str, secret: str, token: str | None) -> Mapping[str, Any]:
    return {"access_key_id": key, "secret_access_key": secret, "token": token or None, "expires_at": None}
