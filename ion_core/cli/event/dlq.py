"""``ion-core dlq``: dead letters listed, shown and purged; ``redrive``, ``export`` and ``import`` stand beside."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.event.dlq_exchange import export, import_letters
from ion_core.cli.event.dlq_redrive import redrive
from ion_core.cli.event.letters import Which, chosen, fields, find, narrowed, one_by_id, run_on, selected
from ion_core.cli.group import Group
from ion_core.cli.named import DeadLetterId, ModuleName
from ion_core.cli.options import check_can_ask, json_option, with_config
from ion_core.cli.output import (
    ago,
    out,
    out_array,
    out_json,
    out_table,
    plain,
    results,
    say,
    shown_ids,
    to_json,
)
from ion_core.cli.whole import Options
from ion_core.words import counted, plain_lines

if TYPE_CHECKING:
    from datetime import datetime

    from ion_core.app import App
    from ion_core.contracts.messaging import DeadLetter

SHOWN = ("id", "module", "type", "eventId", "attempts", "diedAt")


@click.group("dlq", cls=Group)
def command() -> None:
    """Dead letters: list, group, show, redrive, purge, export or import them.

    A dead letter is an event that a module could not handle, kept aside after the last attempt.
    """


@command.command("list")
@narrowed
@click.option(
    "--by",
    type=click.Choice(["reason", "module", "type"]),
    help="Groups instead: how many died of one cause, of one module or of one type, and when.",
)
@json_option
@with_config
def list_letters(
    options: Options, module: str | None, reason: str | None, event_type: str | None, by: str | None, as_json: bool
) -> None:
    """List the dead letters, oldest first; also those in queues that no module of the configuration takes.

    On a terminal ids are short and lines are cut to fit; with --verbose nothing is.

    \b
    Examples:
      ion-core dlq list --by reason
      ion-core dlq list --module detect --reason "exit code 3"
    """
    from ion_core.cli.session import load, run

    config = load(options)
    which = Which(module=module, reason=reason, type=event_type)
    letters = run(config, lambda app: find(app, which, strays=True), reading=True)
    if by is not None:
        _list_groups(letters, by, as_json=as_json, whole=options.verbose)
    else:
        entries = [fields(letter) for letter in letters]
        if as_json:
            out_array(entries)
            return
        _print_list(entries, whole=options.verbose)
    if as_json:
        return
    for stray in sorted({letter.queue for letter in letters} - config.modules.keys()):
        text = "no module of this configuration takes it. `ion-core module move` gives what lies there to another."
        say(f"{plain(stray)}: {text}")
    if not letters:
        say("There are no such dead letters." if which.is_narrowed else "There are no dead letters.")


def _list_groups(letters: Sequence[DeadLetter], by: str, *, as_json: bool, whole: bool) -> None:
    from datetime import UTC, datetime

    from ion_core.letters import By, grouped

    groups = grouped(letters, By(by))
    if as_json:
        out_array(
            {
                by: group.key,
                "count": group.count,
                "modules": list(group.modules),
                "firstDiedAt": group.first.isoformat(timespec="milliseconds"),
                "lastDiedAt": group.last.isoformat(timespec="milliseconds"),
                "exampleId": group.example.id,
            }
            for group in groups
        )
        return
    here = results().isatty() and not whole
    now = datetime.now(UTC)
    ids = shown_ids((group.example.id for group in groups), whole=whole)

    def when(time: datetime) -> str:
        return ago(time, now) if here else time.isoformat(timespec="milliseconds")

    rows = []
    for group in groups:
        modules = [] if by == "module" else [", ".join(group.modules)]
        cells = [str(group.count), when(group.first), when(group.last), ids[group.example.id], *modules]
        rows.append([*cells, _cell(group.key)])
    ages = ["FIRST AGO", "LAST AGO"] if here else ["FIRST DIED AT", "LAST DIED AT"]
    headers = ["COUNT", *ages, "EXAMPLE", *([] if by == "module" else ["MODULES"]), by.upper()]
    out_table(headers, rows, fit=not whole, cuttable=("MODULES",))


def _print_list(entries: Sequence[dict[str, Any]], *, whole: bool) -> None:
    from datetime import UTC, datetime

    here = results().isatty() and not whole
    now, rows = datetime.now(UTC), []
    ids = shown_ids((entry["id"] for entry in entries), whole=whole)
    events = shown_ids((entry["eventId"] for entry in entries if entry["eventId"] is not None), whole=whole)
    for entry in entries:
        cells = {key: _cell(entry[key]) for key in SHOWN}
        cells |= {"id": ids[entry["id"]], "eventId": events.get(entry["eventId"], cells["eventId"])}
        if here:
            cells["diedAt"] = ago(datetime.fromisoformat(entry["diedAt"]), now)
        rows.append([*cells.values(), entry["reason"]])
    headers = ["ID", "MODULE", "TYPE", "EVENT ID", "ATTEMPTS", "AGE" if here else "DIED AT", "REASON"]
    out_table(headers, rows, fit=not whole, cuttable=("MODULE", "TYPE"))


@command.command("show")
@click.argument("id", type=DeadLetterId())
@click.option("--module", metavar="NAME", type=ModuleName(), help="Only those of this module.")
@json_option
@with_config
def show(options: Options, id: str, module: str | None, as_json: bool) -> None:
    """Show one dead letter: the event, why it was given up, and the last lines of the module's log."""
    letter = run_on(options, lambda app: one_by_id(app, id, module), reading=True)
    entry = {**fields(letter), **_content(letter)}
    if as_json:
        out_json(entry, indent=2)
        return
    for key in (*SHOWN, "correlationId", "reason"):
        out(f"{key + ':':<15}{plain(_cell(entry[key]))}")
    if entry["event"] is None:
        out(f"the body is no event: {plain(entry['unreadable'])}\nbody:\n{plain_lines(entry['body'])}")
    else:
        out(f"event:\n{to_json(entry['event'], indent=2)}")
    if letter.log_tail:
        out("\n".join(["last lines of its log:", *(f"  {plain(line)}" for line in letter.log_tail)]))
    say(f"Once what was wrong is mended: ion-core dlq redrive{options.flags()} {shlex.quote(plain(letter.id))}")


@command.command("purge")
@chosen
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@with_config
@click.pass_context
def purge(
    ctx: click.Context,
    options: Options,
    ids: Sequence[str],
    every: bool,
    module: str | None,
    reason: str | None,
    event_type: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters for good. From then on their events may be published anew.

    \b
    Example:
      ion-core dlq purge --reason "exit code 3" --yes
    """
    which = Which(ids=ids, every=every, module=module, reason=reason, type=event_type)
    if (bool(ids), every or reason is not None).count(True) != 1:
        raise click.UsageError("say which: their ids (`ion-core dlq list` shows them), or --all, or --reason TEXT.")
    if not yes:
        check_can_ask(ctx, "say --yes to delete them for good")
    letters = run_on(options, lambda app: selected(app, which))
    if letters and not yes and not click.confirm(f"Delete {counted(len(letters), 'dead letter')} for good?", err=True):
        say("Nothing was deleted.")
        ctx.exit(1)

    async def work(app: App) -> int:
        from ion_core import crash
        from ion_core.letters import purge as purged

        crash.arm(os.environ)

        gathering = None
        if any(module.leads_to for module in app.config.modules.values()):
            await app.intake()  # one that waited for nothing else is started
            gathering = (await app.dataplane()).gathering
        return await purged(letters, await app.broker(), await app.documents(), gathering)

    count = run_on(options, work)
    if as_json:
        out_json({"purged": count})
        return
    say(f"{count} deleted.")


def _content(letter: DeadLetter) -> dict[str, Any]:
    from ion_core.cli.event.messages import described

    content = {key: value for key, value in described(letter.body).items() if key in ("event", "unreadable", "body")}
    return {**content, "headers": dict(letter.headers), "logTail": list(letter.log_tail)}


def _cell(value: Any) -> str:
    return "(unreadable)" if value is None else str(value)


command.add_command(redrive)
command.add_command(export)
command.add_command(import_letters)
