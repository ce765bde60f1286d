"""What a configuration may not say of gatherers, and what of theirs a module is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ion_core.config import Config, check_graph, check_told
from ion_core.errors import ConfigError
from ion_core.modules import Gather

Load = Callable[..., Config]

ALBUM = {
    "split": "subscribes: [album.received], publishes: [photo.found]",
    "thumb": "subscribes: [photo.found], publishes: [thumb.made]",
    "sheet": "gather: {events: [thumb.made], within: album.received}, publishes: [sheet.made]",
}


def file(modules: dict[str, str]) -> str:
    lines = [f"  {name}: {{command: x, {edges}}}" for name, edges in modules.items()]
    return "modules:\n" + "\n".join(lines) + "\n"


def errors(load: Load, **modules: str) -> list[str]:
    """What ``check`` refuses, which ``serve`` refuses as well."""
    config = load(file(ALBUM | modules))
    found = [str(it) for it in check_graph(config) if it.severity == "error"]
    assert [str(it) for it in check_told(config)] == found
    return found


def test_a_gatherer_is_known_with_what_it_waits_for(load: Load) -> None:
    config = load(file(ALBUM | {"note": "subscribes: [photo.found]", "end": "subscribes: [sheet.made]"}))
    assert config.modules["sheet"].gather == Gather(events=("thumb.made",), within="album.received")
    assert config.modules["sheet"].subscribes == ("ion.gathered.sheet",)
    assert {name: it.leads_to for name, it in config.modules.items()} == {
        "split": ("sheet",),
        "thumb": ("sheet",),
        "sheet": (),
        "note": (),
        "end": (),
    }
    assert [str(it) for it in check_graph(config)] == [
        'ion.yaml:2:36: modules.split.subscribes[0]: no module emits "album.received": it comes from outside'
    ]


def test_a_good_one_has_nothing_wrong(load: Load) -> None:
    assert errors(load) == []
    assert errors(load, sheet="gather: {events: [thumb.made], by: page, missing: go, if_none: skip}") == []
    nested = {
        "page": "gather: {events: [thumb.made], within: photo.found}, publishes: [page.made]",
        "sheet": "gather: {events: [page.made], within: album.received}",
    }
    assert errors(load, **nested) == []


WRONG: dict[str, tuple[dict[str, str], list[str]]] = {
    "a circle": (
        {
            "sheet": "gather: {events: [thumb.made], within: album.received}, publishes: [sheet.made]",
            "again": "subscribes: [sheet.made], publishes: [thumb.made]",
        },
        [
            "ion.yaml:4:23: modules.sheet.gather: waits for itself, in a circle: sheet → again → sheet. Take a type "
            "out of publishes, or gather others."
        ],
    ),
    "its own scope": (
        {"sheet": "gather: {events: [thumb.made], within: album.received}, publishes: [album.received]"},
        [
            "ion.yaml:4:23: modules.sheet.gather: waits for itself, in a circle: sheet → sheet. Take a type out of "
            "publishes, or gather others."
        ],
    ),
    "two that wait for each other": (
        {
            "sheet": "gather: {events: [cover.made]}, publishes: [sheet.made]",
            "cover": "gather: {events: [sheet.made]}, publishes: [cover.made]",
        },
        [
            "ion.yaml:4:23: modules.sheet.gather: waits for itself, in a circle: sheet → cover → sheet. Take a type "
            "out of publishes, or gather others.",
            "ion.yaml:5:23: modules.cover.gather: waits for itself, in a circle: cover → sheet → cover. Take a type "
            "out of publishes, or gather others.",
        ],
    ),
    "a scope that no event can be": (
        {"sheet": "gather: {events: [thumb.made], within: album.recieved}"},
        [
            'ion.yaml:4:62: modules.sheet.gather.within: no event can be of type "album.recieved": no module takes or '
            'publishes it. Did you mean "album.received"?'
        ],
    ),
    "a type that nobody publishes": (
        {"sheet": "gather: {events: [thumb.made, tumb.made], within: album.received}"},
        [
            'ion.yaml:4:53: modules.sheet.gather.events[1]: "tumb.made" cannot arise beneath "album.received": no '
            'module publishes it. Did you mean "thumb.made"?'
        ],
    ),
    "a type that arises elsewhere": (
        {"other": "subscribes: [x], publishes: [y]", "sheet": "gather: {events: [y], within: album.received}"},
        [
            'ion.yaml:4:41: modules.sheet.gather.events[0]: "y" cannot arise beneath "album.received": no module that '
            "such an event leads to publishes it."
        ],
    ),
    "a scope that is only reached from its own kind": (
        {"sheet": "gather: {events: [album.received], within: album.received}"},
        [
            'ion.yaml:4:41: modules.sheet.gather.events[0]: "album.received" cannot arise beneath "album.received": no '
            "module publishes it."
        ],
    ),
    "publishes undeclared": (
        {"thumb": "subscribes: [photo.found]"},
        [
            'ion.yaml:4:41: modules.sheet.gather.events[0]: "thumb.made" cannot arise beneath "album.received": no '
            "module publishes it.",
            "ion.yaml:3:3: modules.thumb: publishes is not declared, and sheet waits for what this module may lead to. "
            "Say what it is.",
        ],
    ),
    "a reserved type": (
        {"thumb": "subscribes: [photo.found], publishes: [thumb.made, ion.gathered.sheet]"},
        [
            'ion.yaml:3:74: modules.thumb.publishes[1]: "ion.gathered.sheet": types that begin with ion.gathered. are '
            "Ion's own. Choose another."
        ],
    ),
    "a scope of a reserved type": (
        {"sheet": "gather: {events: [thumb.made]}", "cover": "gather: {events: [y], within: ion.gathered.sheet}"},
        [
            'ion.yaml:5:53: modules.cover.gather.within: "ion.gathered.sheet": types that begin with ion.gathered. are '
            "Ion's own. Choose another."
        ],
    ),
    "a name without a type": (
        {"my--sheet": "gather: {events: [thumb.made]}"},
        [
            "ion.yaml:5:3: modules.my--sheet: a gatherer cannot have a name with two hyphens side by side. Choose "
            "another."
        ],
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_is_refused_by_check_and_serve(load: Load, wrong: str) -> None:
    modules, expected = WRONG[wrong]
    assert errors(load, **modules) == expected


BAD = {
    "both": (
        "{command: x, subscribes: [a], gather: {events: [b]}}",
        "1:44: modules.m.gather: is instead of subscribes: what it gathers starts it. Remove one of them.",
    ),
    "nothing": ("{command: x, gather: {events: []}}", "1:44: modules.m.gather.events: must not be empty"),
    "no events": (
        "{command: x, gather: {within: a}}",
        "1:27: modules.m.gather.events: is required. Event types that it is given, all of a scope together. Such as "
        "[thumb.made].",
    ),
    "no value": ("{command: x, gather: }", "1:27: modules.m.gather: has no value. Give it one, or remove it."),
    "missing": (
        '{command: x, gather: {events: [a], missing: "go on"}}',
        '1:58: modules.m.gather.missing: must be wait or go (got "go on")',
    ),
    "unknown": ("{command: x, gather: {event: [a], events: [a]}}", "modules.m.gather.event: unknown key"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_gather_is_refused(load: Load, bad: str) -> None:
    module, expected = BAD[bad]
    with pytest.raises(ConfigError) as caught:
        load(f"modules: {{m: {module}}}")
    assert any(expected in it for it in caught.value.problems), caught.value.problems
