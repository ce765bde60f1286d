"""What became of events: flows, read from the documents that they left."""

from ion_core.flows.flow import (
    ALREADY_COMMITTED,
    COMMITTED,
    DEAD_LETTERED,
    DUPLICATE,
    GONE,
    PENDING,
    RELEASED,
    RETRIED,
    AttemptSeen,
    EventSeen,
    Flow,
    FlowReader,
    JobSeen,
    children,
    read_flow,
)
from ion_core.flows.short import DEAD, DONE, FAILED, RUNNING, FlowInShort, parsed

__all__ = [
    "ALREADY_COMMITTED",
    "COMMITTED",
    "DEAD",
    "DEAD_LETTERED",
    "DONE",
    "DUPLICATE",
    "FAILED",
    "GONE",
    "PENDING",
    "RELEASED",
    "RETRIED",
    "RUNNING",
    "AttemptSeen",
    "EventSeen",
    "Flow",
    "FlowInShort",
    "FlowReader",
    "JobSeen",
    "children",
    "parsed",
    "read_flow",
]
