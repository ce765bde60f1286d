"""``ion-core gc``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from ion_core.cli.left_queues import remove_left_queues
from ion_core.cli.options import Age, before, json_option, with_config
from ion_core.cli.output import out, out_json
from ion_core.cli.whole import Options
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config
    from ion_core.python_environments import Unused
    from ion_core.retention import Removed


@click.command("gc")
@click.option("--older-than", metavar="AGE", type=Age(), required=True, help="Such as 30d or 12h.")
@click.option("--dry-run", is_flag=True, help="Remove nothing, say what would be.")
@json_option
@with_config
def command(options: Options, older_than: timedelta, dry_run: bool, as_json: bool) -> None:
    """Remove old flows, and files of attempts that never committed.

    A flow goes, with its documents, logs and files, when everything of it is older than AGE and nothing of it waits in
    a queue, among the dead letters, or is still to be published; queues that no module of the configuration takes count
    too. Of old flows that stay, the files of attempts that never committed go once another attempt at the job has. It
    may run beside `ion-core serve`. Python environments that no module of the configuration asks for go when nobody has
    used them for AGE.

    A file or document that cannot be removed, or is damaged, is named and keeps its flow; all others go, and the exit
    code is 1.

    \b
    Example:
      ion-core gc --older-than 30d --dry-run
    """
    from ion_core.cli.session import load, run

    config = load(options)
    removed = run(config, lambda app: _collect(app, older_than, dry_run), reading=dry_run)
    environments = _environments(config, older_than, dry_run)
    if as_json:
        counts = {name: getattr(removed, name) for name in ("flows", "documents", "files", "kept", "failed")}
        counts |= {"uncommittedFiles": removed.uncommitted_files, "environments": environments.environments}
        out_json({"dryRun": dry_run, **counts})
    else:
        _tell(removed, environments, dry_run)
    if removed.failed:
        raise click.exceptions.Exit(1)


def _tell(removed: Removed, environments: Unused, dry_run: bool) -> None:
    verb = "Would remove" if dry_run else "Removed"
    with_it = f"{counted(removed.documents, 'document')} and {counted(removed.files, 'file')}"
    out(f"{verb} {counted(removed.flows, 'flow')} with {with_it},")
    out(f"and {counted(removed.uncommitted_files, 'file')} of attempts that never committed.")
    if environments.environments:
        what = counted(environments.environments, "Python environment")
        out(f"{verb} {what} that no module asks for, {environments.size / 1024**2:,.1f} MiB.")
    if removed.kept:
        out(f"Kept {counted(removed.kept, 'flow')} of that age: something of them still waits.")
    if removed.failed:
        out(f"Could not remove {counted(removed.failed, 'entry')} of the stores, so the flows stay: see the warnings.")


def _environments(config: Config, older_than: timedelta, dry_run: bool) -> Unused:
    """What is removed of Python environments that modules had once."""
    import time

    from ion_core.config import environments_directory, python_environments
    from ion_core.errors import storage_error
    from ion_core.python_environments import Unused, remove_unused

    wanted = {it.environment for it in python_environments(config)}
    before = time.time() - older_than.total_seconds()
    found = Unused()
    for chosen in config.runtimes.values():
        if (directory := environments_directory(chosen)) is not None:
            try:
                found += remove_unused(directory, wanted, before=before, dry_run=dry_run)
            except OSError as error:
                raise storage_error(str(error.filename or chosen.where), error) from error
    return found


async def _collect(app: App, older_than: timedelta, dry_run: bool) -> Removed:
    from datetime import UTC, datetime

    from ion_core.retention import collect

    then = before(older_than, datetime.now(UTC), option="--older-than")
    removed = await collect(await app.dataplane(), app.config.modules.values(), before=then, dry_run=dry_run)
    if not dry_run:
        await remove_left_queues(app)
    return removed
