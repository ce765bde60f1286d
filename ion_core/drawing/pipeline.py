"""The graph of a pipeline as SVG: boxes are modules with their runtime and one fact, pills are the types of events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element, SubElement

from ion_core.contracts.looking import ModuleView, Pipeline
from ion_core.drawing.layers import SPACE, Laid, Place, components, lay_out
from ion_core.drawing.said import columns, fitted
from ion_core.drawing.svg import curve, number, picture, rect, text

WIDTH, GAP, MARGIN = 184.0, 44.0, 8.0
"""Pixels: of a box and of the widest pill, between columns, around it all."""
PILL = 36.0
LINE = 15.0
LANE = 10.0
"""Between links that lead back, below all else."""


Mark = Literal["", "bad", "run", "wait"]
"""A class in the page's style, the same as of jobs."""


class Node(NamedTuple):
    """A module or a type, by its name: one may be called as the other."""

    kind: Literal["module", "type"]
    name: str


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What hangs together, ``top`` pixels from the top."""

    laid: Laid[Node]
    top: float


def draw_pipeline(
    pipeline: Pipeline,
    *,
    link: Callable[[ModuleView], str] | None = None,
    fact: Callable[[ModuleView], str] | None = None,
    mark: Callable[[ModuleView], Mark] | None = None,
    shown: Callable[[str], str] = str,
) -> Element:
    """An ``svg`` element; its style is that of the page that it stands in, as with ``draw``.

    ``link`` says where a module leads when it is chosen, ``fact`` the one thing to know of it, such as ``3 waiting``;
    '' is nothing. ``mark`` says how it stands by its border, beside what the fact says. Every text, also of outside,
    goes through ``shown``.
    """
    return _Picture(pipeline, link, fact, mark, shown).draw()


class _Picture:
    def __init__(
        self,
        pipeline: Pipeline,
        link: Callable[[ModuleView], str] | None,
        fact: Callable[[ModuleView], str] | None,
        mark: Callable[[ModuleView], Mark] | None,
        shown: Callable[[str], str],
    ) -> None:
        self._link, self._fact, self._mark, self._shown = link, fact, mark, shown
        self._modules = {it.name: it for it in pipeline.modules}
        self._outside = {it.type for it in pipeline.links if not it.source}
        self._untaken = {it.type for it in pipeline.links if not it.target}
        self._box = 14 + LINE * (2 if fact is None else 3)
        self._parts = self._laid_out(pipeline)
        self._lefts, self._widths = self._columns()

    def _laid_out(self, pipeline: Pipeline) -> Sequence[_Part]:
        modules = [Node("module", it.name) for it in pipeline.modules]
        types = [Node("type", it) for it in dict.fromkeys(it.type for it in pipeline.links)]
        links = [(Node("module", it.source), Node("type", it.type)) for it in pipeline.links if it.source]
        links += [(Node("type", it.type), Node("module", it.target)) for it in pipeline.links if it.target]
        parts: list[_Part] = []
        top = MARGIN
        for part in components([*types, *modules], links):
            own = set(part)
            laid = lay_out(
                part,
                [it for it in links if it[0] in own],
                hubs=set(types),
                height=lambda node: PILL if node.kind == "type" else self._box,
            )
            parts.append(_Part(laid=laid, top=top))
            top += laid.height + len(laid.back) * LANE + 2 * SPACE
        return parts

    def _columns(self) -> tuple[list[float], list[float]]:
        """Where each begins, and how wide it is."""
        layers = zip_longest(*(part.laid.layers for part in self._parts), fillvalue=())
        widths = [max(self._width(it) for layer in beside for it in layer) for beside in layers]
        back = GAP if any(part.laid.back for part in self._parts) else 0.0
        lefts = [MARGIN + back + sum(widths[:n]) + n * GAP for n in range(len(widths) + 1)]
        return lefts, widths

    def _width(self, place: Place[Node]) -> float:
        if place.key is None:
            return 0.0
        if place.key.kind == "module":
            return WIDTH
        return min(WIDTH, max(112.0, 24 + 6.8 * columns(self._shown(place.key.name))))

    def draw(self) -> Element:
        last = self._parts[-1] if self._parts else None
        bottom = MARGIN if last is None else last.top + last.laid.height + len(last.laid.back) * LANE
        back = GAP if self._lefts[0] > MARGIN else 0.0
        right = self._lefts[-1] - (GAP if self._widths else 0.0) + back + MARGIN
        svg = picture(right, bottom + MARGIN, "The pipeline as a graph: modules and the events that go between them")
        edges = SubElement(svg, "g", {"class": "edges", "aria-hidden": "true"})
        for part in self._parts:
            for place in (it for layer in part.laid.layers for it in layer):
                self._links(edges, part, place)
            for n, (source, target) in enumerate(part.laid.back):
                self._back(edges, part, n, source, target)
        for part in self._parts:
            for place in (it for layer in part.laid.layers for it in layer):
                if place.key is not None:
                    self._node(svg, place.key, self._lefts[place.layer], part.top + place.middle, self._width(place))
        return svg

    def _links(self, edges: Element, part: _Part, place: Place[Node]) -> None:
        """Level through its own column, which may be wider, and through one that is only passed."""
        left, y = self._lefts[place.layer], part.top + place.middle
        right = left + self._widths[place.layer]
        begins = left + self._width(place)
        if begins < right and place.after:
            SubElement(edges, "path", {"d": f"M{number(begins)} {number(y)}H{number(right)}"})
        for other in place.after:
            to_x, to_y = self._lefts[other.layer], part.top + other.middle
            SubElement(edges, "path", {"d": curve(right, y, to_x, to_y)})

    def _back(self, edges: Element, part: _Part, n: int, source: Place[Node], target: Place[Node]) -> None:
        """Below all that hangs together, and up again before the column that it leads to."""
        aside = 8 + n % 5 * 6
        x, y = self._lefts[source.layer] + self._width(source), part.top + source.middle
        to_x, to_y = self._lefts[target.layer], part.top + target.middle
        down = self._lefts[source.layer] + self._widths[source.layer] + aside
        lane = part.top + part.laid.height + (n + 1) * LANE
        numbers = [number(it) for it in (x, y, down, lane, to_x - aside - 6, to_y, to_x - 6)]
        path = "M{} {}H{}V{}H{}V{}H{}".format(*numbers)
        SubElement(edges, "path", {"class": "back", "d": path})
        SubElement(edges, "path", {"class": "tip", "d": f"M{number(to_x)} {number(to_y)}l-7 -4v8z"})

    def _node(self, svg: Element, node: Node, x: float, y: float, width: float) -> None:
        if node.kind == "type":
            self._type(svg, node.name, x, y, width)
            return
        module = self._modules[node.name]
        into = svg if self._link is None else SubElement(svg, "a", {"href": self._link(module)})
        self._module(into, module, x, y)

    def _type(self, svg: Element, name: str, x: float, y: float, width: float) -> None:
        said = "from outside" if name in self._outside else "no module takes it" if name in self._untaken else ""
        kind = "event outside" if name in self._outside else "event untaken" if name in self._untaken else "event"
        group = SubElement(svg, "g", {"class": kind})
        shown = self._shown(name)
        SubElement(group, "title").text = ", ".join(filter(None, [f"events of type {shown}", said]))
        rect(group, x, y - PILL / 2, width, PILL, {"rx": number(PILL / 2)})
        text(group, x + width / 2, y + (-1 if said else 4), fitted(shown, 25))
        if said:
            text(group, x + width / 2, y + 11, said, {"class": "fact"})

    def _module(self, into: Element, module: ModuleView, x: float, y: float) -> None:
        mark = "" if self._mark is None else self._mark(module)
        group = SubElement(into, "g", {"class": f"module {mark}".rstrip()})
        name, runtime = self._shown(module.name), f"runtime {self._shown(module.runtime)}"
        told = "" if self._fact is None else self._shown(self._fact(module))
        SubElement(group, "title").text = ", ".join(filter(None, [f"module {name}", runtime, told]))
        top = y - self._box / 2
        rect(group, x, top, WIDTH, self._box, {"rx": "6"})
        text(group, x + 12, top + 18, fitted(name, 21))
        text(group, x + 12, top + 18 + LINE, fitted(runtime, 28), {"class": "fact"})
        if told:
            text(group, x + 12, top + 18 + 2 * LINE, fitted(told, 28), {"class": "fact"})
