"""The graph of a flow as SVG: pills are events, boxes are jobs with their name, one fact, and how their time went."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element, SubElement

from ion_core.drawing.said import MARKS, STATES, STEPS, fact, fitted
from ion_core.drawing.tree import More, Node, placed
from ion_core.flows import EventSeen, Flow, JobSeen
from ion_core.words import counted

COLUMN, ROW, MARGIN = 232, 56, 8
"""Pixels from one column, or one leaf, to the next; and around it all."""
WIDTH = 184
PILL, BOX = 36, 44
BAR = 3


def draw(
    flow: Flow,
    *,
    link: Callable[[EventSeen | JobSeen], str] | None = None,
    shown: Callable[[str], str] = str,
) -> Element:
    """An ``svg`` element; its style is that of the page that it stands in.

    ``link`` says where an event or a job leads when it is chosen. Every text, also of outside, goes through ``shown``.
    Of many events beside each other those with trouble are drawn, and a few more; the others are counted.
    """
    nodes = placed(flow)
    width = (max((it.column for it in nodes), default=0)) * COLUMN + WIDTH + 2 * MARGIN
    height = (max((it.row for it in nodes), default=0) + 1) * ROW + 2 * MARGIN
    svg = Element(
        "svg",
        {
            "class": "graph",
            "width": str(width),
            "height": _number(height),
            "viewBox": f"0 0 {width} {_number(height)}",
            "role": "group",
            "aria-label": "The flow as a graph: events and the jobs that they started",
        },
    )
    edges = SubElement(svg, "g", {"class": "edges", "aria-hidden": "true"})
    for node in nodes:
        for child in node.below:
            SubElement(edges, "path", {"d": _edge(node, child)})
    for node in nodes:
        _node(svg, node, link, shown)
    return svg


def _node(
    svg: Element, node: Node, link: Callable[[EventSeen | JobSeen], str] | None, shown: Callable[[str], str]
) -> None:
    item = node.item
    into = svg
    if link is not None and not isinstance(item, More):
        into = SubElement(svg, "a", {"href": link(item)})
    if isinstance(item, JobSeen):
        _job(into, item, _left(node), _middle(node), shown)
    elif isinstance(item, EventSeen):
        _pill(into, "event", shown(item.type), f"event {shown(item.type)}, {shown(item.id)}", node)
    else:
        said = f"{item.count:,} more {shown(item.type)}"
        _pill(into, "event more", said, f"{counted(item.count, 'more event')} of type {shown(item.type)}", node)


def _pill(into: Element, kind: str, text: str, whole: str, node: Node) -> None:
    group = SubElement(into, "g", {"class": kind})
    SubElement(group, "title").text = whole
    x, y = _left(node), _middle(node)
    _rect(group, x, y - PILL / 2, WIDTH, PILL, {"rx": _number(PILL / 2)})
    _text(group, x + WIDTH / 2, y + 4, fitted(text, 25))


def _job(into: Element, job: JobSeen, x: float, y: float, shown: Callable[[str], str]) -> None:
    group = SubElement(into, "g", {"class": f"job {MARKS[job.state]}"})
    said = shown(fact(job))
    SubElement(group, "title").text = f"job of {shown(job.module)}: {STATES[job.state]}, {said}"
    top = y - BOX / 2
    _rect(group, x, top, WIDTH, BOX, {"rx": "6"})
    _text(group, x + 12, top + 18, fitted(shown(job.module), 21))
    _text(group, x + 12, top + 33, fitted(said, 28), {"class": "fact"})
    _time(group, job, x, top + BOX - BAR - 1)


def _time(group: Element, job: JobSeen, x: float, y: float) -> None:
    """A bar of what the steps took of the attempt that counts."""
    took = {} if job.last is None else job.last.seconds
    whole = sum(took.get(step, 0) for step in STEPS)
    if whole <= 0:
        return
    at = x + 6.0
    for step in STEPS:
        width = (WIDTH - 12) * max(took.get(step, 0), 0) / whole
        if width >= 0.5:
            _rect(group, at, y, width, BAR, {"class": f"time {step}"})
        at += width


def _edge(cause: Node, led_to: Node) -> str:
    x, y = _left(cause) + WIDTH, _middle(cause)
    to_x, to_y = _left(led_to), _middle(led_to)
    half = (x + to_x) / 2
    points = ((half, y), (half, to_y), (to_x, to_y))
    return f"M{_number(x)} {_number(y)}C" + " ".join(f"{_number(a)} {_number(b)}" for a, b in points)


def _left(node: Node) -> float:
    return MARGIN + node.column * COLUMN


def _middle(node: Node) -> float:
    return MARGIN + (node.row + 0.5) * ROW


def _rect(group: Element, x: float, y: float, width: float, height: float, more: dict[str, str]) -> None:
    place = {"x": x, "y": y, "width": width, "height": height}
    SubElement(group, "rect", {name: _number(value) for name, value in place.items()} | more)


def _text(group: Element, x: float, y: float, text: str, more: dict[str, str] | None = None) -> None:
    SubElement(group, "text", {"x": _number(x), "y": _number(y)} | (more or {})).text = text


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
