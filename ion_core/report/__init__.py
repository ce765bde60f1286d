"""What the page about a flow shows, read from the stores."""

from ion_core.report.collecting import Collected, collect, small_pictures

__all__ = ["Collected", "collect", "small_pictures"]
