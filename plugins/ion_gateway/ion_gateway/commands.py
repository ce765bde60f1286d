"""``ion-core schedule``: what is planned."""

from __future__ import annotations

import click


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For a shell that completes: the schedules of the configuration that the line names."""
    from ion_core.contracts.command import configured

    with ctx.scope(cleanup=False):
        services = configured().services("schedule", config=ctx.params.get("config"))
    return [name for it in services.values() for name in it.schedules if name.startswith(incomplete)]


@click.group()
def schedule() -> None:
    """Events at planned times."""


@schedule.command("next")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=_names)
@click.option("--count", default=3, show_default=True, type=click.IntRange(1, 1000), help="Times of each.")
@click.option("--config", metavar="FILE", help="The configuration. Default: $ION_CONFIG, then ./ion.yaml.")
def coming(names: tuple[str, ...], count: int, config: str | None) -> None:
    """Print the coming times of each schedule, in its own time zone and in UTC.

    \b
    Example:
      ion-core schedule next nightly --count 10
    """
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    from ion_core.contracts.command import configured

    found = [
        (name, planned)
        for settings in configured().services("schedule", config=config).values()
        for name, planned in settings.schedules.items()
    ]
    known = {name for name, _ in found}
    for name in names:
        if name not in known:
            raise click.UsageError(f'no schedule "{name}". There are: {", ".join(sorted(known)) or "none"}.')
    rows = [("SCHEDULE", "TIME", "UTC", "TYPE")]
    for name, planned in found:
        if names and name not in names:
            continue
        time, zone = datetime.now(UTC), ZoneInfo(planned.zone)
        for _ in range(count):
            time = planned.plan.after(time)
            there = f"{time.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}"
            rows.append((name, there, f"{time:%Y-%m-%dT%H:%M:%SZ}", planned.type))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, last in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last]))
