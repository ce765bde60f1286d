"""What a plugin registers: a name to choose it by, its settings, and how to open it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

P = TypeVar("P", covariant=True)


class Reach(IntEnum):
    """Who else gets at what a provider keeps; a larger one reaches further."""

    PROCESS = 1
    MACHINE = 2
    NETWORK = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a configuration. Only an ``error`` keeps it from being served.

    ``where`` is how a message begins: ``settings.section.where(key)``. ``text`` says what is wrong, what would do, and
    nothing secret.

    Settings of any provider may have a method that `ion-core check` calls: ``def findings(self) -> Iterable[Finding]``.
    It looks at what is on this machine, such as files that they name, and connects to nothing. What keeps the provider
    from being opened or run for certain is an ``error``.
    """

    severity: Literal["info", "warning", "error"]
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a message broker or a store keeps what it is given, as far as its settings tell without connecting.

    ``where`` is for messages: an address or a path, without credentials. ``reach`` is None where settings cannot tell,
    as of a directory that may be mounted elsewhere, too.

    Settings say it in a method of this name: ``def location(self) -> Location``. Without one nothing is known.
    """

    where: str
    reach: Reach | None


@dataclass(frozen=True, kw_only=True)
class Provider(Generic[P]):
    """One backend of one kind.

    ``name``      chosen in the configuration, as in ``messaging: {provider: sqlite}``; ``^[a-z][a-z0-9-]*$``.
    ``settings``  a subclass of ``contracts.settings.Settings``, which has ``extra="forbid"``: the rest of that section
                  is validated into it. ``settings.section`` says where that stands and under which name. Those
                  of a broker or a store should tell their ``Location``; those of a runtime or an executor may have a
                  method ``capabilities`` that tells, without connecting, what it will offer when it is open.
    ``open``      given the settings, an asynchronous context manager that connects on entry, yields the provider and
                  closes on exit; it may be called again afterwards. Heavy imports belong inside it. It raises
                  ConfigError for settings that cannot work, beginning with ``settings.section.where(key)``,
                  TransientError when the service does not answer (within 30 s) and StateError for state it cannot
                  use. Anything else is a fault of the plugin and reported as one, None instead of a provider too.
    ``contract``  the contract version it was written for; another major version is refused, and a newer minor one.
    """

    name: str
    settings: type[BaseModel]
    open: Callable[[Any], AbstractAsyncContextManager[P]]
    contract: str
