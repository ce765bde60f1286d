"""Workspaces that are made ahead while there may be more to do, and kept for a while after that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from ion_core.handler.spares import Workspaces


def names(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir())


def inodes(base: Path) -> list[int]:
    return [path.stat().st_ino for path in base.iterdir()]


@asynccontextmanager
async def kept(workspaces: Workspaces, *, unused: float = 60.0) -> AsyncIterator[None]:
    keeping = asyncio.create_task(workspaces.keep(unused=unused))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


async def test_one_is_made_when_one_is_closed_and_is_the_next(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        await workspaces.close(await workspaces.open("first"))
        [spare] = inodes(tmp_path)
        second = await workspaces.open("second")
        assert names(tmp_path) == ["second"]
        assert inodes(tmp_path) == [spare]
        await workspaces.close(second)


async def test_none_is_made_ahead_where_nothing_keeps_them(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    for workspace in [await workspaces.open(str(n)) for n in range(4)]:
        await workspaces.close(workspace)
    assert names(tmp_path) == []


async def test_one_that_cannot_be_made_ahead_is_no_trouble_of_the_job_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        first = await workspaces.open("first")
        with monkeypatch.context() as full:
            full.setattr("ion_core.handler.workspace.lay_out", no_space)
            await workspaces.close(first)
            assert names(tmp_path) == []
            with pytest.raises(OSError, match="No space left"):
                await workspaces.open("second")
        await workspaces.close(await workspaces.open("third"))


def no_space(root: Path) -> None:
    raise OSError(28, "No space left on device", str(root))


async def test_none_is_left_once_nothing_keeps_them(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        for workspace in [await workspaces.open(str(n)) for n in range(4)]:
            await workspaces.close(workspace)
        assert len(names(tmp_path)) == 4
    assert names(tmp_path) == []


async def test_one_that_is_still_open_then_is_removed_when_it_is_closed(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        workspace = await workspaces.open("job")
    await workspaces.close(workspace)
    assert names(tmp_path) == []


async def test_what_has_no_use_for_a_while_goes(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces, unused=0.01), asyncio.timeout(30):
        await workspaces.close(await workspaces.open("job"))
        while names(tmp_path):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_only_so_many_are_kept(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        for workspace in [await workspaces.open(str(n)) for n in range(20)]:
            await workspaces.close(workspace)
        assert len(names(tmp_path)) == 16


async def test_a_spare_that_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        await workspaces.close(await workspaces.open("first"))
        [spare] = names(tmp_path)
        await asyncio.to_thread((tmp_path / spare).rename, tmp_path.with_name("elsewhere"))
        second = await workspaces.open("second")
        assert (second.out / "data").is_dir()
        await workspaces.close(second)


async def test_one_that_does_not_go_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        await workspaces.close(await workspaces.open("job"))

        def busy(path: str, *, dir_fd: int | None = None) -> None:
            raise OSError(16, "Device or resource busy", path)

        monkeypatch.setattr("os.rmdir", busy)
    assert "left behind" in caplog.text
