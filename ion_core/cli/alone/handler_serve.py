"""What ``ion-core handler serve`` does: the handler's HTTP API beside a module that was started by hand."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ion_core import ending
from ion_core.cli.alone.asked import UNNAMED, asked_for, module_of, tell
from ion_core.cli.alone.job_options import layout_at
from ion_core.cli.output import say
from ion_core.cli.session import load
from ion_core.cli.whole import Options
from ion_core.development import steps
from ion_core.development.layout import Layout
from ion_core.errors import UsageError
from ion_core.events import Context
from ion_core.handler.alone import commit_alone, prepare_alone
from ion_core.handler.alone_calls import AloneCalls
from ion_core.handler.api import HandlerApi
from ion_core.handler.given import GivenWorkspace
from ion_core.modules import Module

if TYPE_CHECKING:
    from ion_core.config import Config


def serve_alone(options: Options, given: dict[str, Any], *, port: int, secret: str) -> None:
    """Until a signal: exits with 128 + its number. Raises UsageError for what is missing, or a port that is taken."""
    workspace = GivenWorkspace(Path(given["base"]))
    if given["development"]:
        asked = asked_for(given, unnamed=UNNAMED)
        calls = _in_development(layout_at(given["development_base"]), asked, given["types"], workspace)
        made_up = not secret
        number = ending.run(_serve(calls, workspace, port, secret or secrets.token_urlsafe(16), made_up=made_up))
    else:
        for value, name in ((given["event_id"], "eventid"), (given["correlation_id"], "correlationid")):
            if not value:
                raise UsageError(f"--context.{name}: is required without --development.")
        if not secret:
            raise UsageError("--sharedsecret: is required without --development. Or set SHARED_SECRET.")
        config = load(options, logs_already=True)
        module = module_of(config, given)
        number = ending.run(_serve_with_providers(config, asked_for(given), module, workspace, port, secret))
    raise SystemExit(128 + number)


def _in_development(layout: Layout, asked: Context, types: tuple[str, ...], workspace: GivenWorkspace) -> AloneCalls:
    current = asked

    async def prepare() -> None:
        nonlocal current
        current = asked if asked.event_id else replace(asked, event_id=str(uuid.uuid4()))
        current = (prepared := await asyncio.to_thread(steps.prepare, layout, current, types, workspace)).context
        say(f"prepared event {current.event_id}")
        tell(prepared.lines)

    async def commit() -> None:
        tell((await asyncio.to_thread(steps.commit, layout, current, types, workspace)).lines)
        say(f"committed event {current.event_id}")

    return AloneCalls(prepare, commit, again=not asked.event_id)


async def _serve_with_providers(
    config: Config, asked: Context, module: Module, workspace: GivenWorkspace, port: int, secret: str
) -> int:
    from ion_core.app import App

    async with App.open(config) as app:
        await app.intake()  # declares the queues, so that no event of this job finds none

        async def prepare() -> None:
            tell(await prepare_alone(await app.dataplane(), asked, workspace))

        async def commit() -> None:
            dataplane = await app.dataplane()
            tell((await commit_alone(dataplane, asked, module, workspace, image=module.image)).lines)

        return await _serve(AloneCalls(prepare, commit, again=False), workspace, port, secret, made_up=False)


async def _serve(calls: AloneCalls, workspace: GivenWorkspace, port: int, secret: str, *, made_up: bool) -> int:
    """The number of the signal that ended it."""
    api = HandlerApi()
    api.register(secret, calls)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    try:
        with ending.on_signals(partial(_end, ended)):
            async with api.listening(port):
                say(f"handler: http://localhost:{api.port}, Ctrl-C ends it. The module needs, in its environment:")
                needed: Mapping[str, str] = {
                    "HANDLER_PORT": str(api.port),
                    "SHARED_SECRET": secret if made_up else "(as given)",
                    "HANDLER_BASE_DIR": str(workspace.root.absolute()),
                }
                for name, value in needed.items():
                    say(f"  {name}={value}")
                return await ended
    except OSError as error:
        raise UsageError(
            f"--serverport: port {port} cannot be had: {error.strerror or error}. Choose another, or 0."
        ) from error


def _end(ended: asyncio.Future[int], number: int) -> None:
    if not ended.done():
        ended.set_result(number)
