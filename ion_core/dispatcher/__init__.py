"""The dispatcher: takes deliveries, runs jobs, settles them."""

from ion_core.dispatcher.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
