"""Settings of the RabbitMQ message broker."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_address
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from ion_core.contracts.messaging import HoldLimit
from ion_core.contracts.provider import Location, Reach
from ion_core.contracts.settings import ConfigPath, Duration, Secret, Settings, Unfit
from ion_rabbitmq.holding import limit_at


class RabbitSettings(Settings):
    """RabbitMQ, for any number of dispatchers on any number of hosts."""

    url: Secret = Field(
        Secret("amqp://guest:guest@127.0.0.1:5672/"),
        description="amqp:// or amqps:// with user, password and virtual host. Never printed.",
    )
    urls: tuple[Secret, ...] = Field(
        (),
        description="Several addresses of one cluster, instead of url: each is tried until one answers.",
    )
    prefix: str = Field("ion", description="Beginning of the names of exchange and queues.")
    exchange: str | None = Field(
        None, description="Name of the exchange that events are published to. Without: <prefix>.events."
    )
    retry_suffix: str = Field(
        ".retry", description="Follows a queue's name, before the delay, where its retries wait for that delay."
    )
    dead_suffix: str = Field(".dead", description="Follows a queue's name where its dead letters are kept.")
    queue_type: Literal["quorum", "classic"] = Field(
        "quorum", description="quorum: replicated, for production. classic: one node, cheaper."
    )
    heartbeat: Duration = Field(
        timedelta(seconds=10), description="A peer silent for about twice this long is taken for dead."
    )
    timeout: Duration = Field(timedelta(seconds=10), description="How long to wait for any answer of the broker.")
    watch: Duration = Field(
        timedelta(seconds=30), description="How often to look whether the broker still knows our consumers."
    )
    consumer_timeout: Duration = Field(
        timedelta(minutes=30),
        gt=timedelta(0),
        description="The acknowledgement timeout that the broker's operator set: what is held for longer is given out "
        "again. Modules should take less; this setting changes nothing at the broker.",
    )
    ca_file: ConfigPath | None = Field(None, description="Certificates of authorities to trust, PEM, for amqps.")
    cert_file: ConfigPath | None = Field(None, description="Our certificate, PEM, for brokers that ask for one.")
    key_file: ConfigPath | None = Field(None, description="The key of cert_file.")

    @field_validator("prefix")
    @classmethod
    def _plain(cls, prefix: str) -> str:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,30}[a-z0-9])?", prefix):
            raise Unfit("must be up to 32 lower-case letters, digits, dots, underscores or hyphens")
        return prefix

    @field_validator("exchange")
    @classmethod
    def _free(cls, exchange: str | None) -> str | None:
        if exchange is None:
            return None
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,126}", exchange):
            raise Unfit("must be up to 127 letters, digits, dots, underscores, colons, slashes or hyphens")
        if exchange.startswith("amq."):
            raise Unfit('must not begin with "amq.", which RabbitMQ keeps for itself')
        return exchange

    @field_validator("retry_suffix", "dead_suffix")
    @classmethod
    def _short(cls, suffix: str) -> str:
        if not re.fullmatch(r"\.[a-z0-9_-]{1,16}", suffix):
            raise Unfit("must be a dot and up to 16 lower-case letters, digits, underscores or hyphens")
        return suffix

    @model_validator(mode="after")
    def _apart(self) -> RabbitSettings:
        if self.retry_suffix == self.dead_suffix:
            raise Unfit("retry_suffix and dead_suffix must differ")
        return self

    @field_validator("url")
    @classmethod
    def _amqp(cls, url: Secret) -> Secret:
        try:
            parts = urlsplit(url.get_secret_value())
            several = "," in parts.netloc.rpartition("@")[2]
            several or parts.port  # noqa: B018 - reading it is what checks it
        except ValueError:
            raise Unfit("must be an address such as amqp://user:password@host:5672/vhost") from None
        if several:
            raise Unfit("must be one address: give several as a list, in urls")
        if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
            raise Unfit("must be an address such as amqp://user:password@host:5672/vhost")
        return url

    @field_validator("urls")
    @classmethod
    def _all_amqp(cls, urls: tuple[Secret, ...]) -> tuple[Secret, ...]:
        for url in urls:
            cls._amqp(url)
        if len({urlsplit(url.get_secret_value()).scheme for url in urls}) > 1:
            raise Unfit("must all begin with amqp://, or all with amqps://")
        return urls

    @model_validator(mode="after")
    def _one_or_several(self) -> RabbitSettings:
        if self.urls and "url" in self.model_fields_set:
            raise Unfit("give url or urls, not both")
        return self

    @model_validator(mode="after")
    def _files_for_tls(self) -> RabbitSettings:
        if self.key_file is not None and self.cert_file is None:
            raise Unfit("key_file is the key of cert_file: set both, or neither")
        if not self.encrypted and (self.ca_file is not None or self.cert_file is not None):
            raise Unfit("ca_file, cert_file and key_file are for TLS: give an url that begins with amqps://")
        return self

    @property
    def encrypted(self) -> bool:
        return self.addresses()[0].get_secret_value().lower().startswith("amqps:")

    def addresses(self) -> tuple[Secret, ...]:
        """In the order in which they are tried."""
        return self.urls or (self.url,)

    def at(self, address: Secret) -> RabbitSettings:
        """The same for that address alone."""
        return self.model_copy(update={"url": address, "urls": ()})

    def max_hold(self) -> HoldLimit | None:
        """What ``ion-core check`` goes by, which asks no server: its remedy is that of every version."""
        return self.max_hold_at("")

    def max_hold_at(self, version: str) -> HoldLimit | None:
        """What a server of that version allows, as far as we were told: RabbitMQ does not say what it has."""
        return limit_at(
            version,
            longest=self.consumer_timeout,
            queue_type=self.queue_type,
            prefix=self.prefix,
            key=self.section.dotted("consumer_timeout"),
        )

    def location(self) -> Location:
        """Others reach a server by some address, whatever the one that we use."""
        return Location(where=self.place(), reach=Reach.NETWORK)

    def place(self) -> str:
        """Where the broker is, without credentials: for messages."""
        if self.urls:
            return ", ".join(self.at(address).place() for address in self.urls)
        host, port = self.host_and_port()
        return f"{'amqps' if self.encrypted else 'amqp'}://{f'[{host}]' if ':' in host else host}:{port}"

    def host_and_port(self) -> tuple[str, int]:
        parts = urlsplit(self.url.get_secret_value())
        return parts.hostname or "", parts.port or (5671 if self.encrypted else 5672)

    def permissions(self) -> str:
        """What the user needs, as a command."""
        parts = urlsplit(self.url.get_secret_value())
        vhost, user = unquote(parts.path.removeprefix("/")) or "/", unquote(parts.username or "guest")
        ours = "|".join(re.escape(name) for name in (f"{self.prefix}.", self.exchange) if name is not None)
        return (
            f"Give the user what Ion needs: rabbitmqctl set_permissions -p '{vhost}' '{user}' "
            f"'^({ours})' '^({ours}|amq\\.default$)' '^({ours})'. Where all queues exist, the first, configure, may be "
            f"'^{re.escape(self.prefix)}\\.queues\\.lock$'."
        )

    def worries(self) -> list[str]:
        """What is unwise about it, a sentence each."""
        return [worry for address in self.addresses() for worry in self.at(address)._worries()]

    def _worries(self) -> list[str]:
        parts = urlsplit(self.url.get_secret_value())
        if _is_this_machine(parts.hostname or ""):
            return []
        found = []
        if parts.scheme == "amqp":
            found.append(f"{self.place()} is not encrypted: anybody on the way can read events. Use amqps://.")
        if parts.username in (None, "guest"):
            found.append(f"{self.place()} is used as guest. Make a user with a password of its own.")
        return found


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
