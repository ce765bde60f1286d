"""A provider that was chosen: what is known of it, how it is opened within bounds, and whose fault it is if not."""

from ion_core.opening.blame import blamed, naming
from ion_core.opening.bounded import opened
from ion_core.opening.chosen import Chosen

__all__ = ["Chosen", "blamed", "naming", "opened"]
