"""The command line by which executors start steps 1 and 3 of a job, read without click.

Such a step is started twice for each job, and has often nothing to do: click and the tree of all commands take as long
as all else of it. Only what is beyond doubt is read here, and anything else left to click, which reads it the same way.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from ion_core.cli.whole import Options

VARIABLES = ("CONTEXT_", "VALIDEVENTTYPES", "BASEDIR", "DEVELOPMENT_", "HANDLER_", "_ION_CORE_COMPLETE")
"""How the variables begin, upper or lower case, that may say what the command line does not."""

SAID_BY_BASEDIR = ("BASEDIR", "basedir", "HANDLER_BASE_DIR")
"""Those that say nothing where ``--basedir`` is given: an executor may know the processes of a job by one of them."""

RUN_BY = "alone.handler_ticket"
"""As ``root.SECTIONS`` names commands: imported once it is asked for."""

_FLAGS = {
    "--config": "config",
    "--ticket": "ticket",
    "--result": "result",
    "--basedir": "base",
    "--loglevel": "log_level",
}
_STEPS = ("prepare", "commit")
_LEVELS = ("debug", "info", "warn", "error")


class TicketLine:
    """Which step, and what click would give it."""

    def __init__(self, step: str, config: str | None, given: Mapping[str, Any]) -> None:
        self.step = step
        self.config = config
        self.given = given

    def run(self, options: Options) -> None:
        """Do it, as the command of that name does. Raises what that raises."""
        options.config = self.config
        importlib.import_module(f"ion_core.cli.{RUN_BY}").run_step(self.step, options, self.given)


def read(arguments: Sequence[str], environ: Mapping[str, str]) -> TicketLine | None:
    """None for what is for click to read: another command, no ticket, a mistake, or a flag not used by executors."""
    if len(arguments) % 2 or arguments[:1] != ["handler"] or arguments[1] not in _STEPS:
        return None
    said: dict[str, str] = {}
    for flag, value in zip(arguments[2::2], arguments[3::2], strict=True):
        if (name := _FLAGS.get(flag)) is None or not value or value.startswith("-"):
            return None
        said[name] = value
    idle = SAID_BY_BASEDIR if "base" in said else ()
    if any(name.upper().startswith(VARIABLES) for name in environ if name not in idle):
        return None
    if "ticket" not in said or said.setdefault("log_level", "warn") not in _LEVELS:
        return None
    config = said.pop("config", None)
    return TicketLine(
        step=arguments[1],
        config=config,
        given={"base": "/ion", "result": None, "print_config": False, "log_file": None, **said},
    )
