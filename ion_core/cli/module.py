"""``ion-core module`` and its ``list``; the other commands of the group are in files of their own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.module_init import init, library
from ion_core.cli.module_record import record
from ion_core.cli.module_replay import test
from ion_core.cli.module_run import run
from ion_core.cli.options import Options, json_option, with_config
from ion_core.cli.output import out_array, out_table, say, shortened
from ion_core.errors import QueueNotDeclared, TransientError

if TYPE_CHECKING:
    from ion_core.app import App

COUNTS = ("ready", "delayed", "unsettled", "dead")


@click.group("module")
def command() -> None:
    """List the modules; start, run, record and test one."""


for _command in (init, run, record, test, library):
    command.add_command(_command)


@command.command("list")
@with_config
@json_option
def list_modules(options: Options, as_json: bool) -> None:
    """List the modules of the configuration, with what lies in their queues if the broker answers.

    ready: waiting. delayed: waiting for a retry. running: held by a dispatcher. dead: dead letters.
    """
    from ion_core.cli.session import load, run
    from ion_core.config import dump

    config = load(options)
    counts = run(config, _counts)
    shown = dump(config)["modules"]  # without secrets, which a command may have
    modules = [_fields(name, module, counts.get(name)) for name, module in shown.items()]
    if as_json:
        out_array(modules)
        return
    headers = ["MODULE", "READY", "DELAYED", "RUNNING", "DEAD", "RUNTIME", "AT A TIME", "TAKES", "MAY EMIT", "RUNS"]
    out_table(headers, [_row(module) for module in modules])
    if not modules:
        say("There are no modules in the configuration.")


async def _counts(app: App) -> dict[str, dict[str, int]]:
    """By module; without those whose queue does not exist yet, and empty if the broker does not answer."""
    found: dict[str, dict[str, int]] = {}
    try:
        broker = await app.broker()
        for name in app.config.modules:
            try:
                stats = await broker.stats(name)
            except QueueNotDeclared:
                continue
            found[name] = {count: getattr(stats, count) for count in COUNTS}
    except TransientError as error:
        say(f"The queues are not counted: {error}")
    return found


def _fields(name: str, module: Mapping[str, Any], counts: dict[str, int] | None) -> dict[str, Any]:
    found = {key: module.get(key) for key in ("image", "build", "command", "source", "runtime", "concurrency")}
    types = {key: module.get(key) or [] for key in ("subscribes", "publishes")}
    return {"name": name, **found, **types, "queue": counts}


def _row(module: Mapping[str, Any]) -> list[str]:
    counts = module["queue"]
    return [
        module["name"],
        *(str(counts[count]) if counts else "-" for count in COUNTS),
        module["runtime"],
        str(module["concurrency"]),
        ", ".join(module["subscribes"]) or "-",
        ", ".join(module["publishes"]) or "-",
        shortened(
            " ".join(filter(None, [module["image"] or module["build"], shlex.join(module["command"] or ())])), 60
        ),
    ]
