"""What became of events: flows, read from the documents that they left."""

from ion_core.flows.fetching import Fetched, fetch, path_of
from ion_core.flows.files import FileOfFlow, files_of, stored_files
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
    aside,
    children,
    read_flow,
)
from ion_core.flows.listing import FlowPage, Queues, Wanted, list_flows
from ion_core.flows.logs import logs_of
from ion_core.flows.short import DEAD, DONE, FAILED, RUNNING, FlowInShort, Outcome, parsed
from ion_core.flows.views import attempt_of, summary_of, view_of
from ion_core.flows.waiting import LOOK_FIRST, LOOK_LAST, until_over

__all__ = [
    "ALREADY_COMMITTED",
    "COMMITTED",
    "DEAD",
    "DEAD_LETTERED",
    "DONE",
    "DUPLICATE",
    "FAILED",
    "GONE",
    "LOOK_FIRST",
    "LOOK_LAST",
    "PENDING",
    "RELEASED",
    "RETRIED",
    "RUNNING",
    "AttemptSeen",
    "EventSeen",
    "Fetched",
    "FileOfFlow",
    "Flow",
    "FlowInShort",
    "FlowPage",
    "FlowReader",
    "JobSeen",
    "Outcome",
    "Queues",
    "Wanted",
    "aside",
    "attempt_of",
    "children",
    "fetch",
    "files_of",
    "list_flows",
    "logs_of",
    "parsed",
    "path_of",
    "read_flow",
    "stored_files",
    "summary_of",
    "until_over",
    "view_of",
]
