"""Modules with their queues and how they fare, and the pipeline's own graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import tostring

from aiohttp import web
from markupsafe import Markup

from ion_console.pages.shell import Shell
from ion_console.pages.words import segment
from ion_console.routing import Operation
from ion_core.contracts.looking import QueueView
from ion_core.drawing import draw_pipeline


class Work:
    source = "The broker"
    operations = (
        Operation(name="modules", path="/modules", gives="", what="Modules"),
        Operation(name="pipeline", path="/pipeline", gives="", what="How events go between modules"),
    )

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._host = shell.host

    async def modules(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        queues = {it.name: it for it in await self._shell.queues()}
        names = {it.name for it in self._host.pipeline().modules}
        return await self._shell.page(
            request,
            "modules.html",
            at="modules",
            modules=self._host.pipeline().modules,
            queues=queues,
            running=self._running(),
            strays=[it for name, it in sorted(queues.items()) if name not in names],
            rates={name: self._shell.rates.of(name) for name in names},
        )

    async def pipeline(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        queues = {it.name: it for it in await self._shell.queues()}
        running = self._running()
        drawn = draw_pipeline(
            self._host.pipeline(),
            link=lambda it: f"/flows?module={segment(it.name)}",
            fact=lambda it: _fact(queues.get(it.name), running[it.name]),
            mark=lambda it: "bad" if it.name in queues and queues[it.name].stats.dead else "",
        )
        graph = Markup(tostring(drawn, encoding="unicode", method="html"))
        return await self._shell.page(
            request, "pipeline.html", at="pipeline", graph=graph, planned=self._host.planned()
        )

    def _running(self) -> Counter[str]:
        return Counter(it.module for it in self._host.running())


def _fact(queue: QueueView | None, running: int) -> str:
    counts = [(running, "running")]
    if queue is not None:
        counts += [(queue.stats.ready + queue.stats.delayed, "waiting"), (queue.stats.dead, "dead")]
    return " · ".join(f"{count:,} {what}" for count, what in counts if count) or "idle"
