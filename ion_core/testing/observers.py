"""The observer kit: ``docs/contracts/observers.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pluggy
import pytest

from ion_core.contracts.provider import Kind, Offer
from ion_core.events import Context, Event, checked_traceparent
from ion_core.jobs import Attempt, Job, Outcome, StepTime, Verdict
from ion_core.registry import LoadedPlugin, load_plugins
from ion_core.testing.kit import Conformance, needs, undeclared
from ion_core.testing.provider import SECTION, ProviderConformance, secrets_of

OF_PROVIDERS = (
    "a_name_is_lower_case",
    "the_contract_is_of_our_major_version",
    "the_contract_is_no_newer_than_ours",
    "unknown_settings_are_refused",
    "settings_can_be_described",
    "what_can_be_opened_has_no_errors",
    "settings_know_their_section",
    "modules_that_settings_name_are_told",
    "unfit_shows_no_value",
)
"""The rules of providers that are about settings alone."""

FIRST = Event(context=Context(name="gateway", event_id="e-1", correlation_id="c-1"), type="photo.received")
CHILD = Event(
    context=Context(name="detect", event_id="e-2", correlation_id="c-1", parent_event_id="e-1"),
    type="face.detected",
    data=(("name", "grüß Gott 🙂"), ("name", ""), ("x" * 200, "y" * 2_000 + "\n\x00")),
    files=("photo.jpg", "a b/ö.txt"),
    hops=1,
    documented=True,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
OF_OTHERS = Event(context=Context(name="", event_id="x" * 1024, correlation_id="../%s {}"), type="a")
STEPS = (
    StepTime(name="prepare", begun=0.0, seconds=0.5),
    StepTime(name="module", begun=0.5, seconds=90_000.0),
    StepTime(name="commit", begun=90_000.5, seconds=0.0),
)
OUTCOMES = (
    Outcome(verdict=Verdict.COMMITTED, seconds=90_001.0, children=2, steps=STEPS),
    *(Outcome(verdict=it, reason=f"why: {it.value}", rule="its-rule", seconds=0.1) for it in Verdict),
    Outcome(verdict=Verdict.DEAD_LETTERED, reason="exit code 1\n%s {} 🙂 \x1b[31m" + "x" * 2_000, steps=STEPS[:2]),
)

Call = tuple[str, Mapping[str, Any]]


class ObserverConformance(Conformance):
    """Every rule of the observer contract. Subclass it, give it the fixture and the hook::

        class TestMyObserver(ObserverConformance):
            @pytest.fixture
            def observer(self):
                return my_plugin                    # the module that the entry point names, or what stands for it

            def section(self, tmp_path):            # None where it takes no settings
                return {"path": str(tmp_path / "told.jsonl")}

    ``patience``  seconds that a call may take (5: the contract's bound).
    """

    contract = "observers"
    patience = 5.0
    section: Callable[..., Mapping[str, Any]] | None = undeclared(
        "section", "def section(self, tmp_path): settings it can observe with, as in the configuration"
    )

    def settings(self, plugin: LoadedPlugin, tmp_path: Path) -> Any:
        """New ones, equal to those before; None where it takes none."""
        if self.section is None:
            return None
        return _offer(plugin).settings.model_validate(
            {**self.section(tmp_path)}, context={"section": SECTION, "state": tmp_path, "base": tmp_path}
        )

    async def told(self, plugin: LoadedPlugin, calls: Sequence[Call], settings: Callable[[], Any]) -> None:
        """Call the hooks that it has, one after the other, on a thread each, as nobody is to wait for one."""
        for hook, arguments in calls:
            if getattr(plugin.hooks.hook, hook).get_hookimpls():
                given = {**arguments, "at": datetime.now(UTC), "settings": settings()}
                await self.within(_on_a_thread(plugin.hooks, hook, given), f"{hook} returns")

    @needs("section")
    async def test_its_settings_keep_the_rules_of_providers(self, observer: object, tmp_path: Path) -> None:
        offer = _offer(_loaded(observer))
        kit = type("Settings", (ProviderConformance,), {"section": self.section})()
        for rule in OF_PROVIDERS:
            test, given = getattr(kit, f"test_{rule}"), {"provider": offer, "tmp_path": tmp_path}
            await test(**{name: given[name] for name in inspect.signature(test).parameters})

    async def test_it_raises_nothing_whatever_it_is_told(self, observer: object, tmp_path: Path) -> None:
        plugin = _loaded(observer)
        settings = self.settings(plugin, tmp_path)
        await self.told(plugin, [_beginning(tmp_path), *_work(), _END], lambda: settings)

    async def test_it_needs_no_beginning(self, observer: object, tmp_path: Path) -> None:
        plugin = _loaded(observer)
        settings = self.settings(plugin, tmp_path)
        await self.told(plugin, _work(), lambda: settings)

    @needs("section")
    async def test_it_goes_on_with_other_settings(self, observer: object, tmp_path: Path) -> None:
        plugin = _loaded(observer)
        await self.told(
            plugin, [_beginning(tmp_path), *_work(), _END], settings=lambda: self.settings(plugin, tmp_path)
        )

    @needs("section")
    async def test_it_shows_nothing_secret(self, observer: object, tmp_path: Path) -> None:
        plugin = _loaded(observer)
        settings = self.settings(plugin, tmp_path)
        with _shown() as shown:
            await self.told(plugin, [_beginning(tmp_path), *_work(), _END], lambda: settings)
        found = [name for name, secret in secrets_of(settings) if secret in shown.getvalue()]
        assert not found, f"what it logs or prints shows what is secret: {found}"

    async def test_what_it_says_of_a_span_is_a_traceparent(self, observer: object, tmp_path: Path) -> None:
        plugin = _loaded(observer)
        settings = self.settings(plugin, tmp_path)
        for event in (FIRST, CHILD, OF_OTHERS):
            attempt = Attempt(job=Job(event=event, module="detect"), number=1)
            answers = await self.within(
                _on_a_thread(plugin.hooks, "ion_traceparent", {"attempt": attempt, "settings": settings}),
                "ion_traceparent returns",
            )
            for said in answers:
                assert isinstance(said, str), f"a traceparent, or None: {said!r}"
                assert checked_traceparent(said), f"no traceparent of W3C Trace Context: {said[:80]!r}"


_END: Call = ("ion_serve_stopped", {})


def _beginning(tmp_path: Path) -> Call:
    (state := tmp_path / "state").mkdir(exist_ok=True)
    return "ion_serve_started", {"state": state, "modules": ["detect", "m-2"]}


def _work() -> list[Call]:
    """What dispatchers and commands tell, of each kind some: also twice, as after a crash, and out of their order."""
    calls: list[Call] = [("ion_event_published", {"event": it}) for it in (FIRST, FIRST, CHILD, OF_OTHERS)]
    for number, outcome in enumerate(OUTCOMES, 1):
        event = (FIRST, CHILD, OF_OTHERS)[number % 3]
        attempt = Attempt(job=Job(event=event, module="detect"), number=number)
        calls += [
            ("ion_job_started", {"attempt": attempt}),
            ("ion_job_finished", {"attempt": attempt, "outcome": outcome}),
        ]
        if outcome.verdict is Verdict.DEAD_LETTERED:
            calls.append(("ion_job_dead_lettered", {"attempt": attempt, "outcome": outcome}))
    never_started = Attempt(job=Job(event=CHILD, module="detect"), number=1)
    return [*calls, ("ion_job_finished", {"attempt": never_started, "outcome": OUTCOMES[0]})]


def _loaded(observer: object) -> LoadedPlugin:
    registry = load_plugins(extra=[observer], entry_points=False)
    for broken in registry.broken:
        pytest.fail(f"it cannot be used: {broken.cause}")
    (plugin,) = (it for it in registry.loaded if it.entry_point != "embedded")
    return plugin


def _offer(plugin: LoadedPlugin) -> Offer:
    found = plugin.providers[Kind.OBSERVER]
    assert found, "ion_observer_settings registers none: section = None says so"
    return found[0]


async def _on_a_thread(hooks: pluggy.PluginManager, hook: str, arguments: Mapping[str, Any]) -> list[Any]:
    """What it returns; an assertion of what it raises. A thread that hangs is left behind."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    answers: list[Any] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            answers.extend(getattr(hooks.hook, hook)(**arguments))
        except BaseException as error:
            raised.append(error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=call, name=f"kit-{hook}", daemon=True).start()
    await done.wait()
    if raised:
        raise AssertionError(f"{hook}: raised {type(raised[0]).__name__}: {raised[0]}") from raised[0]
    return answers


@contextmanager
def _shown() -> Iterator[io.StringIO]:
    """What is logged, at any level, and printed meanwhile."""
    text = io.StringIO()
    handler, root = logging.StreamHandler(text), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with redirect_stdout(text), redirect_stderr(text):
            yield text
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
