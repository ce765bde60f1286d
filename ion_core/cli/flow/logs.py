"""``ion-core logs``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.named import EventId, ModuleName, no_module, now_and_then
from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import JsonArray, out, plain, results, say
from ion_core.cli.whole import Options
from ion_core.errors import DocumentNotFound, TransientError, UsageError
from ion_core.words import plain_lines

if TYPE_CHECKING:
    import asyncio

    from ion_core.app import App
    from ion_core.contracts.storage import DocumentStore


LOOK_EVERY = 2.0
"""Seconds between looks for the log of a job that another dispatcher runs: nobody tells us."""


@click.command("logs")
@click.argument("event_id", type=EventId())
@click.option("--module", metavar="NAME", type=ModuleName(), help="Only those of this module.")
@click.option("--attempt", metavar="N", type=click.IntRange(1), help="Only those of attempts with this number.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what jobs under way print, as it comes.")
@json_option
@with_config
def command(
    options: Options, event_id: str, module: str | None, attempt: int | None, follow: bool, as_json: bool
) -> None:
    """Print the log of every attempt for an event.

    Of good and bad ones, in the order in which they ended. The beginning of an event's id will do, as `trace flow`
    shows it. With --json an array of the documents.

    With --follow, jobs of the `serve` with this state directory are followed line by line until they have ended; where
    none has run yet, the first is waited for. Their logs are stored as ever. Of a job that another `serve` runs, on
    this machine or elsewhere, the log is printed once it has ended. Should the `serve` or its worker die before the job
    has ended, that is said, and the exit code is 69.

    \b
    Examples:
      ion-core logs 3f2a9c1b --module detect
      ion-core logs 3f2a9c1b --follow
    """
    from ion_core.cli.session import load, run

    if follow and (as_json or attempt is not None):
        raise UsageError("--follow shows lines as they come. Leave out --json and --attempt.")
    run(load(options), lambda app: _print(app, event_id, module, attempt, as_json, follow), reading=True)


async def _first(app: App, event_id: str, correlation_id: str | None, module: str | None) -> None:
    """Wait for the first job: it is followed if it runs here, and else what it has left is printed."""
    import asyncio

    from ion_core.flows import logs_of

    documents, shows = await app.documents(), asyncio.Event()
    following = asyncio.create_task(_follow(app, event_id, module, shows=shows))
    try:
        while not following.done() and not shows.is_set():
            await asyncio.wait({following}, timeout=LOOK_EVERY)
            with suppress(TransientError):  # it is looked for again
                names = None if module is None else now_and_then(module, app.config.modules)
                logs = [
                    log
                    async for name, log in logs_of(documents, event_id, correlation_id)
                    if names is None or name in names
                ]
                if logs and not following.done() and not shows.is_set():
                    for log in sorted(logs, key=lambda log: str(log.body.get("finishedAt", ""))):
                        _print_log(log.body, app.state.path / "failed")
                    return
        await following
    finally:
        following.cancel()
        await asyncio.wait({following})


async def _follow(
    app: App, event_id: str, module: str | None, *, wait: bool = True, shows: asyncio.Event | None = None
) -> None:
    """``shows`` is set once there is a line."""
    from ion_core.live import watch

    heard, shown = False, None
    try:
        async for line in watch(app.state.path, event_id, wait=wait):
            if not line:
                heard = True
                if wait:
                    say("No job for this event has run: waiting for the first. Ctrl-C ends this.")
                continue
            if module not in (None, line["module"]):
                continue
            if shows is not None:
                shows.set()
            if shown != (shown := (line["module"], line["attempt"])):
                out(plain(f"== {line['module']}, attempt {line['attempt']}: running"))
            out(plain(line["text"]))
            results().flush()
    except ConnectionAbortedError as error:
        raise TransientError(
            f"event {event_id}: can be followed no further: the `serve` or the worker of it that ran the job has died. "
            f"The event comes back by itself and runs again: follow it anew, or see `ion-core why {event_id}`."
        ) from error
    if wait and not heard:
        say("Nothing that could be followed: no `ion-core serve` runs on this machine with this state directory.")


async def _print(app: App, event_id: str, module: str | None, attempt: int | None, as_json: bool, follow: bool) -> None:
    from ion_core.cli.flow.text import LOG_LOST
    from ion_core.cli.ids import whole_id
    from ion_core.events import MODULE_LOGS
    from ion_core.flows import logs_of

    documents = await app.documents()
    event_id, correlation_id = await whole_id(documents, event_id, app.config.modules.values())
    found: list[tuple[str, int, str]] = []
    tokens: set[object] = set()
    by: set[str] = set()
    names = None if module is None else now_and_then(module, app.config.modules)
    async for name, log in logs_of(documents, event_id, correlation_id):
        tokens.add(log.body.get("token"))
        by.add(name)
        if (names is None or name in names) and attempt in (None, log.body.get("attempt")):
            found.append((str(log.body.get("finishedAt", "")), len(found), log.id))
    if not found and module is not None and module not in app.config.modules:
        by |= {name async for name, _ in _lost(documents, event_id, correlation_id, tokens)}
        if module not in by:
            raise no_module(module, dict.fromkeys([*app.config.modules, *sorted(by)]))
    array = JsonArray()
    for _, _, id in sorted(found):
        try:
            body = (await documents.get(MODULE_LOGS, id)).body
        except DocumentNotFound:  # `gc` was quicker
            continue
        if as_json:
            array.add(body)
        else:
            _print_log(body, app.state.path / "failed")
    if as_json:
        array.end()
    elif follow:
        if found:
            await _follow(app, event_id, module, wait=False)
        else:
            await _first(app, event_id, correlation_id, module)
    else:
        lost = 0
        async for name, commit in _lost(documents, event_id, correlation_id, tokens):
            number = commit.get("attempt")
            if (names is None or name in names) and attempt in (None, number):
                lost += 1
                say(plain(f"{name}: committed, attempt {number}, at {commit.get('committedAt', '?')}; {LOG_LOST}."))
        if not found and not lost:
            say(f"No attempt for event {plain(event_id)} has left such a log yet.")


def _print_log(body: Mapping[str, Any], failed: Path) -> None:
    """``failed`` is where this machine keeps workspaces of failed attempts."""
    from ion_core.events import parse_context

    module = parse_context(body, what="log", problems=[]).name
    started = f"  {body['startedAt']}" if "startedAt" in body else ""
    out(plain(f"== {module}, {body.get('desc') or 'attempt'}{started}"))
    out(plain_lines(as_it_is_now(str(body.get("logs", "")).rstrip("\n"), failed)) + "\n")


def as_it_is_now(text: str, failed: Path) -> str:
    """The lines of a log; one that tells of a workspace of this machine that is kept no more says so."""
    from ion_core.handler.failed import home_in

    def now(line: str) -> str:
        home = home_in(line)
        gone = home is not None and home.is_relative_to(failed) and not home.exists()
        return "workspace not kept any more: newer ones of the module are" if gone else line

    return "\n".join(map(now, text.split("\n")))


async def _lost(
    documents: DocumentStore, event_id: str, correlation_id: str | None, tokens: set[object]
) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    """Module and record of every commit for that event whose attempt is none of those with ``tokens``."""
    from ion_core.events import COMMIT, parse_context

    async for document in documents.find(COMMIT, correlation_id=correlation_id):
        context = parse_context(document.body, what="commit", problems=[])
        if context.event_id == event_id and document.body.get("token") not in tokens:
            yield context.name, document.body
