"""When something is planned: by a cron expression in a time zone, or every so often. Times are aware, in UTC."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_NAMES = {3: _MONTHS, 4: ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]}
_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELD = re.compile(r"[A-Za-z0-9,*/-]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Plan(Protocol):
    """What is planned, for ever."""

    def after(self, moment: datetime) -> datetime:
        """The first planned time later than ``moment``, both in UTC."""


@dataclass(frozen=True)
class Every:
    """Every whole multiple of ``interval`` since 1970 in UTC: the same times in every process."""

    interval: timedelta

    def after(self, moment: datetime) -> datetime:
        return _EPOCH + ((moment - _EPOCH) // self.interval + 1) * self.interval


@dataclass(frozen=True)
class Cron:
    """As Debian's cron means it: where both days are restricted, either will do.

    When clocks are set forward, what falls into the hour that is left out is planned for the moment after it; when they
    are set back, what falls into the hour that comes twice is planned once. Only what is planned for every hour is
    planned in each.
    """

    expression: str
    zone: str

    def after(self, moment: datetime) -> datetime:
        found: datetime = next(CronSim(self.expression, moment.astimezone(ZoneInfo(self.zone))))
        return found.astimezone(UTC)


def between(plan: Plan, after: datetime, until: datetime) -> Iterator[datetime]:
    """The planned times later than ``after``, up to ``until``."""
    while (time := plan.after(after)) <= until:
        yield time
        after = time


def coming(plan: Plan, after: datetime, count: int) -> list[datetime]:
    """The first ``count`` planned times later than ``after``."""
    times: list[datetime] = []
    while len(times) < count:
        times.append(plan.after(times[-1] if times else after))
    return times


def cron_problem(expression: str) -> str:
    """What is wrong with it, or ''. Five fields of numbers, names, ``,``, ``-``, ``*`` and ``/``; no other dialect."""
    fields = expression.split()
    if len(fields) == 1 and (same := _SHORT.get(expression.strip().lower())):
        return f'{expression.strip()} is written as "{same}"'
    if fields[:1] == ["@every"]:
        return f"an interval is the key every, in place of cron: every: {' '.join(fields[1:]) or '1h'}"
    if len(fields) == len(FIELDS) + 1:
        return f"must have five fields: {', '.join(FIELDS)} (got 6). Leave out what stands for seconds, or years"
    if len(fields) != len(FIELDS):
        return f"must have five fields: {', '.join(FIELDS)} (got {len(fields)})"
    for position, (what, field) in enumerate(zip(FIELDS, fields, strict=True)):
        names = _NAMES.get(position, [])
        words = re.findall(r"[A-Za-z]+", field)
        if not _FIELD.fullmatch(field) or any(word.lower() not in names for word in words):
            allowed = "numbers" + (f", {names[0]} to {names[-1]}" if names else "")
            return f"{what}: {field!r}: only {allowed}, and the signs , - * / are known"
        if re.search(r"(?<![-\d])\d+/", field):
            return f"{what}: {field!r}: a step goes with * or a range. Write it with its last number, such as 5-59/15"
    try:
        next(CronSim(expression, datetime.now(UTC)))
    except CronSimError as error:
        return f"{expression!r}: {error}, or a day that its month never has"
    return ""


def zone_problem(zone: str) -> str:
    """What is wrong with it, or ''."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(zone, available_timezones(), n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Use one such as Europe/Berlin."
        return f"no time zone called {zone[:80]!r}. {hint}"
    return ""
