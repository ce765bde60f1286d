"""``ion-core module`` and its ``list``; the other commands of the group are in files of their own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from ion_core.cli.group import Group
from ion_core.cli.module.changing import remove, rename
from ion_core.cli.module.init import init, library
from ion_core.cli.module.queues import drain, drop, move
from ion_core.cli.module.record import record
from ion_core.cli.module.run import run
from ion_core.cli.module.test import test
from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import out_array, out_table, plain, say, shortened
from ion_core.cli.whole import Options
from ion_core.errors import ConfigError, QueueNotDeclared, TransientError

if TYPE_CHECKING:
    from ion_core.app import App, StrayQueue
    from ion_core.contracts.messaging import QueueStats

NOBODY = "(no module of this configuration)"
COUNTS = ("ready", "delayed", "unsettled", "dead")


@click.group("module", cls=Group)
def command() -> None:
    """List the modules; start, run, test, rename or remove one; drain, move or drop queues."""


for _command in (init, run, record, test, library, rename, remove, drain, move, drop):
    command.add_command(_command)


@command.command("list")
@with_config
@json_option
def list_modules(options: Options, as_json: bool) -> None:
    """List the modules of the configuration, with what lies in their queues if the broker answers.

    ready: waiting. delayed: waiting for a retry. running: held by a dispatcher. dead: dead letters. A number that the
    broker did not tell is ?, of a queue that does not exist yet it is -. Queues that no module of the configuration
    takes follow, such as that of a module that was renamed: `module move`, `module drain` and `module drop` deal with
    them. On a terminal what does not fit is cut, and columns that do not are left out, unless --verbose is given.
    """
    from ion_core.cli.session import load, run
    from ion_core.config import dump, runs_processes

    config = load(options)
    counts, strays = run(config, _counts, reading=True)
    shown = dump(config)["modules"]  # without secrets, which a command may have
    modules = [_fields(name, module, counts.get(name)) for name, module in shown.items()]
    modules += [_stray_fields(stray) for stray in strays]
    if as_json:
        out_array(modules)
        return
    headers = ["MODULE", "READY", "DELAYED", "RUNNING", "DEAD", "RUNTIME", "AT A TIME", "TAKES", "MAY EMIT", "RUNS"]
    processes = {name for name, chosen in config.runtimes.items() if runs_processes(chosen)}
    rows = [_row(module, images=module["runtime"] not in processes) for module in modules]
    cuttable, spare = ("MODULE", "RUNTIME", "TAKES", "MAY EMIT"), ("AT A TIME", "RUNTIME", "MAY EMIT")
    out_table(headers, rows, fit=not options.verbose, cuttable=cuttable, spare=spare)
    if not config.modules:
        say("There are no modules in the configuration.")


Counts: TypeAlias = Mapping[str, int | None]
"""None for a number that the broker was not asked for, or did not tell."""


async def _counts(app: App) -> tuple[dict[str, Counts | None], list[StrayQueue]]:
    """By module, None for one whose queue does not exist yet; and queues of none, as far as the broker answers."""
    from ion_core.app import stray_queues

    found: dict[str, Counts | None] = {name: dict.fromkeys(COUNTS) for name in app.config.modules}
    strays: list[StrayQueue] = []
    try:
        broker = await app.broker()
        try:
            strays = await stray_queues(broker, app.config.modules)
        except ConfigError as error:  # this user may not ask for them
            say(f"Queues that no module takes are not listed: {plain(str(error))}")
        for name in app.config.modules:
            try:
                stats = await broker.stats(name)
            except QueueNotDeclared:
                found[name] = None
            else:
                found[name] = _shown(stats)
    except TransientError as error:
        say(f"The queues are not counted: {error}")
    return found, strays


def _shown(stats: QueueStats) -> Counts:
    return {count: getattr(stats, count) for count in COUNTS}


def _fields(name: str, module: Mapping[str, Any], counts: Counts | None) -> dict[str, Any]:
    found = {key: module.get(key) for key in ("image", "build", "command", "source", "runtime", "concurrency")}
    types = {key: module.get(key) or [] for key in ("subscribes", "publishes")}
    return {"name": name, "configured": True, **found, **types, "queue": counts}


def _stray_fields(stray: StrayQueue) -> dict[str, Any]:
    """As of a module, where the configuration has none: ``subscribes`` is what its queue collects."""
    unknown = dict.fromkeys(("image", "build", "command", "source", "runtime", "concurrency"))
    types = {"subscribes": sorted(stray.topics), "publishes": []}
    return {"name": stray.name, "configured": False, **unknown, **types, "queue": _shown(stray.stats)}


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)


def _row(module: Mapping[str, Any], *, images: bool) -> list[str]:
    """``images``: its runtime runs such; another takes no notice of one, so it is not shown."""
    counts = module["queue"]
    image = (module["image"] or module["build"]) if images else None
    return [
        plain(module["name"]),
        *(_number(counts[count]) if counts else "-" for count in COUNTS),
        module["runtime"] or "-",
        str(module["concurrency"] or "-"),
        plain(", ".join(module["subscribes"])) or "-",
        ", ".join(module["publishes"]) or "-",
        NOBODY
        if not module["configured"]
        else shortened(" ".join(filter(None, [image, shlex.join(module["command"] or ())])), 60),
    ]
