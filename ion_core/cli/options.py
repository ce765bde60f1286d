"""Options that many commands share, and the types of what is given to them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ion_core.cli.whole import Options
from ion_core.words import counted

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

MAX_TEXT = 1024
"""Characters in one id, name or type."""


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def check_can_ask(ctx: click.Context, otherwise: str = "say --yes to do it") -> None:
    """Raises click.UsageError, which says what would do, where there is nobody at a terminal to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"there is no terminal to ask on: {otherwise}.", ctx)


class Text(click.ParamType):  # type: ignore[type-arg]
    """Text that can be stored and sent: valid Unicode without NUL, at most ``limit`` characters."""

    name = "text"

    def __init__(self, limit: int | None = MAX_TEXT) -> None:
        self._limit = limit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text:
            self.fail("must not be empty.", param, ctx)
        if "\0" in text:
            self.fail(f"{_short(text)} has a NUL character. Remove it.", param, ctx)
        if self._limit is not None and len(text) > self._limit:
            self.fail(f"{_short(text)} has {counted(len(text), 'character')}, {self._limit:,} are allowed.", param, ctx)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            self.fail(f"{_short(text)} is not valid UTF-8.", param, ctx)
        return text


class PathText(click.ParamType):  # type: ignore[type-arg]
    """A path as given. Whether it is there and what it is, is for those to say who read it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text:
            self.fail("must not be empty.", param, ctx)
        if "\0" in text:
            self.fail(f"{_short(text)} has a NUL character. Remove it.", param, ctx)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir" if param.metavar == "DIR" else "file")]


class Age(click.ParamType):  # type: ignore[type-arg]
    """A length of time, written as in the configuration."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        from ion_core.contracts.settings import parse_duration

        try:
            age: timedelta = parse_duration(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        return age


def before(age: timedelta, now: datetime, *, option: str) -> datetime:
    """The moment so long ago. Raises UsageError naming the option for one that is before all dates."""
    from ion_core.errors import UsageError

    try:
        return now - age
    except OverflowError:
        raise UsageError(f"{option}: is longer ago than there are dates.") from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        options = ctx.ensure_object(Options)
        if value:
            setattr(options, name, value)

    return keep


def verbose_option(command: F) -> F:
    """``-v``: tell more, tracebacks included."""
    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_keep("verbose"),
        help="Say more; show the traceback of an error.",
    )(command)


def with_config_only(command: F) -> F:
    """``--config`` (and ``-v``), for commands that have a state directory of their own; given an Options first."""
    return _config_option(verbose_option(click.pass_obj(command)))  # type: ignore[return-value]


def with_config(command: F) -> F:
    """``--config`` and ``--state-dir`` (and ``-v``); the command is given an Options first."""
    state = click.option(
        "--state-dir",
        metavar="DIR",
        type=PathText(),
        expose_value=False,
        callback=_keep("state_dir"),
        help="Where Ion keeps its state. Default: $ION_STATE, then what the configuration says, then .ion beside it.",
    )
    passed = click.pass_obj(command)
    return _config_option(state(verbose_option(passed)))  # type: ignore[return-value]


def _config_option(command: F) -> F:
    return click.option(
        "--config",
        metavar="FILE",
        type=PathText(),
        expose_value=False,
        callback=_keep("config"),
        help="The configuration. Default: $ION_CONFIG, then ./ion.yaml.",
    )(command)


def json_option(command: F) -> F:
    """``--json``: print data for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
