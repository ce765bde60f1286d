"""Where the nodes of a graph stand: in layers from left to right, so that links cross seldom, and go through nothing.

The way is that of Sugiyama, Tagawa and Toda, “Methods for visual understanding of hierarchical system structures”
(1981): circles are opened, nodes get their layers, links over several layers get a place in each, layers are ordered by
the mean of their neighbours, and heights follow these as far as there is room. The same graph is always laid out the
same.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Generic, TypeVar

K = TypeVar("K")
SPACE = 14.0
"""Pixels between what stands above each other."""
SWEEPS = 12


@dataclass(kw_only=True, eq=False)
class Place(Generic[K]):
    """A node; or, with None for ``key``, where links pass. ``middle`` counts from the top.

    ``before`` and ``after`` are what it is linked with in the layers beside its own.
    """

    key: K | None
    layer: int
    height: float = 0
    middle: float = 0
    before: list[Place[K]] = field(default_factory=list)
    after: list[Place[K]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Laid(Generic[K]):
    """``layers`` from left to right, each from top to bottom; ``back`` are links that do not go to the right."""

    layers: Sequence[Sequence[Place[K]]]
    back: Sequence[tuple[Place[K], Place[K]]]
    height: float


def components(keys: Sequence[K], links: Sequence[tuple[K, K]]) -> list[list[K]]:
    """What hangs together, in the order of the first of each."""
    beside: dict[K, list[K]] = {key: [] for key in keys}
    for source, target in links:
        beside[source].append(target)
        beside[target].append(source)
    part_of: dict[K, int] = {}
    found: list[list[K]] = []
    for key in keys:
        if key not in part_of:
            waiting = [key]
            while waiting:
                if (one := waiting.pop()) not in part_of:
                    part_of[one] = len(found)
                    waiting += beside[one]
            found.append([])
        found[part_of[key]].append(key)
    return found


def lay_out(
    keys: Sequence[K], links: Sequence[tuple[K, K]], *, hubs: Collection[K], height: Callable[[K], float]
) -> Laid[K]:
    """Each link has a hub at one of its ends, whose links over several layers go together as far as they can."""
    order, back = _opened(keys, links)
    forward = [link for link in dict.fromkeys(links) if link not in back]
    layer_of = _layers(order, forward)
    places = {key: Place(key=key, layer=layer_of[key], height=height(key)) for key in keys}
    layers = _filled(places, forward, hubs)
    _order(layers)
    _settle(layers)
    bottom = max((it.middle + it.height / 2 for layer in layers for it in layer), default=0)
    turned = [(places[source], places[target]) for source, target in dict.fromkeys(links) if (source, target) in back]
    return Laid(layers=layers, back=turned, height=bottom)


def _opened(keys: Sequence[K], links: Sequence[tuple[K, K]]) -> tuple[list[K], set[tuple[K, K]]]:
    """The nodes, each behind all that lead to it, but for links that close a circle: these are the others."""
    after: dict[K, list[K]] = {key: [] for key in keys}
    for source, target in links:
        after[source].append(target)
    targets = {target for _, target in links}
    begins = [*(it for it in keys if it not in targets), *(it for it in keys if it in targets)]
    done: list[K] = []
    state: dict[K, bool] = {}  # True while it is on the way to what is looked at
    back: set[tuple[K, K]] = set()
    for first in begins:
        if first in state:
            continue
        state[first] = True
        way: list[tuple[K, Iterator[K]]] = [(first, iter(after[first]))]
        while way:
            key, left = way[-1]
            for target in left:
                if target not in state:
                    state[target] = True
                    way.append((target, iter(after[target])))
                    break
                if state[target]:
                    back.add((key, target))
            else:
                way.pop()
                state[key] = False
                done.append(key)
    return done[::-1], back


def _layers(order: Sequence[K], forward: Sequence[tuple[K, K]]) -> dict[K, int]:
    """Each right of all that lead to it, and what nothing leads to right before what it leads to; no layer is empty."""
    before: dict[K, list[K]] = {key: [] for key in order}
    after: dict[K, list[K]] = {key: [] for key in order}
    for source, target in forward:
        before[target].append(source)
        after[source].append(target)
    found: dict[K, int] = {}
    for key in order:
        found[key] = max((found[it] + 1 for it in before[key]), default=0)
    for key in order:
        if not before[key] and after[key]:
            found[key] = min(found[it] for it in after[key]) - 1
    numbers = {layer: n for n, layer in enumerate(sorted(set(found.values())))}
    return {key: numbers[layer] for key, layer in found.items()}


def _filled(places: Mapping[K, Place[K]], forward: Sequence[tuple[K, K]], hubs: Collection[K]) -> list[list[Place[K]]]:
    """The layers, with a place in each for the links that pass it."""
    layers: list[list[Place[K]]] = [[] for _ in range(max((it.layer for it in places.values()), default=-1) + 1)]
    for place in places.values():
        layers[place.layer].append(place)
    passing: dict[tuple[K, bool, int], Place[K]] = {}

    def passes(hub: K, leaving: bool, layer: int) -> Place[K]:
        if (hub, leaving, layer) not in passing:
            passing[hub, leaving, layer] = Place(key=None, layer=layer)
            layers[layer].append(passing[hub, leaving, layer])
        return passing[hub, leaving, layer]

    for source, target in forward:
        leaving = source in hubs
        hub = source if leaving else target
        between = [passes(hub, leaving, n) for n in range(places[source].layer + 1, places[target].layer)]
        way = [places[source], *between, places[target]]
        for one, next_one in pairwise(way):
            if next_one not in one.after:
                one.after.append(next_one)
                next_one.before.append(one)
    return layers


def _order(layers: list[list[Place[K]]]) -> None:
    """Sort each by its neighbours, to and fro, and keep what crosses least."""
    best, least = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(SWEEPS):
        if not least:
            break
        for n in range(1, len(layers)) if sweep % 2 == 0 else range(len(layers) - 2, -1, -1):
            beside = layers[n - 1] if sweep % 2 == 0 else layers[n + 1]
            at = {place: float(k) for k, place in enumerate(beside)}
            own = {place: float(k) for k, place in enumerate(layers[n])}
            wanted = {it: _mean(it.before if sweep % 2 == 0 else it.after, at, own[it]) for it in layers[n]}
            layers[n].sort(key=wanted.__getitem__)
        if (crossings := _crossings(layers)) < least:
            best, least = [list(layer) for layer in layers], crossings
    layers[:] = best


def _mean(beside: Sequence[Place[K]], at: Mapping[Place[K], float], otherwise: float) -> float:
    return fmean(at[it] for it in beside) if beside else otherwise


def _crossings(layers: Sequence[Sequence[Place[K]]]) -> int:
    found = 0
    for layer, following in pairwise(layers):
        at = {place: n for n, place in enumerate(following)}
        seen: list[int] = []
        for place in layer:
            ends = [at[it] for it in place.after]
            found += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return found


def _settle(layers: Sequence[Sequence[Place[K]]]) -> None:
    """Give each its height: the mean of its neighbours', as near as the others in its layer let it."""
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            sides = [(it.before or it.after) if sweep % 2 == 0 else (it.after or it.before) for it in layer]
            _spread(layer, [fmean(it.middle for it in side or [one]) for one, side in zip(layer, sides, strict=True)])
    top = min((it.middle - it.height / 2 for layer in layers for it in layer), default=0)
    for layer in layers:
        for place in layer:
            place.middle -= top


def _spread(layer: Sequence[Place[K]], wanted: Sequence[float]) -> None:
    """The heights nearest to those ``wanted`` (least squares) that keep the order and the space between."""
    offsets = [0.0]
    for one, next_one in pairwise(layer):
        offsets.append(offsets[-1] + (one.height + next_one.height) / 2 + SPACE)
    groups: list[tuple[float, int]] = []  # sum and number of those that stand as close as can be
    for height, offset in zip(wanted, offsets, strict=False):
        total, count = height - offset, 1
        while groups and groups[-1][0] / groups[-1][1] > total / count:
            total, count = total + groups[-1][0], count + groups[-1][1]
            groups.pop()
        groups.append((total, count))
    at = [total / count for total, count in groups for _ in range(count)]
    for place, offset, begin in zip(layer, offsets, at, strict=False):
        place.middle = begin + offset
