"""``growth_serve``, ``growth_trace``, ``growth_dlq``, ``growth_logs``: what history costs the commands.

Both sides: a whole process of ``ion-core`` with the embedded providers, in a state directory of its own.

Ours: 100,000 flows, each of an event with its commit record and log, and 10,000 dead letters of 5 KiB.
Theirs: 1,000 flows and 100 dead letters.

``growth_serve`` starts ``serve --until-idle``, which has nothing to do and ends; ``growth_trace`` is ``trace list``;
``growth_dlq`` is ``dlq show`` of one in the middle; ``growth_logs`` is ``logs`` of an event in the middle, by the first
eight characters of its id. History is written through the contracts, outside the timing, and once for all four: none of
them changes it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.measure import Benchmark, Pair, Unavailable, at_most
from bench.rows.growth import old_flow
from bench.rows.help import milliseconds
from ion_core.app import App
from ion_core.config import load_config
from ion_core.contracts.messaging import DeadLetter, RetryPolicy
from ion_core.events import Context, Event, encode_event

AT_ONCE = 250
"""Flows, messages or dead letters that are stored together."""
MODULE = "noop"
CONFIG = """\
modules:
  noop: {command: ["true"], source: ., subscribes: [bench.event]}
"""
HISTORY = 100_000, 1_000
DEAD = 10


def serve(flows: tuple[int, int] = HISTORY) -> Benchmark:
    return _benchmark("growth_serve", ["serve", "--until-idle"], flows)


def trace(flows: tuple[int, int] = HISTORY) -> Benchmark:
    return _benchmark("growth_trace", ["trace", "list"], flows)


def dlq(flows: tuple[int, int] = HISTORY) -> Benchmark:
    return _benchmark("growth_dlq", ["dlq", "show", "{letter}"], flows)


def logs(flows: tuple[int, int] = HISTORY) -> Benchmark:
    return _benchmark("growth_logs", ["logs", "{event}"], flows)


def _benchmark(name: str, command: list[str], flows: tuple[int, int]) -> Benchmark:
    return Benchmark(name=name, unit="ms", goal=at_most(1.1), open=partial(_open, command, flows), pairs=21)


@asynccontextmanager
async def _open(command: list[str], flows: tuple[int, int], directory: Path) -> AsyncIterator[Pair]:
    sides = []
    for count in flows:
        home, letter = await _kept_history(directory.parent / f"history-{count}", count)
        named = {"{letter}": letter, "{event}": f"{count // 2:08x}"}
        words = [named.get(it, it) for it in command]
        sides.append(partial(milliseconds, ion_core(home, *words), quiet=True))
    await asyncio.to_thread(os.sync)
    ours, theirs = sides
    yield Pair(ours, theirs)


_kept: dict[Path, str] = {}


async def _kept_history(home: Path, flows: int) -> tuple[Path, str]:
    """A directory with that past, which is there until this process ends, and the id of a dead letter in the middle."""
    if home not in _kept:
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        _kept[home] = await history(home, flows=flows, dead=flows // DEAD)
    return home, _kept[home]


def ion_core(home: Path, *words: str) -> list[str]:
    """The command line, in the configuration of that directory. Raises Unavailable."""
    script = Path(sys.executable).with_name("ion-core")
    if not script.exists():
        raise Unavailable(f"{script.name} is not installed beside {Path(sys.executable).name}")
    return [str(script), *words, "--config", str(home / "ion.yaml")]


async def history(home: Path, *, flows: int, dead: int = 0, waiting: int = 0) -> str:
    """A new directory with that past; returns the id of a dead letter in the middle, '' where there is none."""
    await asyncio.to_thread(_configuration, home)
    async with App.open(load_config(home / "ion.yaml")) as app:
        intake, broker, documents = await app.intake(), await app.broker(), await app.documents()
        for start in range(0, flows, AT_ONCE):
            flows_of = [it for n in range(start, min(start + AT_ONCE, flows)) for it in old_flow(n)]
            await asyncio.gather(*(documents.put(document) for document in flows_of))

        async def publish(number: int) -> None:
            await intake.publish("bench.event", name="bench", data=(("text", "x" * 2_000), ("n", f"{number}")))

        for start in range(0, waiting, AT_ONCE):
            await asyncio.gather(*(publish(n) for n in range(start, min(start + AT_ONCE, waiting))))
        await broker.declare(MODULE, topics=["bench.event"], retry=RetryPolicy())
        ids: list[str] = []
        for start in range(0, dead, AT_ONCE):
            letters = [_letter(n) for n in range(start, min(start + AT_ONCE, dead))]
            ids += await broker.add_dead_letters(MODULE, letters)
    return ids[len(ids) // 2] if ids else ""


def _configuration(home: Path) -> None:
    home.mkdir()
    (home / "ion.yaml").write_text(CONFIG, encoding="utf-8")


def _letter(number: int) -> DeadLetter:
    context = Context(name="bench", event_id=f"dead-{number}", correlation_id=f"dead-flow-{number}")
    return DeadLetter(
        id="",
        queue=MODULE,
        body=encode_event(Event(context=context, type="bench.event", data=(("text", "x" * 5_000),))),
        reason="exit code 3 (attempt 4, the last)",
        attempts=4,
        log_tail=[f"line {n} of what it printed" for n in range(20)],
        died_at=datetime.now(UTC),
    )
