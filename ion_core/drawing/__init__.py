"""A flow or a pipeline as people look at it: its graph as SVG, and of a flow a page of its own to be mailed."""

from ion_core.drawing.graph import draw
from ion_core.drawing.page import PICTURES, Beside, report
from ion_core.drawing.pipeline import draw_pipeline
from ion_core.drawing.style import graph_style
from ion_core.drawing.tree import TROUBLE

__all__ = ["PICTURES", "TROUBLE", "Beside", "draw", "draw_pipeline", "graph_style", "report"]
