"""What the kits share: hooks a subclass supplies or declares absent, and bounded waits that explain themselves."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar, NoReturn, TypeVar

import pytest

from ion_core.testing.told import NotTested, telling

T = TypeVar("T")
Rule = TypeVar("Rule", bound=Callable[..., Any])


def needs(hook: str) -> Callable[[Rule], Rule]:
    """The rule can only be tested where the class attribute ``hook`` is neither None nor False."""

    def mark(rule: Rule) -> Rule:
        rule.needs_hook = hook  # type: ignore[attr-defined]
        return rule

    return mark


def undeclared(hook: str, does: str) -> Callable[..., Any]:
    """Stands where a subclass has to supply ``hook``: nothing is skipped because somebody forgot it."""

    def missing(self: object, *args: object) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__}.{hook}: is missing. Define it ({does}), or where the backend cannot: {hook} = None"
        )

    missing.stands_for_hook = True  # type: ignore[attr-defined]
    return missing


_FRESH = re.compile(r"[^-].*?-[0-9a-f]{12}")
_made: set[str] = set()
"""Names that kits of this process have made up."""


@pytest.mark.asyncio
class Conformance:
    """Base of the kits. ``patience`` is how long to wait for what must happen, ``quiet`` for what must not; seconds.

    ``contract`` is the name of its page. A rule is a test of a class in ``ion_core.testing``; a subclass has hooks and
    tests of its own, and no test by the name of a rule: that one fails, so that no kit shrinks without a word.
    """

    contract: ClassVar[str] = ""
    patience: ClassVar[float] = 10.0
    quiet: ClassVar[float] = 0.3
    _needing: ClassVar[dict[str, Any]] = {}
    _overridden: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if _is_ours(cls):
            for name, test in [(name, it) for name, it in vars(cls).items() if name.startswith("test_")]:
                setattr(cls, name, telling(test, name.removeprefix("test_"), lambda kit: kit.contract))
        cls._overridden = {} if _is_ours(cls) else {**cls._overridden, **_overridden(cls)}
        cls._needing = {name: rule for name, rule in vars(cls).items() if hasattr(rule, "needs_hook")}
        for base in cls.__mro__[1:]:
            cls._needing = vars(base).get("_needing", {}) | cls._needing
        for name, rule in cls._needing.items():
            setattr(cls, name, rule if getattr(cls, rule.needs_hook) else None)  # pytest collects functions only
        for name, by in cls._overridden.items():
            setattr(cls, name, _overriding(name, by))

    @classmethod
    def rules(cls) -> set[str]:
        """The names of all rules of the kit, those that hooks rule out among them."""
        ours = (vars(base) for base in cls.__mro__ if _is_ours(base))
        return {name.removeprefix("test_") for names in ours for name in names if name.startswith("test_")}

    @classmethod
    def hooks(cls) -> set[str]:
        """The names of all hooks, those that are supplied among them."""
        bases = (vars(base) for base in cls.__mro__)
        return {name for names in bases for name, value in names.items() if hasattr(value, "stands_for_hook")}

    @classmethod
    def ruled_out(cls) -> Mapping[str, str]:
        """Rules that need a hook which is None (or False), each with that hook as it is written."""
        hooks = {name: rule.needs_hook for name, rule in cls._needing.items()}
        return {
            name.removeprefix("test_"): f"{hook} = {getattr(cls, hook)}"
            for name, hook in hooks.items()
            if not getattr(cls, hook)
        }

    @pytest.fixture(autouse=True)
    def _says_what_is_not_tested(self, request: pytest.FixtureRequest) -> None:
        kit, _, _ = request.node.nodeid.rpartition("::")
        NotTested.of(request.config).add(kit, self.rules(), self.ruled_out())

    @staticmethod
    def fresh(what: str) -> str:
        """A name nothing else uses, also in a backend that other tests share."""
        _made.add(name := f"{what}-{uuid.uuid4().hex[:12]}")
        return name

    @staticmethod
    def is_made_up(name: str) -> bool:
        """Whether ``fresh`` of this process has made it, however it was made longer."""
        found = _FRESH.match(name)
        return found is not None and found[0] in _made

    async def within(self, awaitable: Awaitable[T], what: str, *, later: timedelta = timedelta(0)) -> T:
        """Its result, or an assertion that says ``what`` did not happen in time, or not so much later than that."""
        seconds = self.patience + later.total_seconds()
        try:
            async with asyncio.timeout(seconds) as patience:
                return await awaitable
        except TimeoutError:
            if not patience.expired():
                raise
            raise AssertionError(f"{what}: did not happen within {seconds:g} s") from None

    async def eventually(self, look: Callable[[], Awaitable[T]], good: Callable[[T], bool], what: str) -> T:
        """What ``look`` returns once it is ``good``: for backends whose counts lag behind."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        while True:
            found = await self.within(look(), what)
            if good(found):
                return found
            assert loop.time() < deadline, f"{what}: not within {self.patience:g} s, it is {found!r}"
            await asyncio.sleep(0.01)

    async def a_while(self) -> None:
        """Let ``quiet`` seconds pass: only for what must not happen meanwhile."""
        await asyncio.sleep(self.quiet)

    async def stays_quiet(self, awaitable: Awaitable[object], what: str) -> None:
        """An assertion if ``awaitable``, which is cancelled afterwards, ends within ``quiet`` seconds."""
        task = asyncio.ensure_future(awaitable)
        done, _ = await asyncio.wait({task}, timeout=self.quiet)
        task.cancel()
        await asyncio.wait({task}, timeout=self.patience)
        assert not done, f"{what}: {task.exception() or task.result()!r}"


def _is_ours(kit: type) -> bool:
    return kit.__module__.startswith("ion_core.testing.")


def _overridden(cls: type[Conformance]) -> Mapping[str, str]:
    """Tests in the place of rules, each with the class that has it: of its own, or of a mixin that comes first."""
    found: dict[str, str] = {}
    for name in (f"test_{rule}" for rule in cls.rules()):
        for base in cls.__mro__:
            if base is not cls and issubclass(base, Conformance) and not _is_ours(base):
                continue  # it has told of its own
            if name in vars(base):
                if not _is_ours(base):
                    found[name] = base.__name__
                break
    return found


def _overriding(name: str, by: str) -> Callable[..., Any]:
    async def overridden(self: Conformance) -> NoReturn:
        pytest.fail(
            f"{by}.{name}: stands in the place of a rule of the kit. Call it otherwise; where a backend cannot do what "
            "it takes to test a rule, set the hook to None."
        )

    return overridden


async def many(call: Callable[[T], Awaitable[object]], of: Sequence[T]) -> None:
    """The call for each of them, a few at a time."""
    for start in range(0, len(of), 32):
        await asyncio.gather(*(call(it) for it in of[start : start + 32]))


def in_brief(content: bytes) -> bytes | str:
    """For comparisons of what may be large: on CI, pytest takes minutes to explain how two mebibytes differ."""
    return content if len(content) <= 512 else f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}"


def only(found: Sequence[T]) -> T:
    """The one thing that was to be found."""
    assert len(found) == 1, f"one was expected, found {len(found)}: {found!r}"
    return found[0]


@contextmanager
def refused(
    error: type[Exception] | tuple[type[Exception], ...], *, naming: str = "", of: str = "it"
) -> Iterator[None]:
    """The block must raise ``error`` with ``naming`` in its message; anything else is an assertion about ``of``."""
    expected = error.__name__ if isinstance(error, type) else " or ".join(one.__name__ for one in error)
    try:
        yield
    except error as found:
        if naming not in str(found):
            raise AssertionError(f"{of}: {type(found).__name__} must name {naming!r}, it says: {found}") from found
    except Exception as found:
        raise AssertionError(f"{of}: raised {type(found).__name__}: {found}; expected {expected}") from found
    else:
        raise AssertionError(f"{of}: raised nothing; expected {expected}")
