"""``ion-core dlq redrive``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.event.letters import Which, chosen, run_on, selected
from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import out_json, say
from ion_core.cli.progress import progress
from ion_core.cli.whole import Options
from ion_core.errors import IonError

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.letters import Redrive

SECONDS = {"s": 1, "min": 60, "h": 3600}


class Rate(click.ParamType):  # type: ignore[type-arg]
    """How many in a second, a minute or an hour."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)/(s|min|h)", str(value))
        rate = float(found[1]) / SECONDS[found[2]] if found else 0.0
        if rate <= 0:
            self.fail(f"must be a number by s, min or h, such as 5/s or 30/min (got {str(value)[:40]!r}).", param, ctx)
        return rate


@click.command("redrive")
@chosen
@click.option("--rate", metavar="RATE", type=Rate(), help="At most so many: 5/s, 30/min, 100/h. Default: at once.")
@json_option
@with_config
def redrive(
    options: Options,
    ids: Sequence[str],
    every: bool,
    module: str | None,
    reason: str | None,
    event_type: str | None,
    rate: float | None,
    as_json: bool,
) -> None:
    """Put dead letters back into their queues; attempts are counted from 1 again.

    Their events keep their ids, data and files. Those that are there when it begins are meant, oldest first; what dies
    anew meanwhile is not. It may be interrupted at any time: each is put back whole or not at all, it is said what is
    left, and the same again does the rest.

    \b
    Examples:
      ion-core dlq redrive 17 18
      ion-core dlq redrive --all --module detect
      ion-core dlq redrive --reason "exit code 3" --rate 5/s
    """
    which = Which(ids=ids, every=every, module=module, reason=reason, type=event_type)
    if bool(ids) == (every or reason is not None or event_type is not None or (not ids and module is not None)):
        raise click.UsageError(
            "say which: their ids (`ion-core dlq list` shows them), or --all, or --reason, --type or --module."
        )

    async def work(app: App) -> Redrive:
        from ion_core.letters import Redrive

        letters = await selected(app, which)
        found = Redrive(await app.broker(), await app.documents(), letters)
        try:
            with progress(found.total, "putting back") as done:
                await found.run(rate=rate, done=done)
        except asyncio.CancelledError:
            say(_told(found))
            raise
        except IonError:
            if found.total > 1:
                say(_told(found))
            raise
        return found

    found = run_on(options, work)
    if as_json:
        out_json({"redriven": found.moved, **({"gone": found.gone} if found.gone else {})})
        return
    say(_told(found))


def _told(found: Redrive) -> str:
    """What was done, and what is left."""
    text = f"{found.moved:,} put back."
    if found.left or found.unsure:
        text = f"{found.moved:,} of {found.total:,} put back, {found.left:,} left: the same again does the rest."
    if found.gone:
        text += f" {found.gone:,} had been put back or purged by somebody else meanwhile."
    if found.unsure:
        text += f" Of {found.unsure:,} it is not known: `ion-core dlq list` shows those that are still there."
    return text
