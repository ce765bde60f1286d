"""What commands are given by name or id, which shells complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from ion_core.cli.options import Text
from ion_core.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ion_core.modules import Module


def no_module(name: str, modules: Iterable[str]) -> UsageError:
    """The error that names the nearest of the modules, and all of them."""
    import difflib

    known = list(modules)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"no module called {name[:80]!r}.{hint} Modules: {', '.join(known) or 'none'}.")


def no_type(name: str, modules: Mapping[str, Module]) -> UsageError:
    """The error that names the nearest of the types that modules take or may emit, and all of them."""
    import difflib

    known = sorted({it for module in modules.values() for it in (*module.subscribes, *module.publishes)})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"no event of type {name[:80]!r}.{hint} Types: {', '.join(known) or 'none'}.")


def now_and_then(name: str, modules: Mapping[str, Module]) -> frozenset[str]:
    """The names under which a module has worked: that one, and its former ones."""
    return frozenset((name, *(modules[name].formerly if name in modules else ())))


class ModuleName(Text):
    """The name of a module; shells complete those of the configuration."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ion_core.cli.completing import modules

        return modules(ctx, incomplete)


class EventType(Text):
    """A type of event; shells complete those that modules take or publish."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ion_core.cli.completing import event_types

        return event_types(ctx, incomplete)


class EventId(Text):
    """The id of a stored event, or its beginning."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ion_core.cli.completing import events

        return events(ctx, incomplete)


class FlowId(Text):
    """A correlation id, or its beginning."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ion_core.cli.completing import flows

        return flows(ctx, incomplete)


class FlowOrEventId(FlowId):
    """Either of them; of events shells complete what has been begun."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ion_core.cli.completing import events

        return super().shell_complete(ctx, param, incomplete) + (events(ctx, incomplete) if incomplete else [])


class DeadLetterId(Text):
    """The id of a dead letter, or its beginning."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ion_core.cli.completing import dead_letters

        return dead_letters(ctx, incomplete)


class CaseName(ModuleName):
    """The name of a module that has recorded cases, or MODULE/CASE."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ion_core.cli.completing import cases

        return cases(ctx, incomplete)


class QueueName(Text):
    """The name of a queue that no module of the configuration takes."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ion_core.cli.completing import queues_of_no_module

        return queues_of_no_module(ctx, incomplete)
