"""Rehearsals: one step run outside of the dispatcher, from prepared inputs to what it would commit. Nothing is."""

from ion_core.rehearsal.scratch import scratch
from ion_core.rehearsal.step import FileLeft, Rehearsal, rehearse

__all__ = ["FileLeft", "Rehearsal", "rehearse", "scratch"]
