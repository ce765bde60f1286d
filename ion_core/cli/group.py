"""Commands with commands below them, which name what was meant when one is not among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

INSTEAD = {
    "run": "serve",
    "start": "serve",
    "worker": "serve",
    "up": "serve",
    "emit": "event publish",
    "send": "event publish",
    "ps": "trace list",
    "status": "trace list",
    "flows": "trace list",
    "results": "files",
    "download": "files",
    "fetch": "files",
    "retry": "dlq redrive",
    "new": "init",
    "validate": "check",
    "lint": "check",
    "modules": "module list",
    "events": "event peek",
}
"""What others call it, and how it is called here."""


class Group(click.Group):
    """As click's, but what is no command is told with the nearest there are, in this family or elsewhere."""

    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        if (command := self.get_command(ctx, name)) is None:
            here = ctx.command_path.removeprefix(ctx.find_root().command_path).strip()
            raise click.UsageError(f'no command "{f"{here} {name[:80]}".strip()}".{_hint(ctx, self, name, here)}', ctx)
        return name, command, args[1:]


def _hint(ctx: click.Context, group: Group, name: str, here: str) -> str:
    """`` Did you mean …?``, or nothing. ``here`` is the path of ``group``."""
    import difflib  # takes longer than all else here, and is of use to nobody who types well

    top = ctx.find_root()
    near = difflib.get_close_matches(name, group.list_commands(ctx), n=1, cutoff=0.75)
    found = [f"{here} {it}".strip() for it in near]
    if not found and isinstance(top.command, click.Group):
        known = list(_all(top, top.command))
        found = [INSTEAD[name]] if name in INSTEAD else []
        found += [path for path in known if path.split()[-1] == name and path not in found]
        found = found or _nearest(name, known)
    if not found:
        return ""
    *others, last = (f'"{it}"' for it in found)
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


def _nearest(name: str, paths: Iterable[str]) -> list[str]:
    by_name: dict[str, str] = {}
    for path in paths:
        by_name.setdefault(path.split()[-1], path)
    import difflib

    return [by_name[it] for it in difflib.get_close_matches(name, by_name, n=1)]


def _all(ctx: click.Context, group: click.Group, above: str = "") -> Iterator[str]:
    """The paths of all commands below ``group``, the nearer ones first."""
    below = {f"{above}{name}": group.get_command(ctx, name) for name in group.list_commands(ctx)}
    yield from below
    for path, command in below.items():
        if isinstance(command, click.Group):
            yield from _all(ctx, command, f"{path} ")
