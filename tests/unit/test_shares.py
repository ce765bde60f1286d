"""How the jobs of modules are shared out among workers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ion_core.app.shares import of_use, shares
from ion_core.modules import Module

MODULES = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=9).map(
    lambda all: [
        Module(name=f"m{n}", command=("true",), subscribes=("a",), concurrency=most, warm=min(most, warm))
        for n, (most, warm) in enumerate(all)
    ]
)


@given(modules=MODULES, workers=st.integers(1, 12))
def test_all_shares_together_are_what_the_modules_allow(modules: list[Module], workers: int) -> None:
    concurrency, warm = Counter[str](), Counter[str]()
    for share in shares(modules, workers):
        for module in share:
            concurrency[module.name] += module.concurrency
            warm[module.name] += module.warm
            assert module.concurrency > 0
            assert module.warm <= module.concurrency, "none is kept warm that is never used"
    assert concurrency == {it.name: it.concurrency for it in modules}
    assert warm == Counter({it.name: it.warm for it in modules})


@given(modules=MODULES, workers=st.integers(1, 12))
def test_no_worker_has_more_to_do_than_another_by_more_than_one(modules: list[Module], workers: int) -> None:
    loads = [sum(module.concurrency for module in share) for share in shares(modules, workers)]
    assert max(loads) - min(loads) <= 1


@given(modules=MODULES, asked=st.integers(1, 99))
def test_as_many_workers_are_of_use_as_have_something_to_do(modules: list[Module], asked: int) -> None:
    count = of_use(modules, asked)
    assert 1 <= count <= asked
    assert not modules or all(shares(modules, count))
