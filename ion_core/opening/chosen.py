"""A provider that a configuration chose, with its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from ion_core.contracts.provider import Finding, Kind, Location, Provider, Section
from ion_core.errors import PluginFailed

if TYPE_CHECKING:
    from ion_core.contracts.looking import PlannedView
    from ion_core.contracts.runtime import RuntimeCapabilities


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A provider and its validated settings: ``provider.open(settings)``.

    ``plugin``      the distribution that brings it, with its version.
    ``section``     where it is chosen.
    ``kind``        what it is: under ``runtimes`` a container runtime or an executor.
    ``on_failure``  of a service: whether one that fails ends ``serve`` or is started again.
    """

    provider: Provider[Any]
    settings: Any = field(repr=False)
    plugin: str
    section: Section
    kind: Kind
    on_failure: Literal["stop", "restart"] = "stop"

    @property
    def where(self) -> str:
        """Starts a message about them."""
        return self.section.where()

    def fault(self, did: str) -> PluginFailed:
        """The error that says what the plugin ``did``, and that it is the plugin's."""
        return PluginFailed(
            f'{self.where}: the plugin {self.plugin} failed: its "{self.provider.name}" {did}. '
            "Please report it to its author."
        )

    @property
    def location(self) -> Location | None:
        """Where it keeps what it is given, as far as its settings tell."""
        told = getattr(self.settings, "location", None)
        found = told() if callable(told) else None
        return found if isinstance(found, Location) else None

    @property
    def publishes(self) -> Mapping[str, str]:
        """The types of the events that a service will publish, as far as its settings tell, each by its key in them."""
        told = getattr(self.settings, "publishes", None)
        return told() if callable(told) else {}

    def planned(self, after: datetime, count: int) -> Sequence[PlannedView]:
        """What a service will publish by the clock, as far as its settings tell: ``count`` times of each. Raises
        PluginFailed."""
        tell = getattr(self.settings, "planned", None)
        try:
            return [*tell(after, count)] if callable(tell) else []
        except Exception as error:  # code of a plugin
            raise self.fault(f"raised {type(error).__name__} when its settings were asked what is planned") from error

    @property
    def modules(self) -> Mapping[str, str]:
        """The names of modules that its settings say, as far as they tell, each by its key. Raises PluginFailed."""
        tell = getattr(self.settings, "modules", None)
        try:
            return dict(tell()) if callable(tell) else {}
        except Exception as error:  # code of a plugin
            raise self.fault(f"raised {type(error).__name__} when its settings were asked for modules") from error

    @property
    def capabilities(self) -> RuntimeCapabilities | None:
        """What a runtime or an executor will offer, as far as its settings tell. Raises PluginFailed."""
        from ion_core.contracts.runtime import RuntimeCapabilities

        tell = getattr(self.settings, "capabilities", None)
        try:
            found = tell() if callable(tell) else None
        except Exception as error:  # code of a plugin
            raise self.fault(f"raised {type(error).__name__} when its settings were asked for capabilities") from error
        return found if isinstance(found, RuntimeCapabilities) else None

    def findings(self) -> list[Finding]:
        """What its settings find on this machine. Raises PluginFailed where they raise anything."""
        look = getattr(self.settings, "findings", None)
        try:
            return [*look()] if callable(look) else []
        except Exception as error:  # code of a plugin
            raise self.fault(f"raised {type(error).__name__} when its settings were asked for findings") from error

    def named(self, section: str) -> str:
        """The section with the provider's name and, if known, its place: ``storage.blobs (local, /srv/blobs)``."""
        where = f", {self.location.where}" if self.location is not None else ""
        return f"{section} ({self.provider.name}{where})"
