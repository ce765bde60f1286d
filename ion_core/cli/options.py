"""Options that many commands share, and the types of what is given to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

MAX_TEXT = 1024
"""Characters in one id, name or type."""


class Options:
    """What holds for the whole command: which configuration, which state, how much to say."""

    def __init__(self, *, verbose: bool = False) -> None:
        self.config: str | None = None
        self.state_dir: str | None = None
        self.verbose = verbose

    def flags(self) -> str:
        """Those that were given, as one would type them again: for commands that we suggest."""
        import shlex

        given = (("--config", self.config), ("--state-dir", self.state_dir))
        return "".join(f" {flag} {shlex.quote(value)}" for flag, value in given if value)


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
            self.fail(f"{_short(text)} has {len(text):,} characters, {self._limit:,} are allowed.", param, ctx)
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
