"""The keys of a case.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ion_core.cases.comparing import ABSOLUTE, KINDS, RELATIVE
from ion_core.config.model import EventType, Number
from ion_core.contracts.settings import Settings


def _short(value: Any) -> Any:
    """``json`` is ``{by: json}``."""
    return {"by": value} if isinstance(value, str) else value


def _pattern(text: str) -> str:
    if not text.startswith(tuple(f"{kind}/" for kind in KINDS)):
        raise ValueError('must start with "data/", "insights/" or "events/", such as data/*.json')
    return text


class ComparisonSettings(Settings):
    """How one output is compared."""

    by: Literal["bytes", "json", "any"] = Field(description="bytes, json or any.")
    relative: Number = Field(default=RELATIVE, ge=0, description="json: share by which numbers may differ.")
    absolute: Number = Field(default=ABSOLUTE, ge=0, description="json: amount by which numbers may differ.")


class CaseSettings(Settings):
    """The whole file."""

    event: EventType = Field(description="The type of the event that the module is given.")
    compare: dict[Annotated[str, AfterValidator(_pattern)], Annotated[ComparisonSettings, BeforeValidator(_short)]] = (
        Field(default={}, description="How outputs are compared that fit a pattern; the first that fits counts.")
    )
