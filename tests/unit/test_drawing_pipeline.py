"""A pipeline drawn as a graph: readable, whatever leads where, and always the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import combinations, pairwise
from xml.etree.ElementTree import Element, tostring

import pytest

from ion_core.contracts.looking import Link, ModuleView, Pipeline
from ion_core.drawing import draw_pipeline
from ion_core.drawing.layers import SPACE, Laid, components, lay_out

Module = tuple[str, Sequence[str], Sequence[str]]
HOSTILE = "<script>alert(1)</script>\"'>&amp;"


def pipeline(*modules: Module) -> Pipeline:
    """Of name, types taken and types made; links as a host tells them."""
    types = dict.fromkeys(it for _, takes, makes in modules for it in (*takes, *makes))
    links = [
        Link(source=source, type=type, target=target)
        for type in types
        for source in [name for name, _, makes in modules if type in makes] or [""]
        for target in [name for name, takes, _ in modules if type in takes] or [""]
    ]
    views = [
        ModuleView(
            name=name,
            subscribes=takes,
            publishes=makes,
            runtime="default",
            image=None,
            concurrency=1,
            retries=3,
            timeout=timedelta(minutes=1),
        )
        for name, takes, makes in modules
    ]
    return Pipeline(modules=views, links=links)


PHOTOS = pipeline(
    ("detect", ["photo.received"], ["face.detected", "photo.seen"]),
    ("blur", ["face.detected"], ["photo.blurred"]),
    ("review", ["photo.blurred"], ["face.detected"]),
    ("archive", ["photo.blurred", "photo.received"], []),
)


def some(seed: int, count: int) -> Pipeline:
    """A pipeline of many modules, with circles and with types that go far."""
    pick = random.Random(seed)
    modules: list[Module] = []
    for n in range(count):
        takes = [f"t{pick.randrange(max(0, n - 12), n + 4)}" for _ in range(pick.choice([1, 1, 2]))]
        modules.append((f"m{n}", [*dict.fromkeys(takes)], [f"t{n}", *([f"t{n // 2}"] if n % 11 == 10 else [])]))
    return pipeline(*modules)


def groups(svg: Element, kind: str) -> list[Element]:
    return [it for it in svg.iter("g") if it.get("class", "").split(" ")[0] == kind]


def boxes(svg: Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of each."""
    found = [[float(it.get(name, "")) for name in ("x", "y", "width", "height")] for it in svg.iter("rect")]
    return [(x, y, x + width, y + height) for x, y, width, height in found]


def left_of(svg: Element, name: str) -> float:
    [found] = [it for it in svg.iter("g") if name in [text.text for text in it.findall("text")]]
    return float(next(found.iter("rect")).get("x", ""))


def test_modules_have_their_runtime_and_fact_and_types_say_where_they_come_from_and_go() -> None:
    facts = {"blur": "3 waiting · 1 dead"}
    svg = draw_pipeline(PHOTOS, link=lambda it: f"/modules/{it.name}", fact=lambda it: facts.get(it.name, ""))
    said = [[text.text for text in it.iter("text")] for it in groups(svg, "module")]
    assert sorted(map(str, said)) == sorted(
        [
            "['detect', 'runtime default']",
            "['blur', 'runtime default', '3 waiting · 1 dead']",
            "['review', 'runtime default']",
            "['archive', 'runtime default']",
        ]
    )
    types = {next(it.iter("text")).text: it for it in groups(svg, "event")}
    assert {name: it.get("class") for name, it in types.items()} == {
        "photo.received": "event outside",
        "face.detected": "event",
        "photo.seen": "event untaken",
        "photo.blurred": "event",
    }
    assert [text.text for text in types["photo.received"].iter("text")] == ["photo.received", "from outside"]
    assert [text.text for text in types["photo.seen"].iter("text")] == ["photo.seen", "no module takes it"]
    titles = [it.text for it in svg.iter("title")]
    assert "module blur, runtime default, 3 waiting · 1 dead" in titles
    assert "events of type photo.seen, no module takes it" in titles
    assert sorted(it.get("href", "") for it in svg.iter("a")) == [
        "/modules/archive",
        "/modules/blur",
        "/modules/detect",
        "/modules/review",
    ]


def test_a_module_is_marked_by_how_it_stands() -> None:
    svg = draw_pipeline(PHOTOS, mark=lambda it: "bad" if it.name == "blur" else "")
    marks = {next(it.iter("text")).text: it.get("class") for it in groups(svg, "module")}
    assert marks == {"detect": "module", "blur": "module bad", "review": "module", "archive": "module"}


def test_it_reads_from_left_to_right_and_what_leads_back_does_so_below() -> None:
    svg = draw_pipeline(PHOTOS)
    way = ["photo.received", "detect", "face.detected", "blur", "photo.blurred", "archive"]
    lefts = [left_of(svg, it) for it in way]
    assert lefts == sorted(lefts)
    assert len(set(lefts)) == len(way)
    assert left_of(svg, "review") == left_of(svg, "archive")
    [back] = [it for it in svg.iter("path") if it.get("class") == "back"]
    below = max(bottom for _, _, _, bottom in boxes(svg))
    assert any(float(it.split("H")[0]) > below for it in back.get("d", "").split("V")[1:])
    assert len([it for it in svg.iter("path") if it.get("class") == "tip"]) == 1


@pytest.mark.parametrize("count", [1, 5, 30, 100])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_stands_on_another_or_outside_of_the_picture(seed: int, count: int) -> None:
    svg = draw_pipeline(some(seed, count), fact=lambda it: "1 waiting")
    found = boxes(svg)
    assert len(found) == len(groups(svg, "module")) + len(groups(svg, "event")) > count
    for (left, top, right, bottom), other in combinations(found, 2):
        assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    width, height = float(svg.get("width", "")), float(svg.get("height", ""))
    assert all(0 < left < right < width and 0 < top < bottom < height for left, top, right, bottom in found)


@pytest.mark.parametrize("seed", range(8))
def test_links_go_from_one_layer_to_the_next_and_through_nothing(seed: int) -> None:
    given = some(seed, 40)
    links = [(it.source, f"type {it.type}") for it in given.links if it.source]
    links += [(f"type {it.type}", it.target) for it in given.links if it.target]
    keys = [*dict.fromkeys(it for link in links for it in link)]
    for part in components(keys, links):
        own = [it for it in links if it[0] in part]
        laid = lay_out(part, own, hubs={it for it in part if it.startswith("type ")}, height=lambda it: 40)
        _is_well_laid(laid, own)


def _is_well_laid(laid: Laid[str], links: Sequence[tuple[str, str]]) -> None:
    for n, layer in enumerate(laid.layers):
        assert layer
        assert all(place.layer == n for place in layer)
        assert all(after.layer == n + 1 for place in layer for after in place.after)
        for one, following in pairwise(layer):
            space = following.middle - following.height / 2 - one.middle - one.height / 2
            assert space >= SPACE - 0.001, "a link that passes is a place as well"
    led = {(source.key, target.key) for source, target in laid.back}
    for place in (it for layer in laid.layers for it in layer if it.key is not None):
        waiting = [*place.after]
        while waiting:
            reached = waiting.pop()
            if reached.key is None:
                waiting += reached.after
            else:
                led.add((place.key, reached.key))
    assert led == set(links), "each link is drawn, and no other"


def test_the_same_pipeline_is_always_drawn_the_same_and_modules_beside_each_other_in_their_order() -> None:
    assert tostring(draw_pipeline(some(1, 60))) == tostring(draw_pipeline(some(1, 60)))
    wide = pipeline(("split", ["a"], ["b"]), *[(f"w{n:02}", ["b"], ["c"]) for n in range(20)], ("join", ["c"], []))
    names = [next(it.iter("text")).text for it in groups(draw_pipeline(wide), "module")]
    assert names == ["split", *(f"w{n:02}" for n in range(20)), "join"]


def test_what_is_beside_each_other_is_ordered_so_that_links_do_not_cross() -> None:
    svg = draw_pipeline(pipeline(("split", ["in"], ["x", "y"]), ("of y", ["y"], []), ("of x", ["x"], [])))
    nodes = [*groups(svg, "event"), *groups(svg, "module")]
    tops = {next(it.iter("text")).text: float(next(it.iter("rect")).get("y", "")) for it in nodes}
    assert (tops["x"] < tops["y"]) == (tops["of x"] < tops["of y"])


def test_types_that_many_make_and_many_take_are_one_pill_and_a_link_for_each() -> None:
    svg = draw_pipeline(
        pipeline(*[(f"m{n}", [], ["x"]) for n in range(10)], *[(f"t{n}", ["x"], []) for n in range(10)])
    )
    assert len(groups(svg, "event")) == 1
    assert len([it for it in svg.iter("path") if "C" in it.get("d", "")]) == 20


@pytest.mark.parametrize(
    "given",
    [
        pipeline(),
        pipeline(("alone", [], [])),
        pipeline(("itself", ["x"], ["x"])),
        pipeline(("x", ["x"], ["x"]), ("y", ["x"], [])),
        pipeline(("a", ["x"], ["y"]), ("b", ["y"], ["x"])),
    ],
    ids=["nothing", "no types", "a circle of one", "of one name", "nothing from outside"],
)
def test_any_pipeline_is_drawn(given: Pipeline) -> None:
    svg = draw_pipeline(given)
    assert len(groups(svg, "module")) == len(given.modules)
    assert len(groups(svg, "event")) == len({it.type for it in given.links})


def test_one_of_any_depth_is_drawn() -> None:
    svg = draw_pipeline(pipeline(*[(f"m{n}", [f"t{n}"], [f"t{n + 1}"]) for n in range(700)]))
    assert len(boxes(svg)) == 1401


def test_every_text_goes_through_what_hides_and_stays_text() -> None:
    given = pipeline((HOSTILE, [HOSTILE, "canary"], ["canary made"]))
    svg = draw_pipeline(given, fact=lambda it: f"canary {HOSTILE}", shown=lambda it: it.replace("canary", "***"))
    written = tostring(svg, encoding="unicode", method="html")
    assert "<script" not in written
    assert "canary" not in written
    assert f"module {HOSTILE}, runtime default, *** {HOSTILE}" in [it.text for it in svg.iter("title")]
