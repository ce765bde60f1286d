"""What ``check`` refuses of watched folders, with the program itself."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import commands

HEAD = """modules:
  take: {command: [sh, -c, ":"], source: ., subscribes: [photo.received]}
services:
  watch:
    folders:
"""
TAKEN = "type: photo.received"
REFUSED = [
    ("", "path or url is required, and only one"),
    ("path: in, url: s3://b/in", "path or url is required, and only one"),
    ("path: in, options: {key: x}", "options are for url"),
    ("path: in, patterns: [/a]", "patterns[0]: must be relative"),
    ("path: in, patterns: []", "patterns: "),
    ("path: in, stable: 1s, done: .done", "stable or done"),
    ("path: in, done: done", "done: must be an ending such as .done"),
    ("path: in, after: burn", "after: "),
    ("path: in, after: move", "after: move and to belong together"),
    ("path: in, to: out", "after: move and to belong together"),
    ("path: in, after: move, to: in/out", "must not lie in the folder that is watched"),
    ("path: in, after: move, to: in", "must not lie in the folder that is watched"),
    ("path: in, after: move, to: s3://b/out", "to must be a directory"),
    ("url: s3://b/in, after: move, to: out", "to must be a URL of s3://"),
    ("url: s3://b/in, after: move, to: s3://b/in/out", "must not lie in the folder that is watched"),
    ("url: 's3://b/in::x'", "url: must be one plain address"),
    ("url: 's3://b/*'", "url: must be one plain address"),
    ("url: 's3://b/../c'", "url: must be one plain address"),
    ("url: 'sftp://me:secret@h/in'", "url: must not have a password in it"),
    ("url: 'ftp://h/in'", "url: ftp:// cannot be watched"),
    ("url: 'file://in'", "url: must be absolute"),
    ("url: 's3://'", "url: must name a bucket"),
    ("path: in, every: 1ms", "every: must be at least 1s"),
    ("path: in, data: {path: x}", "data: path is added"),
]
FINE = [
    "path: in, after: move, to: in/.taken",
    "path: in, after: move, to: input",
    "url: s3://b/in, after: move, to: s3://b/input, patterns: ['*.{jpg,png}', '**/x']",
]


def checked(directory: Path, *folders: str) -> subprocess.CompletedProcess[str]:
    """Of folders that are called n0, n1 and so on."""
    lines = [f"      n{number}: {{{folder}}}\n" for number, folder in enumerate(folders)]
    (directory / "ion.yaml").write_text(HEAD + "".join(lines), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
    return commands.run("check", cwd=directory, environ=environment)


def test_check_names_all_that_cannot_be_watched(tmp_path: Path) -> None:
    done = checked(tmp_path, *(", ".join(filter(None, (TAKEN, folder))) for folder, _ in REFUSED))
    assert done.returncode == 78
    for number, (folder, says) in enumerate(REFUSED):
        lines = [
            line for line in done.stderr.splitlines() if re.search(rf"services\.watch\.folders\.n{number}\b", line)
        ]
        assert lines, folder
        assert says in lines[0], folder
        assert len(lines) == 1, folder
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("path: in, type: photo.receivd", 'no module takes "photo.receivd", so it would be refused. Did you mean'),
        ("path: in, type: Photo", "services.watch.folders.n0.type: "),
    ],
)
def test_an_event_that_nobody_takes_is_refused(tmp_path: Path, folder: str, says: str) -> None:
    done = checked(tmp_path, folder)
    assert done.returncode == 78
    assert says in done.stderr


def test_what_is_published_comes_from_no_outside(tmp_path: Path) -> None:
    done = checked(tmp_path, *(f"{TAKEN}, {folder}" for folder in FINE))
    assert done.returncode == 0, done.stderr
    assert "comes from outside" not in done.stdout + done.stderr


def test_a_directory_that_is_not_there_is_worth_a_warning(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = checked(tmp_path, f"path: there, {TAKEN}", f"path: in, {TAKEN}")
    assert done.returncode == 0, done.stderr
    assert (
        f"ion.yaml:7:18: services.watch.folders.n1.path: warning: {tmp_path}/in cannot be listed: "
        "No such file or directory. Make it, or name a directory" in done.stdout
    )
    assert "folders.n0" not in done.stdout


def test_what_no_driver_here_can_watch_is_refused_and_all_of_it_named_at_once(tmp_path: Path) -> None:
    done = checked(
        tmp_path,
        f"path: in, {TAKEN}",
        f"url: 'sftpp://h/in', {TAKEN}",
        f"url: 'smb://h/in', {TAKEN}",
        f"url: 'sftp://me@one/in', after: move, to: 'sftp://me@other/taken', {TAKEN}",
        f"url: 'sftp://me@one/in', after: move, to: 'sftp://me@one/taken', {TAKEN}",
    )
    assert done.returncode == 78
    misspelt, missing, elsewhere = (line for line in done.stderr.splitlines() if "services.watch" in line)
    assert "services.watch.folders.n1.url: fsspec knows no protocol sftpp://. Did you mean" in misspelt
    assert "folders.n2.url: the driver for smb:// is not installed. " in missing
    assert "folders.n3.to: sftp://me@other/taken is on another server than sftp://me@one/in" in elsewhere
