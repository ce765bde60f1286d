"""What happened to an event at each module, which rule decided it, and what is pending: told from what it left."""

from ion_core.why.looking import Runs, look
from ion_core.why.next_steps import advice
from ion_core.why.told import AttemptTold, ChildTold, EventTold, JobState, JobTold, LetterTold

__all__ = [
    "AttemptTold",
    "ChildTold",
    "EventTold",
    "JobState",
    "JobTold",
    "LetterTold",
    "Runs",
    "advice",
    "look",
]
