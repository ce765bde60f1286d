"""From what was given on the command line to an open App."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ion_core.cli.options import Options
from ion_core.errors import ConfigError

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config, Replacements
    from ion_core.plugins import Registry

T = TypeVar("T")


def load(options: Options, *, logs_already: bool = False, replacements: Replacements | None = None) -> Config:
    """The configuration in force, with other providers where they are replaced; warnings go to stderr.

    Raises ConfigError with everything that is wrong.
    """
    from ion_core.cli.logging_setup import log_warnings
    from ion_core.config import find_config, load_config

    if not logs_already:
        log_warnings()
    overrides = {"state": options.state_dir} if options.state_dir else {}
    return load_config(find_config(options.config), overrides=overrides, replacements=replacements)


def run(config: Config, work: Callable[[App], Awaitable[T]]) -> T:
    """``work`` with the App of ``config``, which opens a provider when it is first asked for."""
    import asyncio

    from ion_core.app import App

    async def with_app() -> T:
        async with App.open(config) as app:
            return await work(app)

    return asyncio.run(with_app())


def plugins_allowed(flag: str | None) -> Registry:
    """The plugins that the configuration allows, even if it has other problems; all that are installed without one."""
    from ion_core.cli.logging_setup import log_warnings
    from ion_core.config import find_config, load_config
    from ion_core.plugins import load_plugins, unknown_distributions

    log_warnings()
    try:
        path = find_config(flag)
    except ConfigError:
        return load_plugins()
    try:
        return load_config(path).registry
    except ConfigError:
        if not path.is_file():
            raise
        names = _plugins_in(path.read_bytes())
    missing = set(unknown_distributions(names or ()))
    return load_plugins(allow=None if names is None else [name for name in names if name not in missing])


def _plugins_in(raw: bytes) -> list[str] | None:
    """What ``plugins:`` lists; None without it. Raises ConfigError when that cannot be told."""
    from ion_core.config.tree import Problems, parse

    node = parse(raw, "configuration", Problems()).at(("plugins",))
    if node is None or node.value is None:
        return None
    return [str(item.value) for item in node.value] if isinstance(node.value, list) else []
