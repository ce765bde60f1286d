"""Dead letters as work: grouped by cause, redriven at a rate, exported to a file and brought back."""

from ion_core.letters.exchange import FORMAT, VERSION, Exported, Imported, add, export, mark_of, read_export
from ion_core.letters.groups import By, Group, brief, cause_of, event_type, grouped, says
from ion_core.letters.redriving import Redrive
from ion_core.letters.shown import Kept, Letters, purge

__all__ = [
    "FORMAT",
    "VERSION",
    "By",
    "Exported",
    "Group",
    "Imported",
    "Kept",
    "Letters",
    "Redrive",
    "add",
    "brief",
    "cause_of",
    "event_type",
    "export",
    "grouped",
    "mark_of",
    "purge",
    "read_export",
    "says",
]
