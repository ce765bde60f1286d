"""``ion-core module record``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ion_core.cli.named import EventId, ModuleName
from ion_core.cli.options import Text, with_config
from ion_core.cli.output import out, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import DocumentNotFound, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ion_core.app import App
    from ion_core.commits import Commit
    from ion_core.dataplane import DataPlane
    from ion_core.events import Event


@click.command("record")
@click.argument("event_id", metavar="EVENT_ID", type=EventId())
@click.option(
    "--module", metavar="NAME", type=ModuleName(), help="Whose work. Needed when several have committed for it."
)
@click.option(
    "--name", metavar="CASE", type=Text(), help="What the case is called. Default: the id's first characters."
)
@with_config
def record(options: Options, event_id: str, module: str | None, name: str | None) -> None:
    """Record what a module made of an event, as a case that `module test` replays.

    Written is cases/MODULE/CASE beside the configuration: the inputs of the event, and the files, insights and events
    that the module committed for it. How they are compared is said in its case.yaml. The beginning of the event's id
    will do. The broker is not needed.

    \b
    Example:
      ion-core module record 3f2a9c1b --module detect --name three-faces
    """
    from ion_core.cases import DIRECTORY
    from ion_core.cases import record as write
    from ion_core.cli.module.rehearsing import stored_event
    from ion_core.cli.session import load, run
    from ion_core.config import unpublished

    config = load(options, replacements=unpublished(stored=True, said_by="module record"))

    async def work(app: App) -> Path:
        event, dataplane = await stored_event(app, event_id), await app.dataplane()
        whose, commit = await _committed(app, dataplane, event, module)
        target = config.path.parent / DIRECTORY / whose / _case_name(name, event)
        await write(event, commit, target, dataplane=dataplane)
        return target

    target = from_here(run(config, work))
    out(plain(str(target)), whole=True)
    say(f"Replay it: ion-core module test{options.flags()} {plain(f'{target.parent.name}/{target.name}')}")


async def _committed(app: App, dataplane: DataPlane, event: Event, module: str | None) -> tuple[str, Commit]:
    """The module and its commit for the event. Raises DocumentNotFound, and UsageError when several have one."""
    from ion_core.cli.module.rehearsing import module_named
    from ion_core.jobs import Job

    names = [module_named(app.config, module).name] if module is not None else list(app.config.modules)
    found = {name: it[0] for name in names if (it := await dataplane.committed(Job(event=event, module=name).id))}
    id = plain(event.context.event_id)
    if len(found) > 1:
        raise UsageError(f"--module: several have committed for event {id}: {', '.join(found)}. Name one.")
    if not found:
        who = f"module {names[0]}" if module is not None else "no module of the configuration"
        has = "has not committed anything" if module is not None else "has committed anything"
        raise DocumentNotFound(f"event {id}: {who} {has} for it. `ion-core logs {id}` shows why.")
    return found.popitem()


def from_here(path: Path) -> Path:
    """``path`` as one would type it in the working directory."""
    here = path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _case_name(given: str | None, event: Event) -> str:
    from ion_core.cases.record import NAME
    from ion_core.stores import key_segment

    if given is not None and not NAME.fullmatch(given):
        wanted = 'must be at most 64 letters, digits, ".", "_" and "-", a letter or digit first'
        raise UsageError(f"--name: {wanted} (got {plain(repr(given[:80]))}).")
    return given or key_segment(event.context.event_id).removeprefix("~")[:8]
