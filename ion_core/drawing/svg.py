"""Parts of a picture as SVG has them."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement


def picture(width: float, height: float, said: str) -> Element:
    """An ``svg`` of that size in pixels; ``said`` is its name for whoever does not see it."""
    return Element(
        "svg",
        {
            "class": "graph",
            "width": number(width),
            "height": number(height),
            "viewBox": f"0 0 {number(width)} {number(height)}",
            "role": "group",
            "aria-label": said,
        },
    )


def rect(
    group: Element, x: float, y: float, width: float, height: float, more: Mapping[str, str] | None = None
) -> None:
    place = {"x": x, "y": y, "width": width, "height": height}
    SubElement(group, "rect", {name: number(value) for name, value in place.items()} | dict(more or {}))


def text(group: Element, x: float, y: float, said: str, more: Mapping[str, str] | None = None) -> None:
    SubElement(group, "text", {"x": number(x), "y": number(y)} | dict(more or {})).text = said


def curve(x: float, y: float, to_x: float, to_y: float) -> str:
    """Of a path that goes from left to right, level at both ends."""
    half = (x + to_x) / 2
    points = ((half, y), (half, to_y), (to_x, to_y))
    return f"M{number(x)} {number(y)}C" + " ".join(f"{number(a)} {number(b)}" for a, b in points)


def number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
