"""``ion-core debug``."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.module.rehearsing import (
    Where,
    check_takes,
    load_for,
    module_named,
    scratch_for,
    stored_event,
    where_options,
)
from ion_core.cli.named import EventId, ModuleName
from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import out, out_json, out_table, plain, say
from ion_core.cli.whole import Options
from ion_core.errors import UsageError
from ion_core.words import plain_lines

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.events import Event
    from ion_core.handler import Workspace
    from ion_core.handler.failed import Kept
    from ion_core.modules import Module

MOST_SHOWN = 200
"""Entries of a workspace."""


@click.command("debug")
@click.argument("event_id", type=EventId())
@click.option("--module", "name", metavar="NAME", type=ModuleName(), help="The module. Default: the one that failed.")
@click.option("--attempt", metavar="N", type=click.IntRange(1), help="The kept workspace of this attempt.")
@click.option("--fresh", is_flag=True, help="Prepare the inputs again, even if a failed attempt's workspace is kept.")
@click.option("--shell", is_flag=True, help="Open a shell there.")
@where_options
@json_option
@with_config
@click.pass_context
def command(
    ctx: click.Context,
    options: Options,
    event_id: str,
    name: str | None,
    attempt: int | None,
    fresh: bool,
    shell: bool,
    dev: bool,
    runtime: str | None,
    as_json: bool,
) -> None:
    """Open the workspace of an attempt, or a shell in it.

    Nothing is committed or published. It is the newest one that was kept of a failed attempt, as that left it
    (`keep_failed` of the module); without one, or with --fresh, the inputs are prepared again. The shell has the
    module's environment and starts where its command does: in its source, or under a runtime of containers in one of
    its own. Commands may come from standard input; the exit code is the shell's. Without --shell it is said where the
    workspace is and what is in it, with the log of the last attempt.

    \b
    Examples:
      ion-core debug 3f2a9c1b --shell
      echo 'ls -R "${HANDLER_BASE_DIR:-/ion/}"' | ion-core debug 3f2a9c1b --module detect --shell
    """
    from ion_core.cli.session import run

    if shell and as_json:
        raise click.UsageError("--json prints where the workspace is, --shell opens a shell: give one of them.", ctx)
    if fresh and attempt is not None:
        raise click.UsageError("--attempt names a workspace that is kept, --fresh makes one: give one of them.", ctx)
    where = Where(dev=dev, runtime=runtime)
    config = load_for(options, where, stored=True, said_by="debug")
    if name is not None:
        module_named(config, name)

    async def work(app: App) -> int:
        event = await stored_event(app, event_id)
        module = await _module(app, event, name)
        kept = None if fresh else await _kept(app, event, module, attempt)
        if shell:
            return await _shell(app, event, module, kept, where)
        found = Found(event, module, kept, kept.workspace if kept else await _left_for_looking(app, event, module))
        shown = await _described(app, found)
        out_json(shown) if as_json else _show(found, shown)
        return 0

    ctx.exit(run(config, work))


@dataclass(frozen=True)
class Found:
    """A workspace; ``kept`` if it is that of an attempt, else its inputs were prepared again."""

    event: Event
    module: Module
    kept: Kept | None
    workspace: Workspace


async def _module(app: App, event: Event, name: str | None) -> Module:
    """The one named; else the only one that takes the event; else the only one of those that failed last."""
    if name is not None:
        module = app.config.modules[name]
        check_takes(module, event.type)
        return module
    taking = {it.name: it for it in app.config.modules.values() if event.type in it.subscribes}
    if not taking:
        raise UsageError(f"no module of the configuration takes events of type {event.type!r}.")
    logs = await _last_logs(app, event)
    failed = [name for name in taking if name in logs and not logs[name].get("succeeded")]
    candidates = failed if len(taking) > 1 else list(taking)
    if len(candidates) != 1:
        raise UsageError(f"which module? Give --module. It is taken by {', '.join(taking)}.")
    return taking[candidates[0]]


async def _kept(app: App, event: Event, module: Module, attempt: int | None) -> Kept | None:
    import asyncio

    from ion_core.errors import storage_error
    from ion_core.handler.failed import FailedWorkspaces, own_inputs

    every = await asyncio.to_thread(FailedWorkspaces(app.state.path / "failed").all, event.context.event_id)
    names = (module.name, *module.formerly)
    found = [it for it in every if it.module in names and attempt in (None, it.attempt)]
    if attempt is not None and not found:
        kept = ", ".join(str(it.attempt) for it in every if it.module in names) or "none"
        raise UsageError(f"--attempt: the workspace of attempt {attempt} is not kept. Kept of this job: {kept}.")
    if not found:
        return None
    try:
        await asyncio.to_thread(own_inputs, found[-1].workspace)
    except OSError as error:
        raise storage_error(str(error.filename or found[-1].workspace.home), error) from error
    return found[-1]


async def _prepared(app: App, event: Event, module: Module, base: Path) -> Workspace:
    """A workspace under ``base`` as it is before the module runs; its inputs are copies that may be changed."""
    import secrets

    from ion_core.handler import Handler
    from ion_core.jobs import Attempt, Job

    handler = Handler(await app.dataplane(), base)
    workspace = await handler.open_workspace(f"{module.name}-{secrets.token_hex(4)}")
    try:
        await handler.prepare(Attempt(job=Job(event=event, module=module.name), number=1), workspace, link=False)
    except BaseException:
        await handler.close_workspace(workspace)
        raise
    return workspace


async def _left_for_looking(app: App, event: Event, module: Module) -> Workspace:
    from ion_core.errors import storage_error

    base = app.state.path / "debug"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise storage_error(str(base), error) from error
    return await _prepared(app, event, module, base)


async def _shell(app: App, event: Event, module: Module, kept: Kept | None, where: Where) -> int:
    from functools import partial

    from ion_core.handler import Handler
    from ion_core.jobs import Attempt, Job
    from ion_core.rehearsal.shell import run_shell

    attempt = Attempt(job=Job(event=event, module=module.name), number=kept.attempt if kept else 1)
    async with scratch_for(app, module, where) as place:
        workspace = kept.workspace if kept else await _prepared(app, event, module, place.scratch.work)
        how = f"as attempt {kept.attempt} left it ({plain(kept.reason)})" if kept else "prepared again, gone at the end"
        handler = Handler(await app.dataplane(), place.scratch.work)
        say(f"workspace  {plain(str(workspace.root.absolute()))}  {how}")
        say(f"command    {_command(app, module)}")
        return await run_shell(
            place.module,
            workspace,
            runtime=place.runtime,
            mark=place.scratch.mark,
            terminal=sys.stdin.isatty(),
            said=lambda line: say(plain_lines(line)),
            put_back=partial(handler.put_back, attempt, workspace, link=False),
        )


def _command(app: App, module: Module) -> str:
    """Without secrets, which a command may have."""
    from ion_core.config import dump

    shown = dump(app.config)["modules"][module.name]
    words = shlex.join(shown.get("command") or ()) or "(the image's own)"
    words = " ".join((words, *map(shlex.quote, shown.get("args") or ())))
    image = module.image or module.build
    return plain(f"{words}  in {image}" if image and not module.source else words)


async def _described(app: App, found: Found) -> dict[str, Any]:
    import asyncio

    kept, root = found.kept, found.workspace.root
    return {
        "module": found.module.name,
        "eventId": found.event.context.event_id,
        "type": found.event.type,
        "workspace": str(root.absolute()),
        "kept": kept is not None,
        "attempt": kept.attempt if kept else None,
        "reason": kept.reason if kept else "",
        "files": await asyncio.to_thread(lambda: list(_contents(root))),
        "command": _command(app, found.module),
        "source": str(found.module.source) if found.module.source else None,
        "log": await _log(app, found),
    }


def _contents(root: Path) -> Iterator[Mapping[str, Any]]:
    """What is in it, sorted; ``size`` in bytes, None for what is no file. Links are not followed."""
    count = 0
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted([*files, *(it for it in names if Path(directory, it).is_symlink())]):
            status = Path(directory, name).lstat()
            size = status.st_size if stat.S_ISREG(status.st_mode) else None
            yield {"name": str(Path(directory, name).relative_to(root)), "size": size}
            count += 1
            if count == MOST_SHOWN:
                return


async def _last_logs(app: App, event: Event, token: str | None = None) -> Mapping[str, Mapping[str, Any]]:
    """By module, the log of the attempt that ended last, or of the one with that ``token``."""
    from ion_core.flows import logs_of

    found: dict[str, Mapping[str, Any]] = {}
    async for module, log in logs_of(await app.documents(), event.context.event_id, event.context.correlation_id):
        body = log.body
        newest = str(body.get("finishedAt", "")) >= str(found.get(module, {}).get("finishedAt", ""))
        if newest and token in (None, body.get("token")):
            found[module] = body
    return found


async def _log(app: App, found: Found) -> str | None:
    """Of the attempt whose workspace it is, else of the last one; None if there is none."""
    from ion_core.cli.flow.logs import as_it_is_now

    logs = await _last_logs(app, found.event, found.kept.token if found.kept else None)
    named = [logs[name] for name in (found.module.name, *found.module.formerly) if name in logs]
    if not named:
        return None
    return f"{named[0].get('desc', '')}\n{as_it_is_now(str(named[0].get('logs', '')), app.state.path / 'failed')}"


def _show(found: Found, shown: Mapping[str, Any]) -> None:
    kept = found.kept
    how = f"as attempt {kept.attempt} left it: {plain(kept.reason)}" if kept else "prepared again"
    out(f"workspace  {plain(shown['workspace'])}  ({how})", whole=True)
    out(f"module     {shown['module']}: {shown['command']}")
    if shown["source"]:
        out(f"source     {plain(shown['source'])}", whole=True)
    out_table(
        ["FILE", "BYTES"], [[it["name"], "-" if it["size"] is None else f"{it['size']:,}"] for it in shown["files"]]
    )
    if len(shown["files"]) == MOST_SHOWN:
        say(f"Only the first {MOST_SHOWN} are shown.")
    if shown["log"] is not None:
        out(plain_lines(f"\n== {shown['log']}".rstrip("\n")))
    home = shlex.quote(str(found.workspace.home.absolute()))
    if kept is None:
        say(f"It stays there until you remove it: rm -r {plain(home)}")
    else:
        say(f"It stays there until {found.module.keep_failed} newer ones of {found.module.name} are kept.")
