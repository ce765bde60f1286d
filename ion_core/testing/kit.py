"""What the kits share: hooks a subclass supplies or declares absent, and bounded waits that explain themselves."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NoReturn, TypeVar

import pytest

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

    return missing


@pytest.mark.asyncio
class Conformance:
    """Base of the kits. ``patience`` is how long to wait for what must happen, ``quiet`` for what must not; seconds."""

    patience: ClassVar[float] = 10.0
    quiet: ClassVar[float] = 0.3
    _needing: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._needing = {name: rule for name, rule in vars(cls).items() if hasattr(rule, "needs_hook")}
        for base in cls.__mro__[1:]:
            cls._needing = vars(base).get("_needing", {}) | cls._needing
        for name, rule in cls._needing.items():
            setattr(cls, name, rule if getattr(cls, rule.needs_hook) else None)  # pytest collects functions only

    @staticmethod
    def fresh(what: str) -> str:
        """A name nothing else uses, also in a backend that other tests share."""
        return f"{what}-{uuid.uuid4().hex[:12]}"

    async def within(self, awaitable: Awaitable[T], what: str) -> T:
        """Its result, or an assertion that says ``what`` did not happen in time."""
        try:
            async with asyncio.timeout(self.patience) as patience:
                return await awaitable
        except TimeoutError:
            if not patience.expired():
                raise
            raise AssertionError(f"{what}: did not happen within {self.patience:g} s") from None

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
