"""Flows: the list on the left, the one that was chosen on the right, and of that the event or job that was chosen."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from xml.etree.ElementTree import tostring

from aiohttp import web
from markupsafe import Markup

from ion_console.pages.shell import DID, Shell, done, letter_name, to
from ion_console.pages.words import asking, segment
from ion_console.routing import AFTER, MOST, Operation, field, number, one_of, text
from ion_core.contracts.looking import (
    DeadLetterView,
    EventView,
    FlowState,
    FlowSummary,
    FlowView,
    JobView,
    LetterFilter,
    Page,
)
from ion_core.drawing import TROUBLE, draw
from ion_core.errors import TransientError
from ion_core.listening.refusals import Refused

log = logging.getLogger(__name__)

LISTED = 50
"""Flows on a page."""
LOOKED_FOR = 0.5
"""Seconds after which a list stays empty for now, with a link to look on."""
JOBS = 200
"""Jobs of a flow on a page."""
FITS_WIDTH, FITS_HEIGHT = 1600, 700
"""Pixels of a graph that is made smaller to be seen as a whole; of what is larger, parts are looked at."""
LOG_END = 256 * 1024
"""Characters of one log that are shown, its last ones."""
CHOICES: dict[str, tuple[FlowState, ...]] = {"running": ("running",), "failed": ("dead", "failed"), "done": ("done",)}
SINCE = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}
TABS = ("about", "log", "files", "insights", "why")

FILTERS = (
    one_of("state", "How they stand.", tuple(CHOICES)),
    one_of("since", "Since when.", tuple(SINCE)),
    field("q", "What is in their id, type, pairs or file names."),
    text("module", "With a job of this module."),
    AFTER,
)
CHOSEN = (
    text("event", "The event that was chosen."),
    text("of", "The module whose job was."),
    one_of("tab", "What is shown of it.", TABS),
    *DID,
)


class Flows:
    source = "The document store"
    operations = (
        Operation(name="start", path="/", gives="", what="Flows"),
        Operation(name="flows", path="/flows", gives="", what="Flows", parameters=FILTERS),
        Operation(name="flow", path="/flows/{flow}", gives="", what="A flow", parameters=(*FILTERS, *CHOSEN)),
        Operation(
            name="jobs",
            path="/flows/{flow}/jobs",
            gives="",
            what="All jobs of a flow",
            parameters=(number("page", "Which of its pages.", 9_999), one_of("state", "How they stand.", ("failed",))),
        ),
    )

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._host = shell.host

    async def start(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return to("/flows")

    async def flows(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return await self._shell.page(request, "flows.html", at="flows", chosen=None, **await self._list(asked))

    async def flow(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._found(asked["flow"])
        try:
            letters, away = await self._letters(found), False
        except TransientError as error:
            log.warning("dead letters are not shown: %s", error)
            letters, away = [], True
        return await self._shell.page(
            request,
            "flow.html",
            at="flows",
            chosen=found.summary.correlation_id,
            flow=found,
            letters=[letter_name(it.letter) for it in letters[:MOST]],
            there=len(letters),
            away=away,
            did=done(asked),
            counts=Counter(it.state for it in found.jobs),
            **await self._list(asked),
            **await self._detail(found, asked),
        )

    async def jobs(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        found = await self._found(asked["flow"])
        jobs = [it for it in found.jobs if asked["state"] is None or it.state in TROUBLE]
        page = asked["page"] or 1
        events = {it.event_id: it for it in found.events}
        shown = jobs[(page - 1) * JOBS : page * JOBS]
        return await self._shell.page(
            request,
            "jobs.html",
            at="flows",
            flow=found,
            jobs=[(events.get(it.event_id), it) for it in shown],
            count=len(jobs),
            page=page,
            first=(page - 1) * JOBS,
            further=page * JOBS < len(jobs),
            failed=asked["state"] is not None,
        )

    async def _found(self, flow: str) -> FlowView:
        """Raises Refused."""
        found = await self._host.flow(flow)
        if found is None:
            raise _none()
        return found

    async def _list(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        found = await self._page(asked)
        given = {name: asked[name] for name in ("state", "since", "q", "module", "after") if asked[name] is not None}

        def query(**changed: str | None) -> str:
            """That of a link to the same, but for what is named."""
            left = {name: it for name, it in (given | changed).items() if it is not None}
            return f"?{asking(left)}" if left else ""

        filters = dict.fromkeys(("state", "since", "q", "module")) | given
        return {"listed": found, "filters": filters, "query": query, "choices": CHOICES, "spans": SINCE}

    async def _page(self, asked: Mapping[str, Any]) -> Page[FlowSummary]:
        """The next that has any, as far as there is time: a flow of many events may fill whole pages with none."""
        since = SINCE.get(asked["since"] or "")
        until, after, damaged = time.monotonic() + LOOKED_FOR, asked["after"], dict[str, None]()
        while True:
            found = await self._host.flows(
                outcomes=CHOICES.get(asked["state"] or ""),
                module=asked["module"],
                containing=asked["q"],
                since=None if since is None else datetime.now(UTC) - since,
                after=after,
                limit=LISTED,
            )
            damaged |= dict.fromkeys(found.damaged)
            if found.items or found.cursor is None or time.monotonic() >= until:
                return replace(found, damaged=[*damaged])
            after = found.cursor

    async def _letters(self, flow: FlowView) -> list[DeadLetterView]:
        """Those of its jobs that were given up, where there are any: a broker gives all of a queue to find them."""
        dead = {(it.module, it.event_id) for it in flow.jobs if it.state == "dead-lettered"}
        found: list[DeadLetterView] = []
        for module in sorted({module for module, _ in dead}):
            cursor: str | None = None
            while True:
                page = await self._host.dead_letters(LetterFilter(module=module), after=cursor, limit=1_000)
                found += [
                    it
                    for it in page.items
                    if it.event is not None and (it.letter.queue, it.event.context.event_id) in dead
                ]
                if (cursor := page.cursor) is None:
                    break
        return found

    async def _detail(self, flow: FlowView, asked: Mapping[str, Any]) -> dict[str, Any]:
        event, job = _chosen(flow, asked["event"], asked["of"])
        id = flow.summary.correlation_id
        running = {(it.event_id, it.module): it.since for it in self._host.running() if it.correlation_id == id}
        tab = asked["tab"] or "about"
        base = f"/flows/{segment(id)}"

        def link(item: EventView | JobView) -> str:
            chosen = {"event": item.event_id} | ({"of": item.module} if isinstance(item, JobView) else {})
            return f"{base}?{asking(chosen)}#detail"

        def drawing() -> tuple[bool, str]:
            drawn = draw(flow, link=link, running=running, chosen=job or event)
            fits = float(drawn.get("width", "0")) <= FITS_WIDTH and float(drawn.get("height", "0")) <= FITS_HEIGHT
            return fits, tostring(drawn, encoding="unicode", method="html")

        fits, graph = await self._shell.aside.made(drawing)
        found: dict[str, Any] = {
            "event": event,
            "job": job,
            "tab": tab,
            "base": base,
            "running": running,
            "fits": fits,
            "graph": Markup(graph),
            "logs": (),
            "files": (),
            "why": None,
            "log_end": LOG_END,
        }
        if event is not None:
            found |= await self._tab(id, event, job, tab)
        return found

    async def _tab(self, flow: str, event: EventView, job: JobView | None, tab: str) -> dict[str, Any]:
        if tab == "log" and job is not None:
            logs = await self._host.logs(event.event_id, correlation_id=flow)
            return {"logs": [it for it in logs if it.module == job.module]}
        if tab in ("files", "about"):
            files = await self._host.files(flow, event.event_id)
            of = None if job is None else {job.module, *job.formerly}
            found: dict[str, Any] = {"files": [it for it in files if (it.came_in if of is None else it.module in of)]}
            return found | (await self._tab(flow, event, job, "log") if tab == "about" else {})
        if tab == "why" and job is not None:
            why = await self._host.why(event.event_id, correlation_id=flow)
            return {"why": next((it for it in why if it.module == job.module), None)}
        return {}


def _chosen(flow: FlowView, event_id: str | None, module: str | None) -> tuple[EventView | None, JobView | None]:
    """What was chosen; where nothing was, the first job in trouble, else the first."""
    if event_id is None:
        first = next((it for it in flow.jobs if it.state in TROUBLE), next(iter(flow.jobs), None))
        if first is None:
            return next(iter(flow.events), None), None
        event_id, module = first.event_id, first.module
    event = next((it for it in flow.events if it.event_id == event_id), None)
    job = next((it for it in flow.jobs if (it.event_id, it.module) == (event_id, module)), None)
    if event is None or (module is not None and job is None):
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such event or job in this flow.")
    return event, job


def _none() -> Refused:
    return Refused(HTTPStatus.NOT_FOUND, "There is no flow of that correlation id. `gc` may have removed it.")
