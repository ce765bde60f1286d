"""Which cases an expression chooses: words that their ids contain, with ``and``, ``or``, ``not`` and parentheses."""

from __future__ import annotations

import re
from collections.abc import Callable

from ion_core.errors import UsageError

_TOKEN = re.compile(r"\s*([()]|[^\s()]+)")

Choice = Callable[[str], bool]


def chooses(expression: str) -> Choice:
    """What says of an id whether it is chosen; upper and lower case are the same. Raises UsageError."""
    return _Parser(expression).whole()


class _Parser:
    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = _TOKEN.findall(expression)

    def whole(self) -> Choice:
        choice = self._any()
        if self._tokens:
            raise self._wrong(f"{self._tokens[0]!r} stands where the expression should end")
        return choice

    def _any(self) -> Choice:
        choice = self._all()
        while self._take("or"):
            choice = _either(choice, self._all())
        return choice

    def _all(self) -> Choice:
        choice = self._one()
        while self._take("and"):
            choice = _both(choice, self._one())
        return choice

    def _one(self) -> Choice:
        if self._take("not"):
            inner = self._one()
            return lambda id: not inner(id)
        if self._take("("):
            choice = self._any()
            if not self._take(")"):
                raise self._wrong('a ")" is missing')
            return choice
        if not self._tokens or self._tokens[0] in ("and", "or", ")"):
            raise self._wrong("a word is missing" + (f" before {self._tokens[0]!r}" if self._tokens else " at its end"))
        word = self._tokens.pop(0).lower()
        return lambda id: word in id.lower()

    def _take(self, token: str) -> bool:
        if self._tokens[:1] != [token]:
            return False
        self._tokens.pop(0)
        return True

    def _wrong(self, text: str) -> UsageError:
        return UsageError(f"-k {self._expression!r}: {text}. Write it as in: detect and not (slow or large)")


def _either(one: Choice, other: Choice) -> Choice:
    return lambda id: one(id) or other(id)


def _both(one: Choice, other: Choice) -> Choice:
    return lambda id: one(id) and other(id)
