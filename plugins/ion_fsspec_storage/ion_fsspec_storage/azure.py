"""What adlfs's options are in obstore's words, for Azure's blob storage. Neither is imported here.

The options of the configuration are adlfs's. What they say must mean the same to obstore: where that is not certain,
this says why, and the driver is adlfs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
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

PROTOCOLS = ("az", "abfs", "abfss")
DRIVER = "adlfs"

_TEXTS = ("account_name", "account_key", "sas_token", "connection_string")
_SECONDS = {"connection_timeout": CONNECT, "read_timeout": ANSWER}
_MEANS_NOTHING = {
    "assume_container_exists", "blocksize", "default_cache_type", "default_fill_cache", "listings_expiry_time",
    "max_concurrency", "skip_instance_cache", "use_listings_cache",
}  # fmt: skip
"""Options of how adlfs caches and buffers, which nothing here makes use of."""
_OF_OTHER_SERVICES = {"fileendpoint", "queueendpoint", "tableendpoint"}
_OF_CONNECTION = {
    "accountkey", "accountname", "blobendpoint", "defaultendpointsprotocol", "endpointsuffix", "sharedaccesssignature",
}  # fmt: skip

_CONTAINER = re.compile(r"[a-z0-9](-?[a-z0-9]){2,62}")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")


def misfit(url: str, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """See ``choosing.misfit``."""
    container, segments = split(url)
    if not _CONTAINER.fullmatch(container):
        return "url", "obstore takes plain container names only, without an account"
    if why := odd_prefix(segments):
        return "url", why
    for key in sorted(options.keys() - {*_TEXTS, *_SECONDS} - _MEANS_NOTHING):
        return f"options.{key}", "obstore has nothing like it"
    for key in _TEXTS:
        if not isinstance(options.get(key), str | None):
            return f"options.{key}", "must be text"
    for key in _SECONDS:
        if options.get(key) is not None and not is_seconds(options[key]):
            return f"options.{key}", "must be seconds"
    return _misfit_of_account(options)


def _misfit_of_account(options: Mapping[str, Any]) -> tuple[str, str] | None:
    said = _connection(options)
    for key in sorted(said.keys() - _OF_CONNECTION - _OF_OTHER_SERVICES):
        return "options.connection_string", f"obstore has nothing for all of it, such as {key[:40]}"
    if said and (options.get("sas_token") or not _agree(options, said)):
        return "options", "obstore takes a connection string, or an account and its key, and not both"
    account, key, token, endpoint = _account(options)
    if not _ACCOUNT.fullmatch(account):
        return "options.account_name", "obstore takes the name of an account, such as ionfiles"
    if bool(key) == bool(token):
        return "options", "obstore takes one of account_key and sas_token; identities it does not look for"
    if not is_address(endpoint):
        return (
            "options.connection_string",
            "its endpoint must be an address such as https://ionfiles.blob.core.windows.net",
        )
    return None


def elsewhere(options: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """What else than its options adlfs or obstore would be told by; '' if nothing."""
    if found := next((name for name in sorted(environ) if name.startswith(("AZURE_", "FSSPEC_"))), ""):
        return f"{found} is set"
    return ""


def made(settings: Wanted, environ: Mapping[str, str]) -> Direct:
    """How obstore gets there, of settings that fit."""
    options = settings.options
    account, key, token, endpoint = _account(options)
    container, segments = split(settings.url)
    connect, answer = (options.get(name) or seconds for name, seconds in _SECONDS.items())
    sent = options.get("read_timeout") or SENT
    return Direct(
        service="azure",
        bucket=container,
        prefix="/".join(segments),
        config={
            "account_name": account,
            "endpoint": endpoint,
            "credential_type": "access_key" if key else "sas_token",
            "use_emulator": False,
            "use_fabric_endpoint": False,
            "skip_signature": False,
        },
        client=client(endpoint, settings.at_once, connect=connect, answer=answer),
        keys={"access_key": key, "expires_at": None} if key else {"sas_token": token, "expires_at": None},
        slow=client(endpoint, settings.at_once, connect=connect, answer=sent),
    )


def garbled(made: Direct) -> str:
    """See ``ways.garbled``."""
    if why := ways.garbled(made):
        return why
    try:
        base64.b64decode((made.keys or {}).get("access_key", ""), validate=True)
    except binascii.Error:
        return "the key of the account is not base64. Give it as Azure shows it"
    return ""


def listing_options(where: Direct, options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Those for adlfs beside obstore: both go by the certificates of the system."""
    return dict(options)


def _account(options: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Its name, its key, or a token, and its address."""
    said = _connection(options)
    account = said.get("accountname") or options.get("account_name") or ""
    key = said.get("accountkey") or (not said and options.get("account_key")) or ""
    token = said.get("sharedaccesssignature") or (not said and options.get("sas_token")) or ""
    scheme, suffix = said.get("defaultendpointsprotocol", "https"), said.get("endpointsuffix", "core.windows.net")
    endpoint = said.get("blobendpoint") or f"{scheme}://{account}.blob.{suffix}"
    return account, key, token.lstrip("?"), endpoint.rstrip("/")


def _connection(options: Mapping[str, Any]) -> dict[str, str]:
    """What the connection string says, by names in small letters."""
    pairs = (it.partition("=") for it in (options.get("connection_string") or "").split(";") if it.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _agree(options: Mapping[str, Any], said: Mapping[str, str]) -> bool:
    """adlfs asks by the connection string, and signs URLs by the others."""
    others = {"account_name": "accountname", "account_key": "accountkey"}
    return all(options.get(name) in (None, said.get(word)) for name, word in others.items())
