"""What commands that run one step outside of the dispatcher share: which event, which module, and what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ion_core.cli.named import no_module
from ion_core.cli.options import Text
from ion_core.cli.output import hidden, hidden_in, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import ConfigError, DocumentNotFound, UsageError
from ion_core.words import plain_lines

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config
    from ion_core.contracts.runtime import ContainerRuntime
    from ion_core.dataplane import DataPlane
    from ion_core.events import Event
    from ion_core.modules import Module
    from ion_core.rehearsal import Rehearsal
    from ion_core.rehearsal.scratch import Scratch

F = TypeVar("F", bound=Callable[..., Any])

DEV_STATE = "dev/.ion"
IMAGES_ONLY = "Give --runtime podman (or another provider that runs images), or a command."


@dataclass(frozen=True)
class Where:
    """Where the event comes from and the module runs: as configured, or as ``dev run`` had it."""

    dev: bool
    runtime: str | None


@dataclass(frozen=True)
class Place:
    """Where one step is run."""

    module: Module
    runtime: ContainerRuntime
    scratch: Scratch


def where_options(command: F) -> F:
    """``--dev`` and ``--runtime``; the command is given ``dev`` and ``runtime``."""
    runtime = click.option(
        "--runtime", metavar="PROVIDER", type=Text(), help="Run it by this one, such as podman. Default: as configured."
    )
    dev = click.option(
        "--dev",
        is_flag=True,
        help="The event is one of `dev run`: its stores are read, in ./dev/.ion, and modules run by process.",
    )
    return dev(runtime(command))


def load_for(options: Options, where: Where, *, stored: bool, said_by: str) -> Config:
    """The configuration without what a step by itself does not need. ``stored``: its stores are read."""
    from ion_core.cli.session import load
    from ion_core.config import embedded, unpublished

    if where.dev:
        options.state_dir = options.state_dir or DEV_STATE
        if not Path(options.state_dir).is_dir():
            raise UsageError(f"--dev: there is no {options.state_dir}. `ion-core dev run` makes it; see --state-dir.")
    replacements = unpublished(runtime=where.runtime, stored=stored, said_by=said_by)
    if where.dev:
        replacements = {**embedded(runtime=where.runtime, said_by="--dev"), **replacements}
    return load(options, replacements=replacements)


def module_named(config: Config, name: str) -> Module:
    """Raises UsageError naming those there are."""
    if name not in config.modules:
        raise no_module(name, config.modules)
    return config.modules[name]


async def stored_event(app: App, id: str) -> Event:
    """The event of that id, or of the one id that begins so. Raises DocumentNotFound, UsageError."""
    from ion_core.cli.ids import whole_id

    whole, _ = await whole_id(await app.documents(), id, app.config.modules.values())
    event = await (await app.dataplane()).accepted(whole)
    if event is None:
        raise DocumentNotFound(
            f"event {whole!r}: left logs, but no document of its own, so what it brought is not known."
        )
    return event


def check_takes(module: Module, event_type: str, *, new: bool = False) -> None:
    """Raises UsageError for a type that the module does not take, and for a ``new`` event where it gathers."""
    types = ", ".join(module.subscribes)
    if module.gather is not None and (new or event_type not in module.subscribes):
        raise UsageError(
            f"module {module.name} gathers: it takes no events of type {event_type[:80]!r}, only what was gathered. "
            f"`ion-core trace flow` shows that as {types}: name one by its id."
        )
    if event_type not in module.subscribes:
        raise UsageError(f"module {module.name} takes no events of type {event_type[:80]!r}, only {types}.")


async def fitting_runtime(app: App, module: Module, where: Where) -> tuple[Module, ContainerRuntime]:
    """The module's runtime, and the module without what a runtime that stands in for another does not offer.

    Raises ConfigError for what it cannot do without.
    """
    from ion_core.config import check_runtimes, fit_runtimes

    runtime = await app.runtime(module.runtime)
    capabilities = {module.runtime: runtime.capabilities}
    config = app.config.only(module)
    if where.dev or where.runtime:
        config, left_out = fit_runtimes(config, capabilities)
        for finding in left_out:
            say(f"ion-core: warning: {plain(str(finding))}")
    if findings := check_runtimes(config, capabilities, instead=IMAGES_ONLY):
        raise ConfigError([str(finding) for finding in findings])
    return config.modules[module.name], runtime


@asynccontextmanager
async def scratch_for(app: App, module: Module, where: Where) -> AsyncIterator[Place]:
    """The module as its runtime here can have it, that runtime, and a directory for one rehearsal."""
    from ion_core.rehearsal import scratch

    fitting, runtime = await fitting_runtime(app, module, where)
    async with scratch(app.state, module.runtime, runtime) as scratched:
        yield Place(fitting, runtime, scratched)


@asynccontextmanager
async def rehearsed(place: Place, event: Event, dataplane: DataPlane) -> AsyncIterator[Rehearsal]:
    """The step, run once; each line the module prints goes to stderr as it comes."""
    from ion_core.rehearsal import rehearse

    async with rehearse(
        place.module,
        event,
        dataplane=dataplane,
        runtime=place.runtime,
        work=place.scratch.work,
        mark=place.scratch.mark,
        said=lambda line: say(plain_lines(line)),
    ) as rehearsal:
        yield rehearsal


def to_json(rehearsal: Rehearsal) -> dict[str, Any]:
    """What it came to, with the documents' field names."""
    from ion_core.events import pairs_to_json

    job = rehearsal.attempt.job
    return {
        "module": job.module,
        "eventId": job.event.context.event_id,
        "type": job.event.type,
        "succeeded": rehearsal.failure is None,
        "reason": "" if rehearsal.failure is None else hidden(str(rehearsal.failure)),
        "seconds": round(rehearsal.seconds, 3),
        "image": rehearsal.image,
        "files": [{"name": it.name, "size": it.size, "sha256": it.sha256} for it in rehearsal.files],
        "insights": pairs_to_json(rehearsal.insights),
        "events": [it.to_wire() | {"files": list(it.files)} for it in rehearsal.events],
        "logs": hidden_in(list(rehearsal.lines)),
    }
