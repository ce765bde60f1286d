"""``ion-core trace list`` and ``flow``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ion_core.cli.group import Group
from ion_core.cli.named import EventType, FlowId, ModuleName, no_module, no_type
from ion_core.cli.options import Age, PathText, before, json_option, with_config
from ion_core.cli.output import (
    RED,
    YELLOW,
    ago,
    coloured,
    hidden,
    mark,
    out,
    out_array,
    out_array_of,
    out_table,
    plain,
    results,
    say,
    shown_ids,
)
from ion_core.cli.whole import Options
from ion_core.errors import DocumentsDamaged, storage_error
from ion_core.words import plain_lines

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config
    from ion_core.flows import FlowInShort


@click.group("trace", cls=Group)
def command() -> None:
    """Follow events through the pipeline.

    A flow is an event from outside and everything that followed from it. All of it has one correlation id.
    """


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, help="At most so many. Default: 20.")
@click.option("--failed", is_flag=True, help="Only those of which a job was given up, or failed.")
@click.option("--module", metavar="NAME", type=ModuleName(), help="Only those in which this module has a job.")
@click.option("--type", "event_type", metavar="TYPE", type=EventType(None), help="Only those with an event of TYPE.")
@click.option(
    "--since",
    metavar="AGE",
    type=Age(),
    help="Only those of which a job ended since, such as 1h; or that came since, and none has begun.",
)
@click.option(
    "--containing",
    metavar="TEXT",
    help="Only those with TEXT in their id, or in their first event's id, type, pairs or file names, in any case.",
)
@json_option
@with_config
def list_flows(
    options: Options,
    limit: int,
    failed: bool,
    module: str | None,
    event_type: str | None,
    since: timedelta | None,
    containing: str | None,
    as_json: bool,
) -> None:
    """List the flows, the newest first: how they stand, what they began with, and how long ago.

    A flow is dead if a job of it was given up, failed if one failed that is to be tried again, running while something
    waits or runs, and else done. On a terminal ids are short, lines are cut to fit, and of what a flow brings the
    beginning is shown; with --verbose all of it is.

    \b
    Examples:
      ion-core trace list --failed --since 1d
      ion-core trace list --module blur
    """
    from datetime import UTC, datetime

    from ion_core.cli.flow.short import flows_in_short
    from ion_core.cli.session import load, run
    from ion_core.flows import DEAD, FAILED, Wanted
    from ion_core.modules import present_names

    then = None if since is None else before(since, datetime.now(UTC), option="--since")
    config = load(options)
    now = present_names(config.modules.values()).get(module or "", module)
    outcomes = frozenset({DEAD, FAILED}) if failed else None
    wanted = Wanted(outcomes=outcomes, module=now, type=event_type, since=then, containing=containing)
    damaged: set[str] = set()
    flows = run(config, lambda app: flows_in_short(app, wanted, limit=limit, damaged=damaged), reading=True)
    if not flows and not damaged:  # for what was mistyped there are none
        _check_known(config, module, event_type)
    if as_json:
        out_array(flow.to_json() for flow in flows)
    else:
        _print_list(flows, whole=options.verbose)
    if damaged:
        raise DocumentsDamaged(sorted(damaged))
    if not flows and not as_json:
        say(
            "There are no such flows."
            if wanted != Wanted()
            else "There are no flows. `ion-core event publish` starts one."
        )


def _check_known(config: Config, module: str | None, event_type: str | None) -> None:
    """Raises UsageError for a module or type that is none of the configuration."""
    from ion_core.modules import present_names

    names = {*config.modules, *present_names(config.modules.values())}
    if module is not None and module not in names:
        raise no_module(module, config.modules)
    types = {it for one in config.modules.values() for it in (*one.subscribes, *one.publishes)}
    if event_type is not None and event_type not in types:
        raise no_type(event_type, config.modules)


def _print_list(flows: Sequence[FlowInShort], *, whole: bool) -> None:
    from datetime import UTC, datetime

    from ion_core.cli.flow.text import pairs_text
    from ion_core.flows import DEAD, FAILED, parsed

    now, all_of_it = datetime.now(UTC), whole or not results().isatty()
    rows, ids = [], shown_ids((flow.correlation_id for flow in flows), whole=whole)
    for flow in flows:
        began = parsed(flow.started_at)
        when = "-" if began is None else flow.started_at if whole else ago(began, now)
        files = flow.files if all_of_it else [*flow.files[:3], *([mark("…", "...")] if len(flow.files) > 3 else [])]
        brings = " ".join([*files, pairs_text(flow.data, whole=all_of_it)]).strip()
        rows.append([ids[flow.correlation_id], flow.outcome, flow.type, str(flow.events), when, brings])
    colours = [{DEAD: RED, FAILED: YELLOW}.get(flow.outcome) for flow in flows]
    headers = ["FLOW", "OUTCOME", "TYPE", "EVENTS", "BEGAN" if whole else "AGE", "BRINGS"]
    out_table(headers, rows, fit=not whole, cuttable=("TYPE",), colours=colours)


@command.command("flow")
@click.argument("correlation_id", metavar="[CORRELATION_ID]", type=FlowId(), required=False)
@click.option(
    "-c",
    "--correlation-id",
    "--correlationid",
    "named",
    metavar="CORRELATION_ID",
    type=FlowId(),
    help="The same, as an option.",
)
@click.option("--failed", is_flag=True, help="Only jobs that were given up, or failed, and what led to them.")
@click.option(
    "--html", "file", metavar="FILE", type=PathText(), help="Write a page about it to FILE, to look at or mail."
)
@json_option
@with_config
@click.pass_context
def flow(
    ctx: click.Context,
    options: Options,
    correlation_id: str | None,
    named: str | None,
    failed: bool,
    file: str | None,
    as_json: bool,
) -> None:
    """Print a flow: its events, the jobs they started, and how those went.

    A tree for people: below each event the modules that took it, below each module the events it emitted. With --json
    an array of every document of the flow, in the order of storing. The beginning of a correlation id will do; without
    one it is the newest flow, or with --failed the one in which something failed last. What is cut in the tree ends
    with an ellipsis; --json has it whole.

    With --html it is one file for a browser: the graph, and of each job its attempts, insights, files with small
    pictures, and the end of its log. It needs nothing else, runs no script, and replaces FILE; - is standard output.

    \b
    Examples:
      ion-core trace flow
      ion-core trace flow 7c1b0a52-94f1-4d0e-9a53-1c9e6b0f2a11
      ion-core trace flow 7c1b --html flow.html
    """
    from ion_core.cli.session import load, run

    if correlation_id is not None and named is not None and correlation_id != named:
        raise click.UsageError("two different correlation ids are given.", ctx)
    if file is not None and as_json:
        raise click.UsageError("--html and --json are two ways to show it. Leave one out.", ctx)
    wanted = correlation_id or named
    run(load(options), lambda app: _print_flow(app, wanted, failed, as_json, file), reading=True)


async def _print_flow(app: App, given: str | None, failed: bool, as_json: bool, file: str | None) -> None:
    from ion_core.cli.flow.strays import look_for_strays
    from ion_core.cli.flow.text import lines, waits_text
    from ion_core.cli.ids import newest_flow, whole_flow
    from ion_core.events import EVENT_META, FAILURE
    from ion_core.flows import read_flow
    from ion_core.gathering.waiting import waits_in

    documents = await app.documents()
    if given is not None:
        correlation_id = await whole_flow(documents, given)
    elif (newest := await newest_flow(documents, FAILURE if failed else EVENT_META)) is not None:
        correlation_id = newest
    else:
        say("There are no such flows." if failed else "There are no flows. `ion-core event publish` starts one.")
        if as_json:
            out_array([])
        return
    if file is not None:
        await _write_page(app, correlation_id, failed, file)
        return
    if as_json and not failed:
        await out_array_of(document.body async for document in documents.find(correlation_id=correlation_id))
        return
    flow = await read_flow(documents, correlation_id, app.config.modules.values())
    if as_json:
        is_told = flow.failed().tells()
        found = documents.find(correlation_id=correlation_id)
        await out_array_of(document.body async for document in found if is_told(document))
        return
    await look_for_strays(app, flow)
    if failed:
        flow = flow.failed()
    if not flow.roots:
        say("Nothing of it has failed.")
        return
    for line in lines(flow):
        out(line)
    for waits in await waits_in(documents, correlation_id, app.config.modules.values()):
        out(coloured(waits_text(waits), YELLOW))


async def _write_page(app: App, correlation_id: str, failed: bool, file: str) -> None:
    from dataclasses import replace
    from datetime import UTC, datetime

    from ion_core.cli.flow.strays import look_for_strays
    from ion_core.drawing import PICTURES, report
    from ion_core.report import collect, small_pictures

    collected = await collect(await app.documents(), correlation_id, app.config.modules.values())
    await look_for_strays(app, collected.flow)
    if failed:
        collected.flow = collected.flow.failed()
        if not collected.flow.roots:
            say("Nothing of it has failed.")
            return
    lost: dict[str, str] = {}
    pictures = await small_pictures(await app.blobs(), collected.files(), most=PICTURES, lost=lost)
    beside = replace(collected.beside, pictures=pictures, lost=lost)
    page = report(collected.view(), beside, made_at=datetime.now(UTC), shown=lambda text: hidden(plain_lines(text)))
    if file == "-":
        out(page.decode().removesuffix("\n"), whole=True)
        return
    await asyncio.to_thread(_replace, Path(file), page)
    out(plain(file), whole=True)


def _replace(path: Path, content: bytes) -> None:
    """Raises TransientError or StorageFull, naming it; what was there is left then."""
    beside = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise storage_error(str(path), error) from error
