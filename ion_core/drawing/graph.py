"""The graph of a flow as SVG: pills are events, boxes are jobs with their name, one fact, and how their time went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from xml.etree.ElementTree import Element, SubElement

from ion_core.contracts.looking import EventView, FlowView, JobView
from ion_core.drawing.said import MARKS, STATES, STEPS, fact, fitted, last, since_then
from ion_core.drawing.svg import curve, number, picture, rect, text
from ion_core.drawing.tree import Item, More, Node, placed
from ion_core.words import counted

COLUMN, ROW, MARGIN = 232, 56, 8
"""Pixels from one column, or one leaf, to the next; and around it all."""
WIDTH = 184
PILL, BOX = 36, 44
BAR = 3


def draw(
    flow: FlowView,
    *,
    running: Mapping[tuple[str, str], datetime] | None = None,
    chosen: EventView | JobView | None = None,
    link: Callable[[EventView | JobView], str] | None = None,
    shown: Callable[[str], str] = str,
) -> Element:
    """An ``svg`` element; its style is that of the page that it stands in.

    ``running`` has since when a job runs, by event and module, of those that run now. ``chosen`` is marked: it is one
    of those in ``flow``. ``link`` says where an event or a job leads when it is chosen. Every text, also of outside,
    goes through ``shown``. Of many events beside each other those with trouble are drawn, and a few more; the others
    are counted.
    """
    nodes = placed(flow)
    width = (max((it.column for it in nodes), default=0)) * COLUMN + WIDTH + 2 * MARGIN
    height = (max((it.row for it in nodes), default=0) + 1) * ROW + 2 * MARGIN
    svg = picture(width, height, "The flow as a graph: events and the jobs that they started")
    edges = SubElement(svg, "g", {"class": "edges", "aria-hidden": "true"})
    for node in nodes:
        for child in node.below:
            SubElement(edges, "path", {"d": _edge(node, child)})
        for cause in node.gathered:
            SubElement(edges, "path", {"class": "gathered", "d": _edge(cause, node)})
    for node in nodes:
        is_chosen = chosen is not None and node.item is chosen
        into = _into(svg, node.item, link, is_chosen)
        drawn = _node(into, node, running or {}, shown)
        if is_chosen:
            drawn.set("class", f"{drawn.get('class')} chosen")
    return svg


def _into(svg: Element, item: Item, link: Callable[[EventView | JobView], str] | None, is_chosen: bool) -> Element:
    if link is None or isinstance(item, More):
        return svg
    return SubElement(svg, "a", {"href": link(item)} | ({"aria-current": "true"} if is_chosen else {}))


def _node(
    into: Element, node: Node, running: Mapping[tuple[str, str], datetime], shown: Callable[[str], str]
) -> Element:
    item = node.item
    if isinstance(item, JobView):
        return _job(into, item, _left(node), _middle(node), running.get((item.event_id, item.module)), shown)
    if isinstance(item, EventView):
        return _pill(into, "event", shown(item.type), f"event {shown(item.type)}, {shown(item.event_id)}", node)
    said = f"{item.count:,} more {shown(item.type)}"
    return _pill(into, "event more", said, f"{counted(item.count, 'more event')} of type {shown(item.type)}", node)


def _pill(into: Element, kind: str, said: str, whole: str, node: Node) -> Element:
    group = SubElement(into, "g", {"class": kind})
    SubElement(group, "title").text = whole
    x, y = _left(node), _middle(node)
    rect(group, x, y - PILL / 2, WIDTH, PILL, {"rx": number(PILL / 2)})
    text(group, x + WIDTH / 2, y + 4, fitted(said, 25))
    return group


def _job(
    into: Element, job: JobView, x: float, y: float, since: datetime | None, shown: Callable[[str], str]
) -> Element:
    """``since`` is when it began to run; what has committed does not count, whoever runs it again."""
    if since is None or job.state == "committed":
        mark, said = MARKS[job.state], shown(fact(job))
        whole = f"{STATES[job.state]}, {said}"
    else:
        mark, said = "run", since_then(since)
        whole = said
    group = SubElement(into, "g", {"class": f"job {mark}"})
    SubElement(group, "title").text = f"job of {shown(job.module)}: {whole}"
    top = y - BOX / 2
    rect(group, x, top, WIDTH, BOX, {"rx": "6"})
    text(group, x + 12, top + 18, fitted(shown(job.module), 21))
    text(group, x + 12, top + 33, fitted(said, 28), {"class": "fact"})
    _time(group, job, x, top + BOX - BAR - 1)
    return group


def _time(group: Element, job: JobView, x: float, y: float) -> None:
    """A bar of what the steps took of the attempt that counts."""
    counts = last(job)
    took = {} if counts is None else counts.seconds
    whole = sum(took.get(step, 0) for step in STEPS)
    if whole <= 0:
        return
    at = x + 6.0
    for step in STEPS:
        width = (WIDTH - 12) * max(took.get(step, 0), 0) / whole
        if width >= 0.5:
            rect(group, at, y, width, BAR, {"class": f"time {step}"})
        at += width


def _edge(cause: Node, led_to: Node) -> str:
    return curve(_left(cause) + WIDTH, _middle(cause), _left(led_to), _middle(led_to))


def _left(node: Node) -> float:
    return MARGIN + node.column * COLUMN


def _middle(node: Node) -> float:
    return MARGIN + (node.row + 0.5) * ROW
