"""Pairs and files as they are given on the command line."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import PathText, Text

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class KeyValue(click.ParamType):  # type: ignore[type-arg]
    """``KEY=VALUE``; the value may be empty and may have more ``=``."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        key, found, text = Text(None).convert(value, param, ctx).partition("=")
        if not found or not key:
            self.fail(f"must be KEY=VALUE, such as album=holidays (got {key[:60]!r}).", param, ctx)
        return key, text


class FilePair(click.ParamType):  # type: ignore[type-arg]
    """``PATH``, or ``NAME=PATH`` for another name than the file's own. What exists as a whole is a path."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        text = PathText().convert(value, param, ctx)
        name, found, path = text.partition("=")
        if found and name and path and not os.path.lexists(text):
            return Text(None).convert(name, param, ctx), self._regular(path, param, ctx)
        path = self._regular(text, param, ctx)
        return Text(None).convert(Path(path).name, param, ctx), path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]

    def _regular(self, path: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if problem := file_problem(Path(path)):
            self.fail(f"{path[:200]!r}: {problem}.", param, ctx)
        return path


class TakesPairs(click.Command):
    """A command with ``--data`` and ``--file``: a pair or a file without them is told how it is given."""

    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        left = super().parse_args(ctx, args)
        if not left or ctx.resilient_parsing:
            return left
        first = left[0][:80]
        name, found, _ = first.partition("=")
        hint = "Files are given with --file, pairs with --data KEY=VALUE."
        if os.path.lexists(left[0]):
            hint = f"A file is given as --file {shlex.quote(first)}"
        elif found and name:
            hint = f"A pair is given as --data {shlex.quote(first)}"
        raise click.UsageError(f"there is no place for {first!r}. {hint}", ctx)


def file_problem(path: Path) -> str | None:
    """Why ``path`` is no file whose content one can read as often as one likes."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "is a directory. Name the files in it"
    if not stat.S_ISREG(mode):
        return "is not a regular file"
    return None if os.access(path, os.R_OK) else "may not be read by you"


def files_by_name(files: Sequence[tuple[str, str]]) -> dict[str, Path]:
    """Files under the names that modules see. Two of one name are refused: the second would replace the first."""
    found: dict[str, Path] = {}
    for name, path in files:
        if name in found:
            raise click.UsageError(
                f"--file: two files would have the name {name!r}: {str(found[name])!r} and {path!r}. "
                "Name one of them otherwise with NAME=PATH."
            )
        found[name] = Path(path)
    return found
