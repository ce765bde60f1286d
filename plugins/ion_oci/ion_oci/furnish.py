"""Run as a program of its own: what a root needs to be mounted on, and who its users are. Standard library alone.

Given JSON on standard input, it enters ``root``, so that no link in an image leads out of it, and makes there
``directories``, empty ``files`` and the texts of ``written``; ``scratch`` it opens to all. It answers with the numbers
of ``user`` by the root's own ``/etc/passwd`` and ``/etc/group``, where it adds what they lack. Nothing of the image is
run.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

_LARGEST = 1 << 20


def furnish(asked: dict[str, Any]) -> dict[str, Any]:
    os.chroot(asked["root"])
    os.chdir("/")
    os.umask(0o022)
    for path in asked["directories"]:
        Path(path).mkdir(parents=True, exist_ok=True)
    for path in asked["files"]:
        if not os.path.lexists(path):
            _replace(path, "")
    for path, text in asked["written"].items():
        _replace(path, text)
    who = _user(asked["user"])
    for path in asked["scratch"]:
        _open_to_all(path, who["uid"])
    return who


def _open_to_all(path: str, user: int) -> None:
    """What is mounted there in memory takes its mode. One that is the user's own stays as the image has it."""
    place = Path(path)
    place.mkdir(parents=True, exist_ok=True)
    if place.stat().st_uid != user or user == 0:
        place.chmod(0o1777)


def _replace(path: str, text: str) -> None:
    """Whatever is there now, a link or a device, is not written to."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "w") as file:
        file.write(text)


def _read(path: str) -> str:
    """Empty where it is no file, or an absurd one."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            return file.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""


def _rows(path: str, columns: int) -> list[list[str]]:
    rows = (line.strip().split(":") for line in _read(path).splitlines())
    return [row for row in rows if len(row) >= columns]


def _user(asked: str) -> dict[str, Any]:
    """``name``, ``number``, ``name:group`` and so on; KeyError for a name that is nobody's."""
    name, _, group = asked.partition(":")
    users, groups = _rows("/etc/passwd", 7), _rows("/etc/group", 4)
    known = next((row for row in users if row[0] == (name or "root") or row[2] == name), None)
    number = int(known[2]) if known else _number(name or "0", "user")
    gid = int(known[3]) if known else 0
    more: list[int] = []
    if group:
        by_name = next((row for row in groups if row[0] == group or row[2] == group), None)
        gid = int(by_name[2]) if by_name else _number(group, "group")
    elif known:
        more = [int(row[2]) for row in groups if known[0] in row[3].split(",") and row[2] != known[3]]
    home = (known[5] if known else "") or "/"
    if known is None:
        text = _read("/etc/passwd")
        _replace("/etc/passwd", f"{_ended(text)}{number}:*:{number}:{gid}:container user:{home}:/bin/sh\n")
    if not any(row[2] == str(gid) for row in groups):
        _replace("/etc/group", f"{_ended(_read('/etc/group'))}{gid}:x:{gid}:{number}\n")
    return {"uid": number, "gid": gid, "groups": sorted({gid, *more}), "home": home}


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise KeyError(f"its {what} {text!r} is not in it")
    return int(text)


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


if __name__ == "__main__":
    try:
        print(json.dumps(furnish(json.load(sys.stdin))))
    except KeyError as error:
        sys.exit(f"refused: {error.args[0]}")
    except OSError as error:
        sys.exit(f"{error.errno} {error.strerror}: {error.filename}")
