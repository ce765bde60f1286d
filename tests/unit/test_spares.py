"""Workspaces one after the other: whatever a module made of one, it goes, and the next finds a clean one."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ion_core.handler.spares import Workspaces
from ion_core.handler.workspace import Workspace
from tests.unit.test_kept_spares import kept


def look(workspace: Workspace) -> dict[str, tuple[str, int, int]]:
    """Everything in it: kind and mode, size of files, and how many names a file has."""
    found = {}
    for path in [workspace.root, *workspace.root.rglob("*")]:
        status = path.lstat()
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        links = status.st_nlink if stat.S_ISREG(status.st_mode) else 1
        found[str(path.relative_to(workspace.home))] = (stat.filemode(status.st_mode), size, links)
    return found


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def replaced_by_link(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to("/etc")


def in_place_of_insights(make: Callable[[Path], object]) -> Callable[[Workspace], None]:
    def mischief(workspace: Workspace) -> None:
        (workspace.out / "insights.json").unlink()
        make(workspace.out / "insights.json")

    return mischief


def closed(workspace: Workspace) -> None:
    for name in ("out/data", "out/events", "out", "in/data", "in", ""):
        (workspace.root / name).chmod(0)


def files_everywhere(workspace: Workspace) -> None:
    for name in ("in/data", "out/data", "out/events"):
        (workspace.root / name / "x").write_text("x")


MISCHIEF: dict[str, Callable[[Workspace], object]] = {
    "nothing": lambda workspace: None,
    "files": files_everywhere,
    "eventmeta": lambda workspace: workspace.eventmeta.write_text("[]"),
    "insights": lambda workspace: (workspace.out / "insights.json").write_text("[]"),
    "no insights": in_place_of_insights(lambda path: None),
    "insights as a directory": in_place_of_insights(Path.mkdir),
    "insights as a link": in_place_of_insights(lambda path: path.symlink_to("/etc/passwd")),
    "insights with a second name": lambda workspace: os.link(
        workspace.out / "insights.json", workspace.home.parent / "second name"
    ),
    "a file in in": lambda workspace: (workspace.root / "in" / "x").touch(),
    "a file in out": lambda workspace: (workspace.out / "x").touch(),
    "a file beside in and out": lambda workspace: (workspace.root / "x").touch(),
    "a hidden file": lambda workspace: (workspace.out / "data" / ".x").touch(),
    "a directory": lambda workspace: (workspace.out / "data" / "sub").mkdir(),
    "a link": lambda workspace: (workspace.out / "data" / "link").symlink_to("/etc"),
    "a FIFO": lambda workspace: os.mkfifo(workspace.out / "events" / "fifo"),
    "a closed file": lambda workspace: (workspace.out / "data" / "x").touch(0o000),
    "closed directories": closed,
    "sticky directories": lambda workspace: (workspace.out / "data").chmod(0o7777),
    "out/data as a link": lambda workspace: replaced_by_link(workspace.out / "data"),
    "out as a link": lambda workspace: replaced_by_link(workspace.out),
    "all of it as a link": lambda workspace: replaced_by_link(workspace.root),
    "no out": lambda workspace: shutil.rmtree(workspace.out),
    "no in": lambda workspace: shutil.rmtree(workspace.root / "in"),
    "nothing left": lambda workspace: shutil.rmtree(workspace.home),
    "a note": lambda workspace: workspace.note_job({"job": "before"}),
}


@pytest.mark.parametrize("mischief", MISCHIEF.values(), ids=MISCHIEF)
async def test_whatever_was_done_to_one_the_next_is_as_new(
    mischief: Callable[[Workspace], object], tmp_path: Path
) -> None:
    new = look(Workspace.make(tmp_path, "new"))
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        dirty = await workspaces.open("dirty")
        mischief(dirty)
        await workspaces.close(dirty)
        again = await workspaces.open("again")
        assert look(again) == new
        assert again.home == tmp_path / "again"
        assert again.read_note() is None
        await workspaces.close(again)
    assert names(tmp_path) <= {"new", "second name"}


async def test_one_that_is_closed_twice_is_closed_once(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    async with kept(workspaces):
        _, first, _ = [await workspaces.open(name) for name in "abc"]
        await workspaces.close(first)
        await workspaces.close(first)
        second, third = await workspaces.open("d"), await workspaces.open("e")
        assert second.home != third.home
        assert look(second) == look(third)


async def test_none_is_kept_when_the_last_is_closed(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    opened = await asyncio.gather(*(workspaces.open(str(n)) for n in range(8)))
    await asyncio.gather(*(workspaces.close(workspace) for workspace in opened))
    assert names(tmp_path) == set()


async def test_many_at_once_never_share_one(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)

    async def use(n: int) -> None:
        workspace = await workspaces.open(f"job{n}")
        assert list((workspace.out / "data").iterdir()) == []
        (workspace.out / "data" / "mine").write_text(str(n))
        await asyncio.sleep(0)
        assert (workspace.out / "data" / "mine").read_text() == str(n)
        await workspaces.close(workspace)

    await asyncio.gather(*(use(n) for n in range(40)))
    assert names(tmp_path) == set()
