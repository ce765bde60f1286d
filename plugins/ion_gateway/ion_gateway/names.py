"""Names that settings of more than one service give: of their parts, and of types of events."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from ion_core.events import type_problem

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"must be 1 to 63 lower-case letters, digits and hyphens, no hyphen first or last (got {name!r})"
        )
    return name


def _event_type(value: str) -> str:
    if problem := type_problem(value):
        raise ValueError(problem)
    return value


Named = Annotated[str, AfterValidator(_named)]
EventType = Annotated[str, AfterValidator(_event_type)]
