"""What a supervisor is told, by a real unix datagram socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ion_core.notifying import Supervisor

WITHIN = 30.0


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket, and its address as NOTIFY_SOCKET has it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0ion-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name)
        heard.settimeout(WITHIN)
        yield heard, name.replace("\0", "@")


async def heard_next(heard: socket.socket) -> list[str]:
    return (await asyncio.to_thread(heard.recv, 4096)).decode().split("\n")


async def test_ready_then_alive_then_stopping(listening: tuple[socket.socket, str]) -> None:
    heard, address = listening
    supervisor = Supervisor.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid())})
    assert supervisor is not None
    stop, status = asyncio.Event(), ["ready"]
    telling = asyncio.create_task(supervisor.keep_told(stop, lambda: status[-1]))
    assert await heard_next(heard) == ["READY=1", "STATUS=ready"]
    assert await heard_next(heard) == ["WATCHDOG=1"]
    status.append("not ready: storage")
    while (said := await heard_next(heard)) == ["WATCHDOG=1"]:
        pass
    assert said == ["WATCHDOG=1", "STATUS=not ready: storage"]
    stop.set()
    while (said := await heard_next(heard)) == ["WATCHDOG=1"]:
        pass
    assert said == ["STOPPING=1", "STATUS=draining"]
    assert await heard_next(heard) == ["WATCHDOG=1"], "a drain may take longer than the watchdog waits"
    telling.cancel()
    await asyncio.wait({telling})


async def test_without_a_watchdog_only_what_happens_is_told(listening: tuple[socket.socket, str]) -> None:
    heard, address = listening
    supervisor = Supervisor.of({"NOTIFY_SOCKET": address})
    assert supervisor is not None
    stop = asyncio.Event()
    stop.set()
    await supervisor.keep_told(stop, lambda: "ready")
    assert [(await heard_next(heard))[0], (await heard_next(heard))[0]] == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({"WATCHDOG_USEC": "60000000"}, timedelta(minutes=1)),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 30}, None),
        ({}, None),
    ],
)
def test_how_long_it_may_be_silent(environ: dict[str, str], watchdog: timedelta | None) -> None:
    supervisor = Supervisor.of({"NOTIFY_SOCKET": "/run/notify", **environ})
    assert supervisor is not None
    assert supervisor.watchdog == watchdog


def test_nobody_is_told_where_nobody_listens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Supervisor.of({}) is None
    assert Supervisor.of({"NOTIFY_SOCKET": ""}) is None
    with caplog.at_level(logging.WARNING):
        assert Supervisor.of({"NOTIFY_SOCKET": "vsock:2:1"}) is None
        Supervisor(address=str(tmp_path / "gone")).tell("READY=1")
    assert len(caplog.records) == 2
