"""Which flows there are, the newest first, each in short: what `trace list` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ion_core.cli.output import plain, say
from ion_core.flows import FlowInShort, Queues, Wanted, list_flows

if TYPE_CHECKING:
    from ion_core.app import App


async def flows_in_short(app: App, wanted: Wanted, *, limit: int, damaged: set[str]) -> Sequence[FlowInShort]:
    """At most ``limit`` of those. What is said of documents that are damaged is added to ``damaged``."""
    queues = Queues(app.broker)
    documents, modules = await app.documents(), app.config.modules.values()
    page = await list_flows(documents, modules, queues, wanted, limit=limit, damaged=damaged)
    if queues.trouble is not None:
        trouble = plain(str(queues.trouble))
        say(f"The queues were not looked at, so what waits in none may be called running: {trouble}")
    return page.flows
