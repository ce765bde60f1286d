"""Kubernetes' quantities, as ``512Mi`` and ``500m``."""

from __future__ import annotations

import re
from fractions import Fraction

_SUFFIXES = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)}
_SUFFIXES |= {name: Fraction(1000**power) for power, name in enumerate("kMGTPE", 1)}
_SUFFIXES |= {f"{name}i": Fraction(1024**power) for power, name in enumerate("KMGTPE", 1)}


def number(text: str | int | float) -> Fraction:
    """How much it is, in its unit (bytes, cores)."""
    found = re.fullmatch(r"([+-]?[\d.]+)([eE][+-]?\d+)?([numkMGTPEKi]*)", str(text))
    assert found is not None, text
    return Fraction(found[1] + (found[2] or "")) * _SUFFIXES[found[3]]


def written(amount: Fraction) -> str:
    """As the API server writes it: whole numbers by the largest suffix that fits, others in thousandths."""
    if amount.denominator != 1:
        return f"{int(amount * 1000)}m"
    for name in ("Gi", "Mi", "Ki"):
        if amount and amount % _SUFFIXES[name] == 0:
            return f"{amount / _SUFFIXES[name]}{name}"
    return str(amount)
