"""``ion-core handler``: the steps around a module, without a dispatcher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ion_core import crash
from ion_core.cli.job_options import MaybeText, flag, job_options, layout_at
from ion_core.cli.options import Options, with_config
from ion_core.cli.output import plain, say
from ion_core.errors import UsageError

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config
    from ion_core.events import Context
    from ion_core.handler import Committed
    from ion_core.jobs import Module

UNNAMED = "module"
"""What a module is called that was given no name, in development."""


@click.group("handler")
def command() -> None:
    """Prepare and commit a workspace without a dispatcher, by command or by HTTP.

    For schedulers that run the three steps of a job themselves, and for developing a module by hand. Each flag is
    also an environment variable, upper or lower case, with _ for the dot: CONTEXT_EVENTID for --context.eventid.
    """


@command.command("prepare")
@job_options()
@with_config
def prepare(options: Options, **given: Any) -> None:
    """Fill the module's world with what an event brings.

    in/ and out/ start clean; nothing of an earlier job is left. With --development.enabled an event that a committed
    module published is taken from the development directory, and any other id starts a flow.

    \b
    Example:
      ion-core handler prepare --context.name detect --context.eventid 1 --context.correlationid dev \\
        --valideventtypes face.detected --basedir ion --development.enabled
    """
    from ion_core.handler.given import GivenWorkspace

    crash.arm(os.environ)
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

        config = load(options)
        module_of(config, given)
        tell(run(config, work))


@command.command("commit")
@job_options()
@with_config
def commit(options: Options, **given: Any) -> None:
    """Keep what the module left, whole or not at all, and publish its events.

    Files in out/ stay where they are. Without --development.enabled it may be run again: a job commits once.

    \b
    Example:
      ion-core handler commit --context.name detect --context.eventid 1 --context.correlationid dev \\
        --valideventtypes face.detected --basedir ion --development.enabled
    """
    from ion_core.handler.given import GivenWorkspace

    crash.arm(os.environ)
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

        config = load(options)
        module = module_of(config, given)
        tell(run(config, work).lines)


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
    from ion_core.cli.handler_serve import serve_alone

    serve_alone(options, given, port=port, secret=secret)


def tell(lines: list[str]) -> None:
    for line in lines:
        say(plain(line))


def asked_for(given: dict[str, Any], *, unnamed: str = "") -> Context:
    from ion_core.events import Context

    return Context(
        name=given["name"] or unnamed,
        event_id=given["event_id"],
        correlation_id=given["correlation_id"],
        parent_event_id=given["parent_event_id"],
    )


def module_of(config: Config, given: dict[str, Any]) -> Module:
    """The module as the configuration has it, or any where it has none; it may publish what was given."""
    import difflib
    from dataclasses import replace

    from ion_core.jobs import MODULE_NAME, Module

    name: str = given["name"]
    if not MODULE_NAME.fullmatch(name):
        got = f" (got {name[:80]!r})" if name else ""
        raise UsageError(
            f"--context.name: must be 1 to 63 lower-case letters, digits and hyphens, no hyphen first or last{got}. "
            "It is the module's name."
        )
    module = config.modules.get(name)
    if module is None and config.modules:
        near = difflib.get_close_matches(name, config.modules, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"--context.name: no module called {name!r}.{hint} Modules: {', '.join(config.modules)}.")
    module = module or Module(name=name)
    return replace(module, publishes=given["types"]) if given["types"] else module
