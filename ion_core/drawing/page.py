"""A page about one flow, whole in one file: what became of it, to be mailed or kept.

It is made as a tree of elements, so whatever a name, a pair or a log holds stays text. It runs nothing and asks for
nothing: its policy forbids scripts, and everything that is not in the file itself.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from xml.etree.ElementTree import Element, SubElement, tostring

from ion_core.contracts.looking import EventView, FlowView, JobView
from ion_core.drawing.graph import draw
from ion_core.drawing.said import MARKS, STATES, STEPS, last, moment, took
from ion_core.drawing.style import graph_style, page_style
from ion_core.drawing.tree import TROUBLE, Tree
from ion_core.events import StoredFile
from ion_core.words import counted, in_seconds, size

LOGS = 1024 * 1024
"""Characters of logs on one page, those of trouble first."""
PICTURES = 1024 * 1024
"""Bytes of pictures on one page, before they are encoded."""
PAIRS, FILES = 50, 50
"""So many of one job or event are shown; how many more there are is said."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a page shows beside the flow itself.

    ``logs`` and ``images`` by an attempt's token; ``made`` by event and module, ``brought`` by event. ``pictures`` have
    media type and content, by a file's key; ``lost`` why one could not be had.
    """

    logs: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[tuple[str, str], Sequence[StoredFile]] = field(default_factory=dict)
    brought: Mapping[str, Sequence[StoredFile]] = field(default_factory=dict)
    pictures: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)


def report(
    flow: FlowView, beside: Beside | None = None, *, made_at: datetime, shown: Callable[[str], str] = str
) -> bytes:
    """The page, as UTF-8. ``made_at`` has a zone.

    Every text that is not of this room goes through ``shown``, which may hide or escape something in it.
    """
    return _Report(flow, Beside() if beside is None else beside, shown).page(made_at)


class _Report:
    def __init__(self, flow: FlowView, beside: Beside, shown: Callable[[str], str]) -> None:
        self._flow = flow
        self._tree = Tree(flow)
        self._beside = beside
        self._shown = shown
        self._anchors: dict[str | tuple[str, str], str] = {}
        for n, event in enumerate(flow.events):
            self._anchors[event.event_id] = f"event-{n}"
            jobs = enumerate(self._tree.jobs(event))
            self._anchors |= {(event.event_id, job.module): f"job-{n}-{k}" for k, job in jobs}
        self._logs = self._fitting_logs()

    def page(self, made_at: datetime) -> bytes:
        flow = self._flow
        style = page_style() + graph_style()
        html = Element("html", {"lang": "en"})
        head = SubElement(html, "head")
        SubElement(head, "meta", {"charset": "utf-8"})
        SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _policy(style)})
        SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
        SubElement(head, "title").text = f"Ion · flow {self._shown(flow.summary.correlation_id)}"
        SubElement(head, "style").text = style
        body = SubElement(html, "body")
        self._header(body, made_at)
        main = SubElement(body, "main")
        graph = SubElement(main, "div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Graph"})
        graph.append(draw(flow, link=lambda it: f"#{self._anchor(it)}", shown=self._shown))
        SubElement(main, "h2").text = "Jobs and events"
        for event in flow.events:
            self._event(main, event)
            for job in self._tree.jobs(event):
                self._job(main, event, job)
        self._damaged(main)
        written: bytes = tostring(html, encoding="utf-8", method="html")
        return b"<!doctype html>\n" + written + b"\n"

    def _header(self, body: Element, made_at: datetime) -> None:
        flow = self._flow
        header = SubElement(body, "header")
        SubElement(header, "h1").text = self._shown(_title(self._tree.roots))
        states = Counter(job.state for job in flow.jobs)
        trouble = any(states[it] for it in TROUBLE)
        said = [counted(len(flow.events), "event"), counted(states.total(), "job")]
        said += [f"{states[state]:,} {words}" for state, words in STATES.items() if states[state]]
        SubElement(header, "p", {"class": "bad-text"} if trouble else {}).text = " · ".join([*said, *_span(flow)])
        line = SubElement(header, "p", {"class": "dim"})
        line.text = "flow "
        SubElement(line, "code").text = self._shown(flow.summary.correlation_id)
        times = SubElement(header, "p", {"class": "dim"})
        times.text = f"As it stood at {made_at:%Y-%m-%d %H:%M:%S %Z}. A bar is the time of"
        for step in STEPS:
            SubElement(times, "span", {"class": f"key {step}"}).tail = step

    def _event(self, main: Element, event: EventView) -> None:
        details = SubElement(main, "details")
        summary = SubElement(details, "summary")
        summary.text = "event "
        SubElement(summary, "b").text = self._shown(event.type)
        said = [f" from {self._shown(event.name)}" if event.name else "", counted(len(self._tree.jobs(event)), "job")]
        SubElement(summary, "span", {"class": "dim"}).text = " · ".join(said)
        facts = self._facts(details, event)
        _fact(facts, "event id").text = self._shown(event.event_id)
        if event.parent_event_id:
            _fact(facts, "led to by").text = self._shown(event.parent_event_id)
        self._pairs(facts, "pairs", event.data)
        self._files(details, self._beside.brought.get(event.event_id, []), event.files)

    def _job(self, main: Element, event: EventView, job: JobView) -> None:
        details = SubElement(main, "details", {"open": ""} if job.state in TROUBLE else {})
        summary = SubElement(details, "summary")
        SubElement(summary, "span", {"class": f"state {MARKS[job.state]}"})
        SubElement(summary, "b").text = self._shown(job.module)
        counts = last(job)
        said = [STATES[job.state], *([took(counts)] if counts is not None else []), self._shown(event.type)]
        SubElement(summary, "span", {"class": "dim"}).text = " · ".join(["", *filter(None, said)])
        facts = self._facts(details, job)
        _fact(facts, "event id").text = self._shown(event.event_id)
        if counts is not None and counts.token in self._beside.images:
            SubElement(_fact(facts, "image"), "code").text = self._shown(self._beside.images[counts.token])
        self._pairs(facts, "insights", job.insights)
        if job.attempts:
            self._attempts(details, job)
        self._files(details, self._beside.made.get((event.event_id, job.module), []))
        for attempt in job.attempts:
            if attempt.token in self._logs:
                if len(job.attempts) > 1:
                    SubElement(details, "p", {"class": "dim in"}).text = f"Log of attempt {attempt.number}"
                SubElement(details, "pre", {"tabindex": "0"}).text = self._shown(self._logs[attempt.token])
        if any(it.token not in self._logs for it in job.attempts):
            line = SubElement(details, "p", {"class": "dim in"})
            line.text = "The log is whole by "
            SubElement(line, "code").text = f"ion-core logs {self._shown(event.event_id)}"

    def _facts(self, details: Element, item: EventView | JobView) -> Element:
        """Where links from the graph lead: a browser opens what is closed around their aim."""
        return SubElement(details, "dl", {"id": self._anchor(item)})

    def _anchor(self, item: EventView | JobView) -> str:
        return self._anchors[item.event_id if isinstance(item, EventView) else (item.event_id, item.module)]

    def _attempts(self, details: Element, job: JobView) -> None:
        table = SubElement(details, "table")
        row = SubElement(SubElement(table, "thead"), "tr")
        for name in ("attempt", "began", *(f"{step}, s" for step in STEPS), "outcome"):
            SubElement(row, "th", {"scope": "col"}).text = name
        body = SubElement(table, "tbody")
        for attempt in job.attempts:
            row = SubElement(body, "tr")
            SubElement(row, "td", {"class": "number"}).text = str(attempt.number)
            SubElement(SubElement(row, "td"), "time").text = moment(attempt.started_at)
            for step in STEPS:
                value = attempt.seconds.get(step)
                SubElement(row, "td", {"class": "number"}).text = "" if value is None else in_seconds(value)
            reason = f": {attempt.reason}" if attempt.reason else ""
            SubElement(row, "td").text = self._shown(attempt.outcome + reason)

    def _pairs(self, facts: Element, what: str, pairs: Sequence[tuple[str, str]]) -> None:
        if pairs:
            left = [f"… {len(pairs) - PAIRS:,} more"] if len(pairs) > PAIRS else []
            code = SubElement(_fact(facts, what), "code")
            code.text = "  ".join([*(self._shown(f"{key}={value[:400]}") for key, value in pairs[:PAIRS]), *left])

    def _files(self, details: Element, files: Sequence[StoredFile], names: Sequence[str] = ()) -> None:
        """``names`` stand there where nobody knows where the files lie."""
        if not files and not names:
            return
        items = SubElement(details, "ul", {"class": "files"})
        for file in files[:FILES]:
            item = SubElement(items, "li")
            if file.key in self._beside.pictures:
                kind, content = self._beside.pictures[file.key]
                data = base64.b64encode(content).decode("ascii")
                SubElement(item, "img", {"src": f"data:{kind};base64,{data}", "alt": ""})
            SubElement(item, "span").text = self._shown(file.name)
            SubElement(item, "small").text = size(file.size)
            if file.key in self._beside.lost:
                SubElement(item, "small", {"class": "bad-text"}).text = self._shown(self._beside.lost[file.key])
        for name in [] if files else names[:FILES]:
            SubElement(SubElement(items, "li"), "span").text = self._shown(name)
        if (count := len(files or names)) > FILES:
            SubElement(items, "li").text = f"… {count - FILES:,} more"

    def _damaged(self, main: Element) -> None:
        lines = self._flow.damaged
        if lines:
            SubElement(main, "h2").text = "What is missing here"
            SubElement(main, "pre").text = self._shown("\n".join(lines))

    def _fitting_logs(self) -> dict[str, str]:
        """By an attempt's token: of jobs in trouble first, then of those that were tried again, then of all others."""
        jobs = sorted(self._flow.jobs, key=lambda it: (it.state not in TROUBLE, len(it.attempts) < 2))
        found: dict[str, str] = {}
        left = LOGS
        for attempt in (it for job in jobs for it in job.attempts):
            log = self._beside.logs.get(attempt.token, "")
            if log and len(log) <= left:
                found[attempt.token] = log
                left -= len(log)
        return found


def _title(roots: Sequence[EventView]) -> str:
    """What it began with."""
    if not roots:
        return "nothing"
    first = roots[0]
    brings = first.files or [f"{key}={value[:80]}" for key, value in first.data]
    more = f" and {len(brings) - 1:,} more" if len(brings) > 1 else ""
    return f"{first.type}: {brings[0]}{more}" if brings else first.type


def _span(flow: FlowView) -> list[str]:
    begun, ended = flow.summary.started_at, flow.summary.finished_at
    if begun is None or ended is None:
        return []
    return [f"began {moment(begun)}", f"{in_seconds((ended - begun).total_seconds())} s"]


def _fact(facts: Element, name: str) -> Element:
    SubElement(facts, "dt").text = name
    return SubElement(facts, "dd")


def _policy(style: str) -> str:
    """Nothing but this style and pictures that are part of the page."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
