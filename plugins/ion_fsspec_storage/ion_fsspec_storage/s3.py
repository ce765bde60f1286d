"""What s3fs's options are in obstore's words, for S3. Neither is imported here.

The options of the configuration are s3fs's. What they and the environment say must mean the same to obstore: where that
is not certain, this says why, and the driver is s3fs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ion_fsspec_storage import ways
from ion_fsspec_storage.ways import (
    ANSWER,
    CONNECT,
    SENT,
    Direct,
    Wanted,
    client,
    is_address,
    is_seconds,
    odd_prefix,
    split,
)

PROTOCOLS = ("s3", "s3a")
DRIVER = "s3fs"

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
_NO_ADDRESS = "must be an address such as https://s3.example.org"
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


def misfit(url: str, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """See ``choosing.misfit``."""
    bucket, segments = split(url)
    if not _BUCKET.fullmatch(bucket):
        return "url", "obstore takes plain bucket names only"
    if why := odd_prefix(segments):
        return "url", why
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
    if (given := options.get("endpoint_url")) and not is_address(given):
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
    if (given := client.get("endpoint_url")) and not is_address(given):
        return "options.client_kwargs.endpoint_url", _NO_ADDRESS
    region = client.get("region_name")
    if region is not None and not (isinstance(region, str) and _REGION.fullmatch(region)):
        return "options.client_kwargs.region_name", "obstore knows no address for such a region"
    for key in ("connect_timeout", "read_timeout"):
        if not is_seconds(config.get(key, 1)):
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


def garbled(made: Direct) -> str:
    """See ``ways.garbled``."""
    if not _REGION.fullmatch(made.config["region"]):
        return "the region is no name of one. It must be one such as eu-west-1"
    return ways.garbled(made)


def made(settings: Wanted, environ: Mapping[str, str]) -> Direct:
    """How obstore gets there, of settings that fit."""
    options = settings.options
    of_client, config = options.get("client_kwargs") or {}, options.get("config_kwargs") or {}
    region = (
        of_client.get("region_name") or environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION") or "us-east-1"
    )
    scheme = "https" if options.get("use_ssl", of_client.get("use_ssl", True)) else "http"
    endpoint = (_endpoint(options, environ) or f"{scheme}://s3.{region}.amazonaws.com").rstrip("/")
    keys: Mapping[str, Any] | None = None
    if options.get("key"):
        keys = _keys(options["key"], options["secret"], options.get("token"))
    elif not options.get("anon"):
        keys = _keys_of(environ)
    connect, answer = config.get("connect_timeout", CONNECT), config.get("read_timeout", ANSWER)
    sent, verify = config.get("read_timeout", SENT), of_client.get("verify") is not False
    bucket, segments = split(settings.url)
    return Direct(
        service="s3",
        bucket=bucket,
        prefix="/".join(segments),
        config={
            "aws_endpoint_url_s3": endpoint,  # both, or what the environment says would count more
            "endpoint": endpoint,
            "region": region,
            "skip_signature": bool(options.get("anon")),
            "disable_bulk_delete": True,
        },
        client=client(endpoint, settings.at_once, connect=connect, answer=answer, verify=verify),
        slow=client(endpoint, settings.at_once, connect=connect, answer=sent, verify=verify),
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
