"""What the settings of services that listen have in common: addresses, tokens, networks of proxies."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, SecretStr, ValidationInfo

from ion_core.contracts.settings import ConfigPath, Secret, Unfit

_LISTEN = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")

LEAST_TOKEN = 16
"""Characters that a token, or a secret of signatures, must have."""


def as_list(value: Any) -> Any:
    """One instead of a list is a list of one."""
    return value if isinstance(value, list) else [value]


def _token(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if len(text) < LEAST_TOKEN:
        raise Unfit(f"must have at least {LEAST_TOKEN} characters, such as `openssl rand -hex 32` prints")
    if not all("!" <= character <= "~" for character in text):
        raise Unfit("must be ASCII without blanks: no header carries anything else")
    return value


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise Unfit(f'must be an address or a network, such as 10.0.0.0/8 (got "{value}")') from None


def _of_a_certificate(value: Path | None, info: ValidationInfo) -> Path | None:
    if value is not None and info.data.get("cert_file") is None:
        raise Unfit("is the key of a certificate, and cert_file is not given")
    return value


def _address(value: str) -> str:
    found = _LISTEN.fullmatch(value)
    if found is None or int(found["port"]) > 65535:
        raise Unfit(f'must be an address and a port, such as 127.0.0.1:8080 or [::1]:8080 (got "{value}")')
    if found["six"] is not None:
        try:
            ipaddress.IPv6Address(found["six"])
        except ValueError:
            raise Unfit(f'must have an IPv6 address in its brackets (got "{value}")') from None
    return value


Token = Annotated[Secret, AfterValidator(_token)]
KeyFile = Annotated[ConfigPath | None, AfterValidator(_of_a_certificate)]
"""The key of the certificate in ``cert_file``, a field before it."""
Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(_address)]
"""Where to listen: ``127.0.0.1:8080``, ``[::1]:8080``, a name and a port."""


def parts(listen: str) -> tuple[str, int]:
    """Host and port of an ``Address``."""
    found = _LISTEN.fullmatch(listen)
    assert found is not None
    return found["six"] or found["host"], int(found["port"])


def is_loopback(listen: str) -> bool:
    """Whether only this machine reaches it. Of a name other than localhost nobody knows."""
    found = _LISTEN.fullmatch(listen)
    host = "" if found is None else found["six"] or found["host"]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
