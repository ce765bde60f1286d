"""Dead letters as work: grouped by cause, redriven at a rate, exported to a file and brought back."""

from ion_core.letters.exchange import FORMAT, VERSION, Exported, Imported, add, export, read_export
from ion_core.letters.groups import By, Group, cause_of, event_type, grouped, says
from ion_core.letters.redriving import Redrive
from ion_core.letters.shown import Letters

__all__ = [
    "FORMAT",
    "VERSION",
    "By",
    "Exported",
    "Group",
    "Imported",
    "Letters",
    "Redrive",
    "add",
    "cause_of",
    "event_type",
    "export",
    "grouped",
    "read_export",
    "says",
]
