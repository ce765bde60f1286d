"""What a run of a kit has to say besides passed and failed: the sentence of each rule, and which were not tested."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any

import pytest

from ion_core.pages import pages_directory
from ion_core.words import counted

_RULE = re.compile(r"^- \*\*`(\w+)`\*\* (.+)$", re.MULTILINE)


@cache
def sentences() -> Mapping[tuple[str, str], str]:
    """By page of ``docs/contracts`` and rule, what the rule says; none where ion-core was packed without its pages."""
    directory = pages_directory()
    if directory is None:
        return {}
    return {
        (page.stem, rule): sentence
        for page in directory.glob("contracts/*.md")
        for rule, sentence in _RULE.findall(page.read_text(encoding="utf-8"))
    }


def sentence_of(rule: str, page: str) -> str:
    """What the rule of that page says, and where that stands."""
    said = sentences().get((page, rule))
    return f"docs/contracts/{page}.md: {rule}" + ("" if said is None else f": {said}")


def telling(test: Callable[..., Any], rule: str, page: Callable[[Any], str]) -> Callable[..., Any]:
    """The test, whose failure shows the sentence of its rule; ``page`` is given the instance of the kit."""

    @wraps(test)
    async def told(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            await test(self, *args, **kwargs)
        except Exception as error:
            error.add_note(f"The rule: {sentence_of(rule, page(self))}")
            raise

    return told


class NotTested:
    """A pytest plugin: it says at the end how many rules of each kit were tested, and which were not.

    It is registered by the first test of a kit that runs, in the process that does. Under pytest-xdist each of those
    hands on what it knows when it ends, and the one that has a terminal says it of all of them.
    """

    NAME = "ion-core-rules-not-tested"

    def __init__(self) -> None:
        self._kits: dict[str, tuple[set[str], dict[str, str]]] = {}
        self._tested: set[tuple[str, str]] = set()
        self._left_out: dict[tuple[str, str], str] = {}
        self._crashed = False

    @classmethod
    def of(cls, config: pytest.Config) -> NotTested:
        found = config.pluginmanager.get_plugin(cls.NAME)
        if found is None:
            config.pluginmanager.register(found := cls(), cls.NAME)
        assert isinstance(found, cls)
        return found

    def add(self, node_id: str, rules: set[str], ruled_out: Mapping[str, str]) -> None:
        """``node_id`` is that of the class; ``ruled_out`` are rules, each with why. Again it changes nothing."""
        self._kits[node_id] = rules, dict(ruled_out)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kit, _, test = report.nodeid.rpartition("::")
        rule = test.partition("[")[0].removeprefix("test_")
        if hasattr(report, "wasxfail"):
            self._left_out[kit, rule] = "xfail"
        elif report.skipped:
            self._left_out[kit, rule] = "skipped"
        elif report.when == "call" or report.failed:
            self._tested.add((kit, rule))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if (handed_on := getattr(session.config, "workeroutput", None)) is not None:
            handed_on[self.NAME] = {  # as much as execnet takes
                "kits": [(kit, sorted(rules), ruled_out) for kit, (rules, ruled_out) in self._kits.items()],
                "tested": sorted(self._tested),
                "left out": [(kit, rule, why) for (kit, rule), why in self._left_out.items()],
            }

    def add_all_of(self, handed_on: Mapping[str, Any] | None) -> None:
        """What another process has handed on; None of one that crashed."""
        if handed_on is None:
            self._crashed = True
            return
        for kit, rules, ruled_out in handed_on["kits"]:
            self.add(kit, set(rules), ruled_out)
        self._tested |= {(kit, rule) for kit, rule in handed_on["tested"]}
        self._left_out |= {(kit, rule): why for kit, rule, why in handed_on["left out"]}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        nobody = "that nobody asked for" + (", or that a process had which crashed" if self._crashed else "")
        for kit, (rules, ruled_out) in sorted(self._kits.items()):
            left_out = ruled_out | {rule: why for (of, rule), why in self._left_out.items() if of == kit}
            tested = {rule for of, rule in self._tested if of == kit} - left_out.keys()
            others = len(rules) - len(tested) - len(left_out)
            said = [f"{rule} ({why})" for rule, why in sorted(left_out.items())]
            said += [f"{counted(others, 'rule')} {nobody}"] if others else []
            line = f"{kit.rpartition('::')[2]}: {len(tested)} of {counted(len(rules), 'rule')}"
            terminalreporter.write_line(line + (f", not tested: {', '.join(said)}" if said else ""))


class _Ended:
    """Hears of each of pytest-xdist's processes that has ended."""

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        handed_on = getattr(node, "workeroutput", {NotTested.NAME: None})
        if NotTested.NAME in handed_on:
            NotTested.of(node.config).add_all_of(handed_on[NotTested.NAME])


def pytest_configure(config: pytest.Config) -> None:
    """pytest loads this file as a plugin: where the terminal is, none of pytest-xdist's kits would import it."""
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Ended())
