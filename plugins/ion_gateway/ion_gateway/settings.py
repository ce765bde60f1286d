"""Settings of the services."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ion_core.contracts.looking import PlannedView
from ion_core.contracts.settings import Duration, Settings, StatePath
from ion_core.events import type_problem
from ion_gateway.plans import Cron, Every, Plan, coming, cron_problem, zone_problem

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"must be 1 to 63 lower-case letters, digits and hyphens, no hyphen first or last (got {name!r})"
        )
    return name


def checked_type(value: str) -> str:
    if problem := type_problem(value):
        raise ValueError(problem)
    return value


class Planned(Settings):
    """One schedule: when, and the event that is published then."""

    cron: str | None = Field(None, description="Minute, hour, day of the month, month, day of the week.")
    every: Duration | None = Field(None, description="An interval, counted from midnight UTC of 1 January 1970.")
    zone: str = Field("UTC", description="The time zone that cron is meant in, such as Europe/Berlin.")
    type: Annotated[str, AfterValidator(checked_type)] = Field(
        description="The event's type.", examples=["photo.received"]
    )
    data: dict[str, str] = Field(default={}, description="Its pairs. The planned time is added as plannedTime.")
    missed: Literal["skip", "last", "all"] = Field(
        "skip", description="What of that which fell due while nobody ran, or the machine slept, is published after."
    )

    @field_validator("cron")
    @classmethod
    def _can_fire(cls, value: str | None) -> str | None:
        if value is not None and (problem := cron_problem(value)):
            raise ValueError(problem)
        return value

    @field_validator("every")
    @classmethod
    def _not_too_often(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(seconds=1):
            raise ValueError("must be at least 1s")
        return value

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str) -> str:
        if problem := zone_problem(value):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _one_of_them(self) -> Planned:
        if (self.cron is None) == (self.every is None):
            raise ValueError("cron or every is required, and only one of them")
        if self.every is not None and "zone" in self.model_fields_set:
            raise ValueError("zone is for cron: every counts from a moment that is the same everywhere. Leave it out")
        return self

    @property
    def plan(self) -> Plan:
        if self.every is not None:
            return Every(self.every)
        assert self.cron is not None
        return Cron(self.cron, self.zone)


class ScheduleSettings(Settings):
    """Events at planned times."""

    schedules: dict[Annotated[str, AfterValidator(checked_name)], Planned] = Field(
        description="What is planned, each under a name of your own.", min_length=1
    )
    path: StatePath = Field(Path("planned.json"), description="Where the latest planned times are noted.")

    def planned(self, after: datetime, count: int) -> Sequence[PlannedView]:
        """The coming times of each schedule, ``count`` of each."""
        return [
            PlannedView(
                service=self.section.name or "schedule", name=name, type=it.type, times=coming(it.plan, after, count)
            )
            for name, it in self.schedules.items()
        ]

    def publishes(self) -> dict[str, str]:
        """Each type that will be published, by its key in these settings."""
        return {f"schedules.{name}.type": planned.type for name, planned in self.schedules.items()}
