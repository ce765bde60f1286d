"""Readiness, and the gate that closes when storage is full."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path

import pytest

from ion_core.dispatcher.health import PROBE_BYTES, Health, write_probe
from ion_core.errors import StorageFull


def test_problems_come_and_go_by_part() -> None:
    health = Health(lambda: None)
    health.red("queue b", "away")
    health.red("queue a", "closed")
    assert list(health.problems()) == ["queue a: closed", "queue b: away"]
    health.green("queue b")
    health.green("queue c")
    assert list(health.problems()) == ["queue a: closed"]


def test_a_problem_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    health = Health(lambda: None)
    for _ in range(3):
        health.red("queue a", "away")
    health.green("queue a")
    health.green("queue a")
    assert [record.getMessage() for record in caplog.records] == ["not ready: queue a: away", "ready again: queue a"]


async def test_the_gate_stays_closed_until_the_probe_fits() -> None:
    tried: list[bool] = []

    def probe() -> None:
        tried.append(health.room.is_set())
        if len(tried) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    health = Health(probe)
    watching = asyncio.create_task(health.watch_space(every=0))
    health.storage_full("blob a: no space left")
    assert not health.room.is_set()
    assert list(health.problems()) == ["storage: blob a: no space left"]

    await health.room.wait()

    assert tried == [False, False, False]
    assert list(health.problems()) == []
    watching.cancel()


async def test_the_gate_closes_again(tmp_path: Path) -> None:
    health = Health(lambda: write_probe(tmp_path))
    watching = asyncio.create_task(health.watch_space(every=0))
    for _ in range(3):
        health.storage_full("full")
        await health.room.wait()
    watching.cancel()


async def test_space_can_be_asked_for(tmp_path: Path) -> None:
    await Health(lambda: write_probe(tmp_path)).check_space()

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull, match="state directory: no space left"):
        await Health(full).check_space()


async def test_space_can_be_asked_for_at_any_time(tmp_path: Path) -> None:
    await Health(lambda: write_probe(tmp_path)).check_space()

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull, match="no space left"):
        await Health(full).check_space()


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    write_probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_probe_raises_when_it_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        assert next(tmp_path.iterdir()).stat().st_size == PROBE_BYTES
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_probe(tmp_path)
    assert list(tmp_path.iterdir()) == []
