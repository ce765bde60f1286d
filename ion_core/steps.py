"""What steps 1 and 3 of a job elsewhere are given to work with: a derived configuration, read and opened at once.

``config.derive`` writes it, as a configuration that can be read as any other. These steps are started for each job, so
it is read here without all that finds mistakes in what people write: it was checked before it was derived.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ion_core import strict_json
from ion_core.contracts import CONTRACT_VERSION
from ion_core.contracts.provider import Kind, Provider, Section
from ion_core.errors import ConfigError, InvalidEvent, PluginFailed
from ion_core.opening import Chosen, opened
from ion_core.regular import read_regular
from ion_core.stores import Stores

if TYPE_CHECKING:
    from ion_core.contracts.provider import PlainOpening
    from ion_core.modules import Module
    from ion_core.registry import Registry

MAX_SETTINGS = 1 << 20
_KINDS = {"blobs": Kind.BLOB_STORE, "documents": Kind.DOCUMENT_STORE}


class StepSettings:
    """A derived configuration. ``said`` is all that it says, with secrets."""

    def __init__(self, path: Path, said: Mapping[str, Any]) -> None:
        self.path = path
        self.said = said

    @classmethod
    def read(cls, path: Path) -> StepSettings:
        """Raises ConfigError for what ``config.derived`` did not write."""
        try:
            raw = read_regular(path, MAX_SETTINGS + 1, follow=True)
            said = _unescaped(strict_json.loads(raw, what="settings", limit=MAX_SETTINGS))
            for section in ("storage", "modules"):
                if not all(isinstance(it, dict) for it in said[section].values()):
                    raise TypeError(f"{section} is no mapping of mappings")
            if not {"blobs", "documents"} <= said["storage"].keys():
                raise TypeError("storage is not both stores")
            if not all(isinstance(it, str) for it in (*said.get("hidden", ()), *said.get("plain", {}).values())):
                raise TypeError("hidden is no list of texts, or plain none by name")
        except (OSError, ValueError, TypeError, LookupError, AttributeError, InvalidEvent) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path}: are no settings of a job: {why}. Ion derives them for its executor.") from error
        return cls(path, said)

    def mask(self) -> Callable[[str], str]:
        """What all that the step says goes through."""
        if not (values := self.said.get("hidden")):
            return str
        from ion_core.hidden import Hidden

        return Hidden(values).masked

    def check_module(self, name: str) -> None:
        """Raises ConfigError where it is another module's."""
        if name not in self.said["modules"]:
            known = ", ".join(self.said["modules"]) or "none"
            raise ConfigError(f"{self.path}: modules: no module called {name!r}, of the ticket. Known: {known}.")

    def module(self, name: str) -> Module:
        """What commit must know of it. Raises ConfigError where it is another module's, or not as derived."""
        from ion_core.modules import Module, OutputLimits

        self.check_module(name)
        said = self.said["modules"][name]
        try:
            limits = OutputLimits(**said.get("limits", {}))
            publishes, leads_to = tuple(said.get("publishes", ())), tuple(self.said.get("leads_to", ()))
            return Module(name=name, publishes=publishes, limits=limits, leads_to=leads_to)
        except TypeError as error:
            raise ConfigError(f"{self.path}: modules.{name}: is not as it was derived: {error}.") from error

    @asynccontextmanager
    async def stores(self, importing: Callable[[], AbstractContextManager[None]]) -> AsyncIterator[Stores]:
        """The two stores, open meanwhile; plugins are imported within ``importing``. Raises as ``opening.opened``."""
        blobs, documents = (self.chosen(name, importing) for name in ("blobs", "documents"))
        async with opened(blobs) as blob_store, opened(documents) as document_store:
            yield Stores(blob_store, document_store, documents_at=documents.named("storage.documents"))

    def chosen(self, name: str, importing: Callable[[], AbstractContextManager[None]]) -> Chosen:
        """The store ``blobs`` or ``documents``. Raises ConfigError where its settings are not as they were derived."""
        from ion_core.embedded.plain import plain_store

        said = self.said["storage"][name]
        section = Section(key=f"storage.{name}", places={"": str(self.path)})
        if (found := plain_store(section, said)) is not None:
            provider, settings = found
            return Chosen(provider=provider, settings=settings, plugin="ion-core", section=section, kind=_KINDS[name])
        with importing():
            return self._plainly(name, said, section) or self._of_a_plugin(_KINDS[name], said, section)

    @cached_property
    def _registry(self) -> Registry:
        from ion_core.registry import load_plugins

        return load_plugins(allow=self.said.get("plugins"), environ={})

    def _plainly(self, name: str, said: Mapping[str, Any], section: Section) -> Chosen | None:
        """The store by what its plugin has for steps: see ``PlainOpening``. None where the registry is to find it."""
        from importlib import import_module  # of use to plugins alone

        module, _, function = self.said.get("plain", {}).get(name, "").partition(":")
        try:
            opening: PlainOpening | None = getattr(import_module(module), function, None) if module else None
        except ImportError:  # another version of the plugin is here, or none
            opening = None
        if opening is None:
            return None
        plugin, provider = module.partition(".")[0], str(said.get("provider"))
        try:
            found = opening(section, {key: it for key, it in said.items() if key != "provider"})
        except Exception as error:  # code of a plugin
            raise PluginFailed(
                f"{section.where()}: the plugin {plugin} failed: {module}:{function} raised {type(error).__name__}. "
                "Please report it to its author."
            ) from error
        if found is None:
            return None
        settings, opens = found
        chosen: Provider[Any] = Provider(
            name=provider, settings=cast(Any, type(settings)), open=opens, contract=CONTRACT_VERSION
        )
        return Chosen(provider=chosen, settings=settings, plugin=plugin, section=section, kind=_KINDS[name])

    def _of_a_plugin(self, kind: Kind, said: Mapping[str, Any], section: Section) -> Chosen:
        from pydantic import ValidationError

        name = str(said.get("provider"))
        provider = self._registry.choose(kind, name, where=section.where("provider"))
        values = {key: it for key, it in said.items() if key != "provider"}
        context = {"section": section, "state": Path(self.said.get("state", "")), "base": self.path.parent}
        try:
            settings = provider.settings.model_validate(values, context=context)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            keys = (".".join(map(str, it["loc"])) for it in found)
            lines = [f"{section.where(key)}: {it['msg']}" for key, it in zip(keys, found, strict=True)]
            raise ConfigError(lines) from error
        plugin = self._registry.plugin_of(kind, name)
        return Chosen(provider=provider, settings=settings, plugin=plugin, section=section, kind=kind)


def _unescaped(value: Any) -> Any:
    """Without what keeps a configuration from taking ``${`` for the beginning of something else."""
    if isinstance(value, str):
        return value.replace("$${", "${")
    if isinstance(value, dict):
        return {key: _unescaped(it) for key, it in value.items()}
    return [_unescaped(it) for it in value] if isinstance(value, list) else value
