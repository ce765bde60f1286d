"""Settings of the service ``console``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ion_core.contracts.provider import Finding
from ion_core.contracts.settings import ByteSize, ConfigPath, Settings
from ion_core.listening.settings import Address, KeyFile, Network, Token, as_list, is_loopback, parts


class Roles(Settings):
    """Tokens by what they allow. Several of one role are a list: each is taken, as while one replaces another."""

    look: Annotated[list[Token], BeforeValidator(as_list)] = Field([], description="Tokens that may look.")
    mend: Annotated[list[Token], BeforeValidator(as_list)] = Field(
        [], description="Tokens that may look, publish, and put dead letters back or delete them."
    )

    @model_validator(mode="after")
    def _some(self) -> Roles:
        if not self.look and not self.mend:
            raise ValueError("must have a token, under look or mend")
        return self


class ConsoleSettings(Settings):
    """Health, metrics and an API of what happens."""

    listen: Address = Field("127.0.0.1:8090", description="Address and port: 127.0.0.1:8090, or [::1]:8090.")
    cert_file: ConfigPath | None = Field(None, description="Certificate for TLS, in PEM; without it HTTP is plain.")
    key_file: KeyFile = Field(None, description="Its key, where cert_file does not hold it, too.")
    exposed: bool = Field(False, description="Whether auth: none is meant where others than this machine reach it.")
    tokens: Roles | None = Field(None, description="Who may look and who may mend: Authorization: Bearer TOKEN.")
    auth: Literal["none"] | None = Field(None, description="none, instead of tokens: anybody who reaches it may both.")
    trusted_proxies: list[Network] = Field(
        default=[], description="Addresses and networks of proxies whose X-Forwarded-For and -Host are believed."
    )
    max_requests: int = Field(50, description="Requests at a time; above them 503.", ge=1, le=10_000)
    max_streams: int = Field(50, description="Streams of changes and logs at a time; above them 429.", ge=1, le=10_000)

    max_body: ByteSize = Field(1024**3, description="Bytes of one request that publishes files.", ge=1)
    max_json: ByteSize = Field(1024**2, description="Bytes of an event that is published, as JSON.", ge=1)
    max_files: int = Field(100, description="Files of one event that is published.", ge=1, le=10_000)
    max_pairs: int = Field(1_000, description="Pairs of one event that is published.", ge=1, le=100_000)

    @model_validator(mode="after")
    def _who(self) -> ConsoleSettings:
        if (self.tokens is None) == (self.auth is None):
            raise ValueError("tokens with look or mend, or auth: none, is required, and only one of them")
        if self.auth is not None and not self.exposed and not is_loopback(self.listen):
            raise ValueError(
                f"auth: none lets anybody look and mend who reaches {self.listen}. Give tokens; listen on 127.0.0.1; "
                "or set exposed: true, if something before it says who may"
            )
        return self

    def findings(self) -> Iterable[Finding]:
        from ion_core.listening import tls
        from ion_core.listening.validity import not_valid_for_long

        certificate, key = self.cert_file, self.key_file or self.cert_file
        if certificate is None or key is None:
            return ()
        return tls.findings(self, lambda pem: not_valid_for_long(certificate, key))

    @property
    def client_ca_file(self) -> Path | None:
        """None: clients are known by their tokens."""
        return None

    @property
    def address(self) -> tuple[str, int]:
        return parts(self.listen)


_WHO = ("tokens", "auth")
_AROUND = ("listen", "exposed", "trusted_proxies")
"""What ``auth: none`` relies on."""


def taken_over(in_use: ConsoleSettings, new: ConsoleSettings) -> tuple[ConsoleSettings, list[str]]:
    """``in_use`` with who may as in ``new``, and the keys of what else differs.

    ``auth: none`` is taken over only where what it was meant for is in use.
    """
    left = [
        key for key in ConsoleSettings.model_fields if key not in _WHO and getattr(in_use, key) != getattr(new, key)
    ]
    if new.auth is not None and in_use.auth is None and set(left) & {*_AROUND}:
        return in_use, [*left, "auth"]
    return in_use.model_copy(update={key: getattr(new, key) for key in _WHO}), left
