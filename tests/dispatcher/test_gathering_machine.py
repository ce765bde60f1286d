"""Random trees, two dispatchers, death at any call: no gatherer early, none twice, none forgotten."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.gathering import Forest


async def grown(seed: int, flows: int, **how: float) -> Forest:
    forest = Forest(seed, **how)
    await forest.publish(flows)
    await forest.work()
    await forest.settle()
    forest_is_right(forest)
    await forest.mend()
    await forest.work()
    await forest.settle()
    forest_is_right(forest)
    return forest


def forest_is_right(forest: Forest) -> None:
    assert forest.truth.early == []
    assert forest.truth.wrong == []
    assert forest.double() == []
    assert forest.forgotten() == []


@pytest.mark.timeout(600)
def test_never_early_never_twice_never_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    """What it has seen is counted: with nothing gathered, and nobody dead, it would have shown nothing."""
    counts = dict.fromkeys(("trees", "jobs", "deaths", "gathered"), 0)

    @settings(max_examples=500, deadline=None)
    @example(seed=6945571, flows=1, deadly=0.0, fails=0.2, lists_late=0.0)  # decided while another looked
    @example(seed=85445, flows=2, deadly=0.0, fails=0.5, lists_late=0.0)  # what was redriven just now has made more
    @given(seed=st.integers(0, 1 << 32), flows=st.integers(1, 3), deadly=st.sampled_from([0.0, 0.01, 0.05]),
           fails=st.sampled_from([0.0, 0.2, 0.5]), lists_late=st.sampled_from([0.0, 0.5]))  # fmt: skip
    def holds(seed: int, flows: int, deadly: float, fails: float, lists_late: float) -> None:
        forest = asyncio.run(grown(seed, flows, deadly=deadly, fails=fails, lists_late=lists_late))
        counts["trees"] += flows
        counts["jobs"] += len(forest.truth.made)
        counts["deaths"] += forest.deaths
        counts["gathered"] += len(forest.truth.decided)

    holds()
    with capsys.disabled():
        print(f"\ngathering: {counts}, 0 early, 0 double, 0 forgotten")
    assert counts["gathered"] > 500
    assert counts["deaths"] > 100
