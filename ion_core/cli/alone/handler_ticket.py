"""``ion-core handler prepare|commit --ticket``: steps 1 and 3 of a job that an executor has an engine run."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ion_core import crash, ending
from ion_core.cli.alone.asked import tell
from ion_core.cli.alone.handler_exit import exit_code, handler_exit
from ion_core.cli.alone.handler_log import begin
from ion_core.cli.output import hidden, hide_with, plain
from ion_core.cli.session import plugins_come_in
from ion_core.cli.whole import Options
from ion_core.contracts.ticket import MAX_TICKET, StepResult, Ticket
from ion_core.errors import ConfigError, IonError, UsageError
from ion_core.handler.given import GivenWorkspace
from ion_core.handler.ticketed import commit_ticket, prepare_ticket
from ion_core.regular import read_regular
from ion_core.steps import StepSettings
from ion_core.stores import Stores

log = logging.getLogger(__name__)

Lines = list[str]
Work = Callable[[Stores, Ticket, StepSettings], Awaitable[Lines]]


def _prepare(options: Options, given: Mapping[str, Any]) -> None:
    workspace = GivenWorkspace(Path(given["base"]))

    async def work(stores: Stores, ticket: Ticket, settings: StepSettings) -> Lines:
        return await prepare_ticket(stores, ticket, workspace)

    _step(options, given, work, committed=None)


def _commit(options: Options, given: Mapping[str, Any]) -> None:
    workspace = GivenWorkspace(Path(given["base"]))

    async def work(stores: Stores, ticket: Ticket, settings: StepSettings) -> Lines:
        return (await commit_ticket(stores, ticket, settings.module(ticket.module), workspace)).lines

    _step(options, given, work, committed=True)


def run_step(step: str, options: Options, given: Mapping[str, Any]) -> None:
    """``prepare`` or ``commit``. Exits as ``HandlerExit`` says. Lines go to stderr, the result to its file, always."""
    crash.arm(os.environ)
    begin(given, step)
    options.exit_code = exit_code
    (_prepare if step == "prepare" else _commit)(options, given)


def _step(options: Options, given: Mapping[str, Any], work: Work, *, committed: bool | None) -> None:
    options.exit_code = lambda error: handler_exit(error).value
    try:
        lines = _done(options, Path(given["ticket"]), work)
    except BaseException as error:
        _write(given["result"], StepResult(reasons=[_said(it) for it in _reasons(error)]))
        raise
    _write(given["result"], StepResult(committed=committed))
    tell(lines)


def _done(options: Options, ticket_file: Path, work: Work) -> Lines:
    ticket = _ticket(ticket_file)
    if not (path := options.config or os.environ.get("ION_CONFIG")):
        raise UsageError("--config: is required with a --ticket. It names the settings of the job.")
    settings = StepSettings.read(Path(path))
    hide_with(settings.mask())
    settings.check_module(ticket.module)

    async def with_stores() -> Lines:
        async with settings.stores(plugins_come_in) as stores:
            lines = await work(stores, ticket, settings)
            ending.within(ending.CLOSE_WITHIN)
            return lines

    return ending.run(with_stores())


def _ticket(path: Path) -> Ticket:
    try:
        return Ticket.decode(read_regular(path, MAX_TICKET + 1, follow=True))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--ticket: {path} cannot be read: {why}. The executor writes it.") from error
    except IonError as error:
        raise UsageError(f"--ticket: {path}: {error}") from error


def _reasons(error: BaseException) -> list[str]:
    """What went wrong, a text for each thing."""
    if isinstance(error, ConfigError):
        return list(error.problems)
    if isinstance(error, IonError):
        return [str(error)]
    return [f"{type(error).__name__}: {error}".removesuffix(": ")]


def _said(text: str) -> str:
    """As it may be shown, and as JSON can have it."""
    return plain(hidden(text)).encode("utf-8", "backslashreplace").decode()


def _write(path: str | None, result: StepResult) -> None:
    """The exit code says the most important, and so is not changed by a result that cannot be written."""
    if path is None:
        return
    try:
        Path(path).write_bytes(result.encode())
    except OSError as error:
        log.error("--result: %s cannot be written: %s", path, error.strerror or error)
