"""Whose job is asked for, and which module does it: from flags to values; what came of it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ion_core.cli.output import plain, say
from ion_core.errors import UsageError

if TYPE_CHECKING:
    from ion_core.config import Config
    from ion_core.events import Context
    from ion_core.modules import Module

UNNAMED = "module"
"""What a module is called that was given no name, in development."""


def tell(lines: list[str]) -> None:
    for line in lines:
        say(plain(line))


def asked_for(given: dict[str, Any], *, unnamed: str = "") -> Context:
    from ion_core.events import Context

    return Context(
        name=given["name"] or unnamed,
        event_id=given["event_id"],
        correlation_id=given["correlation_id"],
        parent_event_id=given["parent_event_id"],
    )


def module_of(config: Config, given: dict[str, Any]) -> Module:
    """The module as the configuration has it, or any where it has none; it may publish what was given."""
    import difflib
    from dataclasses import replace

    from ion_core.modules import MODULE_NAME, Module

    name: str = given["name"]
    if not MODULE_NAME.fullmatch(name):
        got = f" (got {name[:80]!r})" if name else ""
        raise UsageError(
            f"--context.name: must be 1 to 63 lower-case letters, digits and hyphens, no hyphen first or last{got}. "
            "It is the module's name."
        )
    module = config.modules.get(name)
    if module is None and config.modules:
        near = difflib.get_close_matches(name, config.modules, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"--context.name: no module called {name!r}.{hint} Modules: {', '.join(config.modules)}.")
    module = module or Module(name=name)
    return replace(module, publishes=given["types"]) if given["types"] else module
