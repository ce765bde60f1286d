"""The dispatcher: takes deliveries, runs jobs, settles them."""

from ion_core.dispatcher.dispatcher import Dispatcher, Part

__all__ = ["Dispatcher", "Part"]
