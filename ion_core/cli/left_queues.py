"""Queues that a killed ``event republish`` or ``migrate`` has left: the next one and ``gc`` find and remove them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ion_core.cli.output import plain, say
from ion_core.errors import ConfigError, ProviderError, StateBusy

if TYPE_CHECKING:
    from ion_core.app import App


async def remove_left_queues(app: App) -> None:
    """Remove, and say, what one of this state directory left that was killed; not while one is under way."""
    from ion_core.backfill import remove_left

    try:
        with app.state.republishing():
            removed = await remove_left(await app.broker(), app.state.id())
    except StateBusy:
        return
    except (ConfigError, ProviderError) as error:  # such as a broker whose user may not list queues
        say(f"Whether an earlier republish or migrate has left a queue was not looked for: {plain(str(error))}")
        return
    for name, held in removed:
        say(
            f"Removed {name}, which a republish or a migrate that was cut short has left. "
            f"Not given, so to be given again: {held:,}."
        )
