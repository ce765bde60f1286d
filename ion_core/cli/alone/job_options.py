"""The ids of a job and its directories, as flags of the predecessor's names; each is also an environment variable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ion_core.cli.alone.handler_log import LEVELS
from ion_core.cli.options import PathText, Text

if TYPE_CHECKING:
    from ion_core.development.layout import Layout

F = TypeVar("F", bound=Callable[..., Any])

DEVELOPMENT = ".dev"


class MaybeText(Text):
    """Text that may be empty, which is as good as not given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(value, param, ctx) if str(value) else ""


class Types(click.ParamType):  # type: ignore[type-arg]
    """Event types, separated by commas; blanks around them and empty ones are ignored."""

    name = "types"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from ion_core.events import type_problem

        if isinstance(value, tuple):
            return value
        types = tuple(part.strip() for part in str(value).split(",") if part.strip())
        for event_type in types:
            if problem := type_problem(event_type):
                self.fail(f"{problem}.", param, ctx)
        return types


def flag(name: str, parameter: str, *aliases: str, **more: Any) -> Callable[[F], F]:
    """An option that is also an environment variable: ``--a.b`` is ``A_B``, or ``a_b``."""
    variable = name.removeprefix("--").replace(".", "_").replace("-", "_")
    more.setdefault("envvar", [variable.upper(), variable])
    return click.option(name, *aliases, parameter, show_envvar=False, **more)


_in_development = flag(
    "--development.enabled",
    "development",
    "--development",
    is_flag=False,
    flag_value="true",
    default="false",
    type=click.BOOL,
    metavar="[true|false]",
    help="Keep files and documents in a development directory; no configuration is needed.",
)


def _id_flag(name: str, parameter: str, help: str, *, required: bool) -> Callable[[F], F]:
    if required:
        return flag(name, parameter, metavar="ID", type=Text(), help=help)
    return flag(name, parameter, metavar="ID", type=MaybeText(), default="", help=help)


_TICKET = flag(
    "--ticket",
    "ticket",
    metavar="FILE",
    type=PathText(),
    envvar="HANDLER_TICKET",
    help="Which attempt of an executor's job this is; instead of all --context flags. Default: $HANDLER_TICKET.",
)
_RESULT = flag(
    "--result",
    "result",
    metavar="FILE",
    type=PathText(),
    envvar="HANDLER_RESULT",
    help="Where to write how it ended, as JSON, for the executor; with --ticket. Default: $HANDLER_RESULT.",
)

_INSTEAD_OF_A_TICKET = ("name", "event_id", "correlation_id", "parent_event_id", "types", "development")


def check_ids(ctx: click.Context, given: Mapping[str, Any]) -> None:
    """Either a ticket or the ids of a job. Raises click.UsageError for both or neither."""
    parameters = {it.name: it for it in ctx.command.params}
    if given["ticket"] is None:
        if given["result"] is not None:
            raise click.UsageError("--result: is for an executor's job. Give its --ticket too.", ctx)
        for name in ("event_id", "correlation_id"):
            if given[name] is None:
                raise click.MissingParameter(ctx=ctx, param=parameters[name])
        return
    for name in _INSTEAD_OF_A_TICKET:
        if given[name]:
            flag = parameters[name].opts[0]
            raise click.UsageError(f"{flag}: is not for a job with a --ticket, which says it. Leave it out.", ctx)


def _log_options(command: F) -> F:
    """``--loglevel``, ``--logfile`` and ``--printconfig``; ``handler_log.begin`` does what they say."""
    for option in (
        click.option("--printconfig", "print_config", is_flag=True, help="Print what was given, as JSON, before all."),
        click.option(
            "--logfile",
            "log_file",
            metavar="FILE",
            type=PathText(),
            help="Append what is logged to this file. Default: to stderr.",
        ),
        click.option(
            "--loglevel",
            "log_level",
            type=click.Choice(list(LEVELS), case_sensitive=False),
            default="warn",
            show_default=True,
            help="How much is logged.",
        ),
    ):
        command = option(command)
    return command


def job_options(*, ids_required: bool = True) -> Callable[[F], F]:
    """Whose job it is, where the module's world lies, whether all is kept in a development directory, and the log.

    With ``ids_required`` a ticket may stand for the ids: see ``check_ids``.
    """
    options = (
        *((_TICKET, _RESULT) if ids_required else ()),
        flag("--context.name", "name", metavar="NAME", type=MaybeText(), default="", help="The module."),
        _id_flag("--context.eventid", "event_id", "The event.", required=ids_required),
        _id_flag("--context.correlationid", "correlation_id", "Its flow.", required=ids_required),
        flag(
            "--context.parenteventid",
            "parent_event_id",
            metavar="ID",
            type=MaybeText(),
            default="",
            help="The event that caused it. Default: what is known of it, or none.",
        ),
        flag(
            "--valideventtypes",
            "types",
            metavar="TYPE,…",
            type=Types(),
            default="",
            help="What the module may publish. Default: what is known of it.",
        ),
        flag(
            "--basedir",
            "base",
            "--base-dir",
            metavar="DIR",
            type=PathText(),
            default="/ion",
            envvar=["BASEDIR", "basedir", "HANDLER_BASE_DIR"],
            help="What the module sees as /ion/. Default: $HANDLER_BASE_DIR, then /ion.",
        ),
        _in_development,
        development_option,
    )

    def decorate(command: F) -> F:
        command = _log_options(command)
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


development_option = flag(
    "--development.basedir",
    "development_base",
    metavar="DIR",
    type=PathText(),
    default=DEVELOPMENT,
    help=f"That directory. Default: {DEVELOPMENT}.",
)


def layout_at(base: str) -> Layout:
    from ion_core.development.layout import Layout

    return Layout(Path(base))


def joined(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Event types of an option that may be repeated."""
    return tuple(dict.fromkeys(event_type for types in lists for event_type in types))
