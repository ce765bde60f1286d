"""A local folder as it is looked at, fetched from and left: links, vanishing files, names without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ion_core.contracts.settings import Section
from ion_core.errors import ConfigError, StorageFull, TransientError
from ion_gateway.watching import local
from ion_gateway.watching.entries import Entry, Gone, Unreadable
from ion_gateway.watching.local import LocalFolder
from ion_gateway.watching.patterns import Patterns


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    made.mkdir()
    return made


def folder(root: Path, *patterns: str, to: Path | None = None, mark: str | None = None) -> LocalFolder:
    section = Section(key="services.watch")
    return LocalFolder(root, Patterns(patterns or ["**"], mark), section, "folders.photos.path", to)


def put(root: Path, path: str, content: bytes = b"x") -> Path:
    made = root / path
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(content)
    return made


def only(source: LocalFolder) -> Entry:
    (entry,) = source.list().entries.values()
    return entry


def test_all_files_are_found_and_nothing_else(root: Path, tmp_path: Path) -> None:
    for path in ("a", "b/c/d", "empty/.keep", ".hidden/e", "f.part"):
        put(root, path)
    put(tmp_path, "outside/secret")
    (root / "link").symlink_to(tmp_path / "outside/secret")
    (root / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "fifo")
    listing = folder(root).list()
    assert sorted(listing.entries) == ["a", "b/c/d"]
    assert listing.whole
    assert not listing.problems


def test_names_of_any_bytes_are_found(root: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", b"-rf", b"$(x)", b"*", "ü".encode(), b" ", b"x" * 255]
    for name in names:
        (root / os.fsdecode(name)).touch()
    assert sorted(os.fsencode(it) for it in folder(root).list().entries) == sorted(names)


def test_what_is_hinted_at_is_looked_at_alone(root: Path, tmp_path: Path) -> None:
    for path in ("a", "b/c/d", "b/e", ".hidden/f"):
        put(root, path)
    put(tmp_path, "outside/secret")
    (root / "linked").symlink_to(tmp_path / "outside")
    listing = folder(root).look(
        ["a", "gone", "a/b", "linked", "linked/secret", ".hidden/f", "x\0y", "../outside/secret"]
    )
    assert list(listing.entries) == ["a"]
    assert not listing.whole
    assert sorted(folder(root).look(["b"]).entries) == ["b/c/d", "b/e"], "of a directory all that is below"
    assert not folder(root, "*").look(["b", "b/e"]).entries


def test_a_copy_is_what_was_listed(root: Path, tmp_path: Path) -> None:
    put(root, "b/run", b"#!/bin/sh\n" * 100_000).chmod(0o755)
    source = folder(root)
    source.fetch(only(source), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"#!/bin/sh\n" * 100_000
    assert (tmp_path / "copy").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("change", ["written", "replaced", "removed", "link", "directory is a link", "fifo"])
def test_what_is_another_file_by_now_is_not_fetched(root: Path, tmp_path: Path, change: str) -> None:
    path = put(root, "b/a")
    secret = put(tmp_path, "outside/a", b"s")  # what it is by size and time tells it from nothing
    os.utime(secret, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    source = folder(root, to=tmp_path / "taken")
    entry = only(source)
    if change == "written":
        path.write_bytes(b"xy")
    elif change == "replaced":
        put(root, "b/new", b"y").rename(path)
    elif change == "directory is a link":
        path.parent.rename(root / "c")
        path.parent.symlink_to(secret.parent)
    else:
        path.unlink()
    if change == "link":
        path.symlink_to(secret)
    if change == "fifo":
        os.mkfifo(path)
    with pytest.raises(Gone):
        source.fetch(entry, tmp_path / "copy")
    with pytest.raises(Gone):
        source.delete(entry, ".done")
    with pytest.raises(Gone):
        source.move(entry, ".done", "b/a.1")
    assert secret.read_bytes() == b"s"
    assert path.is_symlink() or path.parent.is_symlink() or path.exists() == (change != "removed")


def test_what_is_written_while_it_is_fetched_is_not_taken(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(root, "a", b"first")
    source, copied = folder(root), local._copy

    def copy_and_write(*files: int) -> None:
        copied(*files)
        path.write_bytes(b"first and more")

    monkeypatch.setattr(local, "_copy", copy_and_write)
    with pytest.raises(Gone):
        source.fetch(only(source), tmp_path / "copy")


def test_a_copy_without_the_kernels_help_is_the_same(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    put(root, "a", b"0123456789" * 300_000)
    source = folder(root)
    source.fetch(only(source), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789" * 300_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_a_problem_of_its_own(root: Path, tmp_path: Path) -> None:
    put(root, "a").chmod(0)
    put(root, "b/c").parent.chmod(0)
    put(root, "d")
    source = folder(root)
    try:
        listing = source.list()
        assert sorted(listing.entries) == ["a", "d"]
        assert listing.problems == {"b": "cannot be listed: Permission denied"}
        assert not listing.whole
        with pytest.raises(Unreadable, match="Permission denied"):
            source.fetch(listing.entries["a"], tmp_path / "copy")
    finally:
        (root / "b").chmod(0o700)


def test_a_folder_that_is_not_there_is_said_with_its_key(tmp_path: Path) -> None:
    source = folder(tmp_path / "inbox")
    with pytest.raises(ConfigError, match=r"services\.watch\.folders\.photos\.path: .*inbox cannot be listed: No such"):
        source.check()
    with pytest.raises(TransientError, match="inbox: No such file"):
        source.list()
    assert source.identity() is None


def test_a_file_goes_only_as_it_was_and_its_mark_goes_first(root: Path, tmp_path: Path) -> None:
    path, mark = put(root, "b/a"), put(root, "b/a.done")
    source = folder(root, mark=".done", to=tmp_path / "taken")
    entry = source.list().entries["b/a"]
    source.move(entry, ".done", "b/a.other")
    assert (tmp_path / "taken/b/a").read_bytes() == b"x"
    assert not path.exists()
    assert not mark.exists()
    with pytest.raises(Gone):
        source.move(entry, ".done", "b/a.other")


def test_no_file_is_replaced_where_one_is_moved(root: Path, tmp_path: Path) -> None:
    source = folder(root, to=tmp_path / "taken")
    put(tmp_path, "taken/a", b"older")
    put(root, "a")
    source.move(only(source), None, "a.1")
    assert (tmp_path / "taken/a").read_bytes() == b"older"
    assert (tmp_path / "taken/a.1").read_bytes() == b"x"
    put(tmp_path, "taken/b", b"older")
    put(tmp_path, "taken/b.1", b"older")
    put(root, "b")
    with pytest.raises(TransientError, match=r"'b': File exists"):
        source.move(only(source), None, "b.1")
    assert (root / "b").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_move_that_was_cut_off_is_finished(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        without_links(monkeypatch)
    source = folder(root, to=tmp_path / "taken")
    put(root, "a")
    (tmp_path / "taken").mkdir()
    os.system(f"cp -p '{root}/a' '{tmp_path}/taken/a'")  # there already, and here still
    source.move(only(source), None, "a.1")
    assert [it.name for it in (tmp_path / "taken").iterdir()] == ["a"]
    assert not (root / "a").exists()


@pytest.mark.parametrize("across", [True, False])
def test_where_there_are_no_links_files_are_moved_too(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, across: bool
) -> None:
    without_links(monkeypatch, across=across)
    source = folder(root, to=tmp_path / "taken")
    put(root, "a", b"first")
    source.move(only(source), None, "a.1")
    put(root, "a", b"second")
    source.move(only(source), None, "a.1")
    found = {it.name: it.read_bytes() for it in (tmp_path / "taken").iterdir()}
    assert found == {"a": b"first", "a.1": b"second"}
    assert not list(root.iterdir())


def without_links(monkeypatch: pytest.MonkeyPatch, *, across: bool = False) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18 if across else 95, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    if across:
        rename = os.rename

        def within(*given: object, src_dir_fd: int | None = None) -> None:
            if src_dir_fd is not None:
                refuse()
            rename(*given)

        monkeypatch.setattr(os, "rename", within)


@pytest.mark.parametrize("how", ["missing", "a file", "taken"])
def test_a_copy_that_cannot_be_made_is_a_fault_of_where_it_is_to_be(root: Path, tmp_path: Path, how: str) -> None:
    put(root, "a")
    work = tmp_path / "work"
    if how == "a file":
        work.touch()
    elif how == "taken":
        put(work, "copy")
    source = folder(root)
    with pytest.raises(TransientError, match=f"^{work}: a copy cannot be written there: "):
        source.fetch(only(source), work / "copy")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "write"])
def test_where_there_is_no_space_for_a_copy_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    put(root, "a")
    (tmp_path / "work").mkdir()
    source = folder(root)
    entry = only(source)
    with monkeypatch.context() as patched:
        patched.setattr(*((Path, "open") if call == "open" else (local, "_copy")), full)
        with pytest.raises(StorageFull, match=f"^{tmp_path}/work: no space left"):
            source.fetch(entry, tmp_path / "work/copy")
