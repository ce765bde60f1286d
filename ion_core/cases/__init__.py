"""Recorded cases: inputs of a module with the outputs that are right, replayed and compared without any service."""

from ion_core.cases.case import DIRECTORY, Case, case_names, cases_below
from ion_core.cases.choosing import chooses
from ion_core.cases.comparing import BY, Difference
from ion_core.cases.record import record
from ion_core.cases.replay import Outcome, Replayed, replay, rewrite

__all__ = [
    "BY",
    "DIRECTORY",
    "Case",
    "Difference",
    "Outcome",
    "Replayed",
    "case_names",
    "cases_below",
    "chooses",
    "record",
    "replay",
    "rewrite",
]
