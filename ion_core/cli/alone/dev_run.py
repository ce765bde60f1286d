"""``ion-core dev run``."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.event.commands import data_option, file_option
from ion_core.cli.event.given import TakesPairs, files_by_name
from ion_core.cli.module.rehearsing import DEV_STATE, IMAGES_ONLY
from ion_core.cli.named import EventType
from ion_core.cli.options import PathText, Text, json_option, with_config_only
from ion_core.cli.output import out, out_json, plain, results, say
from ion_core.cli.whole import Options
from ion_core.errors import InvalidEvent, StateBusy, Unroutable, UsageError
from ion_core.words import plain_lines

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config
    from ion_core.contracts.storage import DocumentStore
    from ion_core.events import Event
    from ion_core.flows import EventSeen, Flow, JobSeen
    from ion_core.rehearsal.results import JobResult, Jobs

DIRECTORY, STATE = DEV_STATE.split("/")
TAIL = 10
"""Lines of a failed module's output that are shown."""


@click.command("run", cls=TakesPairs)
@click.argument("event_type", metavar="TYPE", type=EventType(None))
@file_option
@data_option
@click.option(
    "--runtime", metavar="PROVIDER", type=Text(), help="Run all modules by this one, such as podman. Default: process."
)
@click.option(
    "--into",
    metavar="DIR",
    type=PathText(),
    default=DIRECTORY,
    help="Where results and state go. Default: ./dev.",
)
@json_option
@with_config_only
@click.pass_context
def run(
    ctx: click.Context,
    options: Options,
    event_type: str,
    files: Sequence[tuple[str, str]],
    data: Sequence[tuple[str, str]],
    runtime: str | None,
    into: str,
    as_json: bool,
) -> None:
    """Run the whole pipeline here for one event of TYPE, and show what became of it.

    Whatever the configuration names, events, files and documents stay on this machine, under ./dev/.ion; modules run as
    plain processes, or by the one provider that --runtime names; services are left out. What the replaced sections say
    does not matter, nor whether their plugins are installed. A runtime of the right provider keeps its settings.

    On a terminal the flow is drawn while it runs. Results are copied to ./dev/CORRELATION_ID/MODULE/EVENT_ID: data/ has
    the files, insights.json and events.json what their names say, log.txt the logs of all attempts. Ends with 1 if a
    job was dead-lettered.

    \b
    Example:
      ion-core dev run photo.received --file me.jpg --data album=holidays
    """
    from ion_core import ending
    from ion_core.cli.session import load
    from ion_core.config import embedded

    named = files_by_name(files)
    top = Path(into)
    options.state_dir = str(top / STATE)
    config = load(options, replacements=embedded(runtime=runtime, said_by="dev run"))
    started = _Run(config, event_type, data, named)
    try:
        code = ending.run(started.serve(live=not as_json and _is_terminal()))
    except InvalidEvent as error:
        raise UsageError("\n".join(plain(problem) for problem in error.problems)) from error
    except Unroutable as error:
        raise UsageError(str(error)) from error
    except StateBusy as error:
        raise StateBusy(
            f"{into}: another `dev run` works there. Give this one its own directory with --into."
        ) from error
    if code == 128 + signal.SIGHUP:
        ctx.exit(code)  # the terminal is gone, and with it who would be shown anything
    elsewhere = f" --state-dir {shlex.quote(options.state_dir)}" if options.state_dir != DEV_STATE else ""
    options.state_dir = None
    _show(config, started.event, top, as_json=as_json, flags=f" --dev{elsewhere}{options.flags()}")
    ctx.exit(code)


def _is_terminal() -> bool:
    return results().isatty() and os.environ.get("TERM", "dumb") != "dumb"


class _Run:
    """One event through a dispatcher of its own. ``event`` is there once it is published."""

    def __init__(
        self, config: Config, event_type: str, data: Sequence[tuple[str, str]], files: dict[str, Path]
    ) -> None:
        self._config = config
        self._type, self._data, self._files = event_type, data, files
        self._documents: DocumentStore
        self.event: Event

    async def serve(self, *, live: bool) -> int:
        from ion_core import app

        watch = self._watch if live else None
        return await app.serve(
            self._config, environ=os.environ, until_idle=True, watch=watch, first=self._publish, fit=IMAGES_ONLY
        )

    async def _publish(self, app: App) -> None:
        from ion_core.events import COMMIT

        self._documents = await app.documents()
        async for commit in self._documents.find(COMMIT, pending=True):  # of a run that was interrupted: it is over
            await self._documents.clear_pending(COMMIT, commit.id)
        intake = await app.intake()
        self.event = await intake.publish(self._type, name="dev", data=self._data, files=self._files)

    async def _watch(self, dispatcher: object) -> None:
        from ion_core.cli.flow.live import keep_drawing

        await keep_drawing(lambda: _flow(self._config, self._documents, self.event.context.correlation_id))


async def _flow(config: Config, documents: DocumentStore, correlation_id: str) -> Flow:
    from ion_core.flows import read_flow

    return await read_flow(documents, correlation_id, config.modules.values())


def _show(config: Config, event: Event, top: Path, *, as_json: bool, flags: str) -> None:
    """Copy the results, and say what there is."""
    from ion_core.cli.flow.text import lines
    from ion_core.cli.session import run as run_app
    from ion_core.rehearsal.results import copy_results
    from ion_core.stores import key_segment

    correlation_id = event.context.correlation_id
    target = top / key_segment(correlation_id)

    async def work(app: App) -> tuple[Flow, Jobs]:
        blobs, documents = await app.blobs(), await app.documents()
        jobs = await copy_results(correlation_id, target, blobs=blobs, documents=documents)
        return await _flow(config, documents, correlation_id), jobs

    flow, jobs = run_app(config, work)
    if as_json:
        out_json(_to_json(event, flow, jobs, target))
        return
    for line in lines(flow):
        out(line)
    results().flush()
    for seen in flow.events():
        for job in seen.jobs.values():
            if job.state != "committed" and (result := jobs.get((seen.id, job.module))) is not None and result.logs:
                _show_failure(job, result.logs[-1], result.directory)
                say(f"  Look into it: ion-core debug{flags} {shlex.quote(seen.id)} --module {job.module} --shell")
    say(f"Results: {plain(str(target))}")


def _show_failure(job: JobSeen, log: str, directory: Path) -> None:
    printed = log.partition("Worker logs\n")[2].partition("\n\nCommitter logs")[0].rstrip("\n")
    say(f"{job.module} {job.state}: {plain(job.last.reason) if job.last else ''}")
    for line in printed.split("\n")[-TAIL:] if printed else ():
        say(f"  {plain_lines(line)}")
    say(f"  Its log: {plain(str(directory / 'log.txt'))}")


def _to_json(event: Event, flow: Flow, jobs: Jobs, target: Path) -> dict[str, Any]:
    context = event.context
    return {
        "correlationId": context.correlation_id,
        "eventId": context.event_id,
        "type": event.type,
        "directory": str(target),
        "jobs": [
            _job_to_json(seen, job, jobs.get((seen.id, job.module)))
            for seen in flow.events()
            for job in seen.jobs.values()
        ],
    }


def _job_to_json(event: EventSeen, job: JobSeen, result: JobResult | None) -> dict[str, Any]:
    from ion_core.events import pairs_to_json

    commit = result.commit if result else None
    files, events = (commit.files, commit.events) if commit else ((), ())
    return {
        "module": job.module,
        "eventId": event.id,
        "type": event.type,
        "state": job.state,
        "reason": job.last.reason if job.last else "",
        "attempts": len(job.attempts),
        "files": [{"name": it.name, "size": it.size, "sha256": it.sha256} for it in files],
        "insights": pairs_to_json(commit.insights) if commit else [],
        "events": [it.to_wire() | {"files": list(it.files)} for it in events],
        "directory": str(result.directory) if result else None,
    }
