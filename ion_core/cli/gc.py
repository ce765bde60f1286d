"""``ion-core gc``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import Options, json_option, with_config
from ion_core.cli.output import out, out_json

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.retention import Removed


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


@click.command("gc")
@click.option("--older-than", metavar="AGE", type=Age(), required=True, help="Such as 30d or 12h.")
@click.option("--dry-run", is_flag=True, help="Remove nothing, say what would be.")
@json_option
@with_config
def command(options: Options, older_than: timedelta, dry_run: bool, as_json: bool) -> None:
    """Remove old flows, and files of attempts that never committed.

    A flow goes, with its documents, logs and files, when everything of it is older than AGE and nothing of it waits in
    a queue, among the dead letters, or is still to be published. Of old flows that stay, the files of attempts that
    never committed go. It may run beside `ion-core serve`; give it the configuration that names all modules.

    \b
    Example:
      ion-core gc --older-than 30d --dry-run
    """
    from ion_core.cli.session import load, run

    removed = run(load(options), lambda app: _collect(app, older_than, dry_run))
    if as_json:
        counts = {name: getattr(removed, name) for name in ("flows", "documents", "files", "kept")}
        out_json({"dryRun": dry_run, **counts, "uncommittedFiles": removed.uncommitted_files})
        return
    verb = "Would remove" if dry_run else "Removed"
    out(f"{verb} {removed.flows:,} flows with {removed.documents:,} documents and {removed.files:,} files,")
    out(f"and {removed.uncommitted_files:,} files of attempts that never committed.")
    if removed.kept:
        out(f"Kept {removed.kept:,} flows of that age: something of them still waits.")


async def _collect(app: App, older_than: timedelta, dry_run: bool) -> Removed:
    from datetime import UTC, datetime

    from ion_core.errors import UsageError
    from ion_core.retention import collect

    try:
        before = datetime.now(UTC) - older_than
    except OverflowError:
        raise UsageError("--older-than: is longer ago than there are dates.") from None
    return await collect(await app.dataplane(), app.config.modules.values(), before=before, dry_run=dry_run)
