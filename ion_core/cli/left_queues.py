"""Queues that an ``event republish`` has left that was killed: found and removed by the next one, and by ``gc``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ion_core.cli.output import plain, say
from ion_core.errors import ConfigError, ProviderError, StateBusy

if TYPE_CHECKING:
    from ion_core.app import App


async def remove_left_queues(app: App) -> None:
    """Remove, and say, what a republish of this state directory left that was killed; not while one is under way."""
    from ion_core.backfill import remove_left

    try:
        with app.state.republishing():
            removed = await remove_left(await app.broker(), app.state.id())
    except StateBusy:
        return
    except (ConfigError, ProviderError) as error:  # such as a broker whose user may not list queues
        say(f"Whether an earlier republish has left a queue was not looked for: {plain(str(error))}")
        return
    for name, held in removed:
        say(
            f"Removed {name}, which a republish that was cut short has left. Not given, so to be given again: {held:,}."
        )
