"""Migration: what one configuration's providers keep is brought to those of another, nothing of it twice or lost."""

from ion_core.migration.messages import move_letters as move_letters
from ion_core.migration.messages import move_waiting as move_waiting
from ion_core.migration.stores import PASSING as PASSING
from ion_core.migration.stores import Copied as Copied
from ion_core.migration.stores import copied_before as copied_before
from ion_core.migration.stores import copy_stores as copy_stores
from ion_core.migration.whole import Moved as Moved
from ion_core.migration.whole import Share as Share
from ion_core.migration.whole import check_are_two as check_are_two
from ion_core.migration.whole import move_queues as move_queues
from ion_core.migration.whole import queues_at_rest as queues_at_rest

__all__ = [
    "PASSING",
    "Copied",
    "Moved",
    "Share",
    "check_are_two",
    "copied_before",
    "copy_stores",
    "move_letters",
    "move_queues",
    "move_waiting",
    "queues_at_rest",
]
