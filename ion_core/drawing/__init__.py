"""A flow as people look at it: its graph as SVG, and a page of its own to be mailed."""

from ion_core.drawing.collecting import Collected, collect, small_pictures
from ion_core.drawing.graph import draw
from ion_core.drawing.page import PICTURES, report

__all__ = ["PICTURES", "Collected", "collect", "draw", "report", "small_pictures"]
