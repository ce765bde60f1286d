"""``ion-core handler``: the steps around a module, without a dispatcher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ion_core import crash
from ion_core.cli.alone.asked import UNNAMED, asked_for, module_of, tell
from ion_core.cli.alone.handler_exit import exit_code
from ion_core.cli.alone.handler_log import begin, log
from ion_core.cli.alone.job_options import MaybeText, check_ids, flag, job_options, layout_at
from ion_core.cli.group import Group
from ion_core.cli.options import with_config
from ion_core.cli.whole import Options

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.events import Context
    from ion_core.handler import Committed


@click.group("handler", cls=Group)
def command() -> None:
    """Prepare and commit a workspace without a dispatcher, by command or by HTTP.

    For schedulers that run the three steps of a job themselves, and for developing a module by hand. Each flag is
    also an environment variable, upper or lower case, with _ for the dot: CONTEXT_EVENTID for --context.eventid.
    """


@command.command("prepare")
@job_options()
@with_config
@click.pass_context
def prepare(ctx: click.Context, /, options: Options, **given: Any) -> None:
    """Fill the module's world with what an event brings.

    in/ and out/ start clean; nothing of an earlier job is left. With --development.enabled an event that a committed
    module published is taken from the development directory, as the event or as the parent of a new id; any other id
    starts a flow.

    \b
    Example:
      ion-core handler prepare --context.name detect --context.eventid 1 --context.correlationid dev \\
        --valideventtypes face.detected --basedir ion --development.enabled
    """
    check_ids(ctx, given)
    if given["ticket"] is not None:
        from ion_core.cli.alone.handler_ticket import run_step

        run_step("prepare", options, given)
        return
    crash.arm(os.environ)
    begin(given, "prepare")
    options.exit_code = exit_code
    from ion_core.handler.given import GivenWorkspace

    workspace = GivenWorkspace(Path(given["base"]))
    asked = asked_for(given, unnamed=UNNAMED if given["development"] else "")
    if given["development"]:
        from ion_core.development import steps

        layout = layout_at(given["development_base"])
        tell(steps.prepare(layout, asked, given["types"], workspace).lines)
    else:
        from ion_core.cli.session import load, run
        from ion_core.handler.alone import prepare_alone

        async def work(app: App) -> list[str]:
            return await prepare_alone(await app.dataplane(), asked, workspace)

        config = load(options, logs_already=True)
        module_of(config, given)
        tell(run(config, work))
    log.info("prepared", extra=_fields(asked))


@command.command("commit")
@job_options()
@with_config
@click.pass_context
def commit(ctx: click.Context, /, options: Options, **given: Any) -> None:
    """Keep what the module left, whole or not at all, and publish its events.

    Files in out/ stay where they are. Without --development.enabled it may be run again: a job commits once.

    \b
    Example:
      ion-core handler commit --context.name detect --context.eventid 1 --context.correlationid dev \\
        --valideventtypes face.detected --basedir ion --development.enabled
    """
    check_ids(ctx, given)
    if given["ticket"] is not None:
        from ion_core.cli.alone.handler_ticket import run_step

        run_step("commit", options, given)
        return
    crash.arm(os.environ)
    begin(given, "commit")
    options.exit_code = exit_code
    from ion_core.handler.given import GivenWorkspace

    workspace, asked = GivenWorkspace(Path(given["base"])), asked_for(given)
    if given["development"]:
        from ion_core.development import steps

        layout = layout_at(given["development_base"])
        tell(steps.commit(layout, asked, given["types"], workspace).lines)
    else:
        from ion_core.cli.session import load, run
        from ion_core.handler.alone import commit_alone

        async def work(app: App) -> Committed:
            await app.intake()  # declares the queues, so that no event of this job finds none
            return await commit_alone(await app.dataplane(), asked, module, workspace, image=module.image)

        config = load(options, logs_already=True)
        module = module_of(config, given)
        tell(run(config, work).lines)
    log.info("committed", extra=_fields(asked))


def _fields(asked: Context) -> dict[str, str]:
    return {"moduleName": asked.name, "eventId": asked.event_id, "correlationId": asked.correlation_id}


@command.command("start")
@click.option(
    "--action",
    type=click.Choice(["prepare", "commit"], case_sensitive=False),
    required=True,
    help="Which of the two commands this is.",
)
@job_options()
@with_config
@click.pass_context
def start(ctx: click.Context, /, options: Options, action: str, **given: Any) -> None:
    """Prepare or commit, as the predecessor had it.

    \b
    Example:
      ion-core handler start --action=prepare --context.name detect --context.eventid 1 --context.correlationid dev \\
        --valideventtypes face.detected --basedir ion --development=true
    """
    ctx.invoke(prepare if action.lower() == "prepare" else commit, **given)


@command.command("serve")
@flag(
    "--serverport",
    "port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    envvar=["SERVERPORT", "serverport", "HANDLER_PORT"],
    help="Where to listen, at 127.0.0.1; 0 for any port that is free.",
)
@flag(
    "--sharedsecret",
    "secret",
    metavar="TEXT",
    type=MaybeText(),
    default="",
    envvar=["SHAREDSECRET", "sharedsecret", "SHARED_SECRET"],
    help="What the module has to show. Default: $SHARED_SECRET; in development one is made up and printed.",
)
@job_options(ids_required=False)
@with_config
def serve(options: Options, port: int, secret: str, **given: Any) -> None:
    """Stand beside a module that was started by hand, and answer its calls.

    GET /ready prepares, GET /done commits, as the commands do, until Ctrl-C. In development the ids may be left out:
    then each /ready starts a new flow.

    \b
    Example:
      ion-core handler serve --development --serverport 8080 --sharedsecret dev --basedir ion \\
        --valideventtypes face.detected
    """
    from ion_core.cli.alone.handler_serve import serve_alone

    begin(given, "serve")
    serve_alone(options, given, port=port, secret=secret)
