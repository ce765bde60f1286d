"""What a plugin registers: a name to choose it by, its settings, and how to open it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

P = TypeVar("P", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Provider(Generic[P]):
    """One backend of one kind.

    ``name``      chosen in the configuration, as in ``messaging: {provider: sqlite}``; ``^[a-z][a-z0-9-]*$``.
    ``settings``  a pydantic model with ``extra="forbid"``: the rest of that section is validated into it.
    ``open``      given the settings, an asynchronous context manager that connects on entry and closes on exit.
                  Heavy imports belong inside it. It raises ConfigError for settings that cannot work, TransientError
                  when the service does not answer (within 30 s) and StateError for state it cannot use.
    ``contract``  the contract version it was written for; another major version is refused.
    """

    name: str
    settings: type[BaseModel]
    open: Callable[[Any], AbstractAsyncContextManager[P]]
    contract: str
