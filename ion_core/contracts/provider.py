"""What a plugin registers: a name to choose it by, its settings, and how to open it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

P = TypeVar("P", covariant=True)


class Reach(IntEnum):
    """Who else gets at what a provider keeps; a larger one reaches further."""

    PROCESS = 1
    MACHINE = 2
    NETWORK = 3


class Kind(Enum):
    """What a provider is, in the words of messages."""

    MESSAGE_BROKER = "message broker"
    CONTAINER_RUNTIME = "container runtime"
    EXECUTOR = "executor"
    BLOB_STORE = "blob store"
    DOCUMENT_STORE = "document store"
    SERVICE = "service"
    OBSERVER = "observer"

    @property
    def one(self) -> str:
        """With its article."""
        return f"{'an' if self.value[0] in 'aeiou' else 'a'} {self.value}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Where in a configuration settings stand: for errors about them, and for what a provider calls after itself.

    ``key``     of the section, such as ``storage.blobs`` or ``services.gateway``; '' for settings of no configuration.
    ``places``  file, line and column of what was given there, by key from the section on; under '' of the section.
    """

    key: str = ""
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What the configuration calls this one among others of its provider: ``gateway``, of ``services.gateway``."""
        return self.key.rpartition(".")[2]

    def dotted(self, key: str = "") -> str:
        """``storage.blobs.path``, for the ``key`` ``path``: how one would name it to somebody who is to set it."""
        return ".".join(part for part in (self.key, key) if part)

    def where(self, key: str = "") -> str:
        """``ion.yaml:9:13: storage.blobs.path``: how an error about ``key`` begins, whether it was given or not."""
        above = key
        while above and above not in self.places:
            above = above.rpartition(".")[0]
        place = self.places.get(above, "")
        return ": ".join(part for part in (place, self.dotted(key)) if part)


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
class Offer:
    """What a configuration chooses by name: a ``Provider``, or what an observer takes.

    ``name``      chosen in the configuration, as in ``messaging: {provider: sqlite}``; ``^[a-z][a-z0-9-]*$``.
    ``settings``  a subclass of ``contracts.settings.Settings``, which has ``extra="forbid"``: the rest of that section
                  is validated into it. ``settings.section`` says where that stands and under which name. Those that
                  name modules should tell them: ``def modules(self) -> Mapping[str, str]``, by the key of each.
    ``contract``  the contract version it was written for; another major version is refused, and a newer minor one.
    """

    name: str
    settings: type[BaseModel]
    contract: str


@dataclass(frozen=True, kw_only=True)
class ObserverSettings(Offer):
    """The settings of a plugin that observes, chosen by being named under ``observers``.

    Its hooks are called once for each of its sections, with what stands there as ``settings``: a new object once the
    configuration was read again, so an observer that keeps what it made of them looks whether they are others. Without
    a section it is told with the defaults, or, where a setting is required, nothing.
    """


@dataclass(frozen=True, kw_only=True)
class Provider(Offer, Generic[P]):
    """One backend of one kind.

    ``settings``  those of a broker or a store should tell their ``Location``; those of a runtime or an executor may
                  have a method ``capabilities`` that tells, without connecting, what it will offer when it is open.
    ``open``      given the settings, an asynchronous context manager that connects on entry, yields the provider and
                  closes on exit; it may be called again afterwards. Heavy imports belong inside it. It raises
                  ConfigError for settings that cannot work, beginning with ``settings.section.where(key)``,
                  NotSetUpHere where this machine lacks what they do not name, TransientError when the service does
                  not answer (within 30 s) and StateError for state it cannot use. Anything else is a fault of the
                  plugin and reported as one, None instead of a provider too.
    ``plain``     of a store that opens fast but for its model: ``module:function`` of the plugin, a ``PlainOpening``.
                  Steps of jobs elsewhere call it, and import nothing else of the plugin. '' where there is none.
    """

    open: Callable[[Any], AbstractAsyncContextManager[P]]
    plain: str = ""


PlainOpening = Callable[
    [Section, Mapping[str, Any]], tuple[Any, Callable[[Any], AbstractAsyncContextManager[Any]]] | None
]
"""Opens a store for a step of a job elsewhere, which is started for each job: without its model, which takes long.

Given the section and the values that the model took of what was set, as JSON, it returns settings, and how to open
them; None where it cannot tell: the step then does it by the model, as ever. The store was open with these values, in
``serve``, when the job began, so it need not be tried out again. The settings know their ``section``, and tell the same
``location`` as the model's. Opening raises what ``Provider.open`` may; the function itself raises nothing.
"""
