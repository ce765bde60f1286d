"""How pages say things: times with their zone, sizes with their unit, ids short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from urllib.parse import quote, urlencode

from markupsafe import Markup

from ion_core.contracts.looking import FlowState, FlowSummary
from ion_core.words import in_seconds
from ion_core.words import size as size

STATES: dict[FlowState, tuple[str, str]] = {
    "running": ("run", "running"),
    "dead": ("bad", "dead letters"),
    "failed": ("wait", "to be tried again"),
    "done": ("ok", "done"),
}
"""How a flow stands: its mark, which the style gives a shape and a colour, and words."""
ENDS, ENDS_IN = 12, 4_000
"""Lines and characters of the end of a log."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def moment(time: datetime | None) -> Markup:
    """How long ago, with the whole time in UTC to be read when pointed at; a script counts on."""
    if time is None:
        return Markup("–")
    iso = time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    template = Markup('<time datetime="{}" title="{}">{} ago</time>')
    return template.format(iso, said, duration((datetime.now(UTC) - time).total_seconds()))


def exact(time: datetime | None) -> Markup:
    """In UTC, to the second."""
    if time is None:
        return Markup("–")
    utc = time.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(utc.isoformat(), f"{utc:%Y-%m-%d %H:%M:%S} UTC")


def duration(seconds: float | timedelta) -> str:
    """Roughly, in the largest unit of which there is one."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    whole = max(int(seconds), 0)
    for unit, name in _UNITS:
        if whole >= unit:
            return f"{whole // unit} {name}"
    return "0 s"


def took(begun: datetime | None, ended: datetime | None) -> str:
    """With its unit; empty where it is not known."""
    return "" if begun is None or ended is None else f"{in_seconds((ended - begun).total_seconds())} s"


def short(id: str) -> str:
    return id if len(id) <= 12 else f"{id[:8]}…"


def segment(text: str) -> str:
    """As one segment of a path; half a surrogate pair is no text, and is replaced."""
    return quote(text, safe="", errors="replace")


def asking(asked: Mapping[str, str | int]) -> str:
    """As the query of an address."""
    return urlencode(asked, errors="replace")


def title(flow: FlowSummary) -> str:
    """What it began with, in a few words."""
    brings = [PurePosixPath(it).name or it for it in flow.files[:1]] + [
        f"{key}={value}" for key, value in flow.data[:2]
    ]
    more = len(flow.files) - 1
    if more > 0:
        brings.insert(1, f"{more:,} more")
    return " · ".join(it[:80] for it in brings)


def jobs_in_short(flow: FlowSummary) -> str:
    """As ``7 jobs, 1 dead``."""
    count = sum(flow.jobs.values())
    said = [f"{count:,} job{'' if count == 1 else 's'}"]
    for state, name in (("dead-lettered", "dead"), ("retried", "to be tried again"), ("gone", "of nobody")):
        if flow.jobs.get(state):
            said.append(f"{flow.jobs[state]:,} {name}")
    span = took(flow.started_at, flow.finished_at)
    return ", ".join([*said, *([span] if span and len(said) == 1 else [])])


def ends(log: str) -> str:
    """The last lines of a log, without what is around the module's where that says nothing."""
    lines = log[-ENDS_IN:].rstrip().split("\n")
    return "\n".join(lines[-ENDS:])


def pairs(some: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{key}={value}" for key, value in some]
