"""Quantities as Kubernetes writes them: ``500m``, ``1Gi``, ``2e3``."""

from __future__ import annotations

import re
from decimal import Decimal

_FORM = re.compile(r"([+-]?[0-9.]+)(?:([eE][+-]?[0-9]+)|([KMGTPE]i|[numkMGTPE]))?")
_UNITS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(10**3), "M": Decimal(10**6)}
_UNITS |= {"G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18)}
_UNITS |= {f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", 1)}


def quantity(text: str) -> Decimal:
    """Raises ValueError for what is none."""
    found = _FORM.fullmatch(text)
    if found is None or found[1].count(".") > 1 or not any(map(str.isdigit, found[1])):
        raise ValueError(f"{text!r} is no quantity")
    number = Decimal(found[1] + (found[2] or ""))
    return number * _UNITS[found[3]] if found[3] else number
