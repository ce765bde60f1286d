"""Ion from Python: publish events, wait for what becomes of them, and have the results.

``Ion`` is for scripts and notebooks, ``AsyncIon`` the same for programs with an event loop. `docs/python.md` has
examples.
"""

from ion_core.client.asking import AsyncFile, AsyncFlow, AsyncIon
from ion_core.client.blocking import File, Flow, Ion
from ion_core.contracts.looking import EventView, FlowSummary, JobView, LogView

__all__ = [
    "AsyncFile",
    "AsyncFlow",
    "AsyncIon",
    "EventView",
    "File",
    "Flow",
    "FlowSummary",
    "Ion",
    "JobView",
    "LogView",
]
