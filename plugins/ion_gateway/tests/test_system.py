"""What large bodies ask of the system, where it has that and where it has not."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest

from ion_core.listening import system


class Libc:
    """A C library that has what ``known`` names, and notes how it is called."""

    def __init__(self, *known: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        for name in known:
            setattr(self, name, lambda *given, name=name: self.calls.append((name, *given)))


@pytest.fixture(params=[(), ("mallopt",), ("sync_file_range",)], ids=["neither", "glibc", "Linux"])
def libc(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Libc:
    found = Libc(*request.param)
    monkeypatch.setattr(system, "_libc", found)
    return found


def test_what_the_c_library_has_not_is_left_out(libc: Libc) -> None:
    system.keep_freed_memory()
    system.begin_flush(0, 0, 1 << 20)
    assert {name for name, *_ in libc.calls} == {name for name in vars(libc) if name != "calls"}


def test_the_file_is_as_it_was_written(tmp_path: Path) -> None:
    """By the C library of this machine, whichever that is."""
    system.keep_freed_memory()
    content = os.urandom(1 << 20)
    with (tmp_path / "file").open("xb", buffering=0) as file:
        for at in range(0, len(content), 1 << 18):
            file.write(content[at : at + (1 << 18)])
            system.begin_flush(file.fileno(), at, 1 << 18)
        assert file.tell() == len(content)
    assert (tmp_path / "file").read_bytes() == content


def test_what_cannot_be_flushed_is_no_error_here(tmp_path: Path) -> None:
    """Whoever flushes the file at its end is told."""
    read, write = os.pipe()
    try:
        system.begin_flush(write, 0, 1)
    finally:
        os.close(read)
        os.close(write)
    system.begin_flush(write, 0, 1)


def test_places_beyond_32_bits_are_passed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc("sync_file_range")
    monkeypatch.setattr(system, "_libc", libc)
    system.begin_flush(7, 5 << 30, 8 << 20)
    [(_, fd, at, size, flags)] = libc.calls
    assert (fd, flags) == (7, 2)
    assert [(type(it), it.value) for it in (at, size)] == [(ctypes.c_int64, 5 << 30), (ctypes.c_int64, 8 << 20)]
