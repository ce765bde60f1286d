"""From what was given on the command line to an open App."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ion_core.cli.output import give_back, keep_for_results, led_to_stderr, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import ConfigError

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config, Replacements
    from ion_core.contracts.command import Pipeline
    from ion_core.registry import Registry

T = TypeVar("T")


def load(options: Options, *, logs_already: bool = False, replacements: Replacements | None = None) -> Config:
    """The configuration in force, with other providers where they are replaced; warnings go to stderr.

    Raises ConfigError with everything that is wrong.
    """
    from ion_core.cli.logging_setup import log_warnings
    from ion_core.cli.output import hide_with
    from ion_core.config import find_config, load_config, passed_over

    if not logs_already:
        log_warnings()
    overrides = {"state": options.state_dir} if options.state_dir else {}
    path = find_config(options.config)
    if not options.told and (other := passed_over(options.config)) is not None:
        options.told = True
        say(plain(f"The configuration is {path}, by $ION_CONFIG, not {other} of this directory."))
    try:
        with plugins_come_in():
            config = load_config(path, overrides=overrides, replacements=replacements)
    except ConfigError as error:
        if options.config or not os.environ.get("ION_CONFIG"):
            raise
        raise ConfigError([*error.problems, f"{path}: is the configuration by $ION_CONFIG."]) from error
    hide_with(config.hidden.masked)
    return config


def load_again(options: Options, before: Config) -> Config:
    """The configuration of ``before`` read anew, with the plugins that are loaded. What either brought stays hidden.

    Raises ConfigError with everything that is wrong; then nothing has changed.
    """
    from ion_core.cli.output import hide_with
    from ion_core.config import find_config, load_config

    overrides = {"state": options.state_dir} if options.state_dir else {}
    config = load_config(find_config(options.config), registry=before.registry, overrides=overrides)
    hide_with(before.hidden.with_those_of(config.hidden).masked)
    return config


def run(config: Config, work: Callable[[App], Awaitable[T]], *, reading: bool = False) -> T:
    """``work`` with the App of ``config``, which opens a provider when it is first asked for.

    ``reading``: it changes nothing, and so no state directory is made for it.

    A signal cancels it, so that it ends what it started; Interrupted is raised then.
    """
    from ion_core import ending
    from ion_core.app import App

    async def with_app() -> T:
        async with App.open(config, reading=reading) as app:
            done = await work(app)
            ending.within(ending.CLOSE_WITHIN)
            return done

    return ending.run(with_app())


class ConfiguredHere:
    """What commands of plugins may ask: ``contracts.command.Configured``."""

    def __init__(self) -> None:
        self._loaded: dict[str | None, Config] = {}

    def services(self, provider: str, *, config: str | None = None) -> Mapping[str, Any]:
        chosen = self._config(config).services
        return {name: it.settings for name, it in chosen.items() if it.provider.name == provider}

    def runtimes(self, provider: str, *, config: str | None = None) -> Mapping[str, Any]:
        loaded = self._config(config)
        found = {name: it.settings for name, it in loaded.runtimes.items() if it.provider.name == provider}
        if not found:
            there = ", ".join(f"{name} ({it.provider.name})" for name, it in loaded.runtimes.items())
            raise ConfigError(
                f"{loaded.where('runtimes')}: none is of provider {provider}. There are: {there}. Add one, or name "
                "another configuration with --config."
            )
        return found

    def observers(self, provider: str, *, config: str | None = None) -> Mapping[str, Any]:
        chosen = self._config(config).observers
        return {name: it.settings for name, it in chosen.items() if it.provider.name == provider}

    def pipeline(self, *, config: str | None = None) -> Pipeline:
        from ion_core.config import check_told
        from ion_core.contracts.command import Pipeline

        loaded = self._config(config)
        if refused := check_told(loaded):
            raise ConfigError([str(finding) for finding in refused])
        broker = loaded.messaging
        return Pipeline(
            file=loaded.path,
            messaging=broker.where,
            broker=broker.provider.name,
            broker_reach=None if broker.location is None else broker.location.reach,
            drain_timeout=loaded.drain_timeout,
            runtimes={name: module.runtime for name, module in loaded.modules.items()},
        )

    def event_types(self, *, config: str | None = None) -> Sequence[str]:
        modules = [it for it in self._config(config).modules.values() if it.gather is None]
        return sorted({it for module in modules for it in module.subscribes})

    def _config(self, path: str | None) -> Config:
        """Read once, so that what is to be said of it is said once."""
        if path not in self._loaded:
            options = Options()
            options.config = path
            self._loaded[path] = load(options)
            give_back()  # what the command prints is the result
        return self._loaded[path]


def plugins_allowed(flag: str | None) -> Registry:
    """The plugins that the configuration allows, even if it has other problems; all that are installed without one."""
    from ion_core.cli.logging_setup import log_warnings
    from ion_core.config import find_config, registry_of
    from ion_core.registry import load_plugins

    log_warnings()
    with plugins_come_in():
        try:
            path = find_config(flag)
        except ConfigError:
            return load_plugins()
        return registry_of(path)


@contextmanager
def plugins_come_in() -> Iterator[None]:
    """While they are imported, and from then on: standard output is ours alone."""
    keep_for_results()
    with led_to_stderr():
        yield
