"""``ion-core schedule``: what is planned. ``ion-core gateway``: what is answered."""

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
    from ion_gateway.plans import coming as times_of

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
        zone = ZoneInfo(planned.zone)
        for time in times_of(planned.plan, datetime.now(UTC), count):
            there = f"{time.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}"
            rows.append((name, there, f"{time:%Y-%m-%dT%H:%M:%SZ}", planned.type))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, last in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last]))


def _gateways(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from ion_core.contracts.command import configured

    with ctx.scope(cleanup=False):
        services = configured().services("gateway", config=ctx.params.get("config"))
    return [name for name in services if name.startswith(incomplete)]


@click.group()
def gateway() -> None:
    """Events by HTTP."""


@gateway.command()
@click.argument("name", required=False, shell_complete=_gateways)
@click.option("--config", metavar="FILE", help="The configuration. Default: $ION_CONFIG, then ./ion.yaml.")
def openapi(name: str | None, config: str | None) -> None:
    """Print what the gateway answers, as OpenAPI 3.1 has it.

    NAME is needed where there are several.

    \b
    Example:
      ion-core gateway openapi > openapi.json
    """
    import json

    from ion_core.contracts.command import configured
    from ion_gateway.openapi import document

    here = configured()
    found = here.services("gateway", config=config)
    names = ", ".join(sorted(found)) or "none"
    if name is None and len(found) == 1:
        [name] = found
    if name is None:
        raise click.UsageError(f"which gateway? There are: {names}.")
    if name not in found:
        raise click.UsageError(f'no gateway "{name}". There are: {names}.')
    click.echo(json.dumps(document(found[name], here.event_types(config=config)), indent=2))
