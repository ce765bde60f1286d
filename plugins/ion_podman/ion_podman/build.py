"""What is sent to Podman's service for a build, and what it says of it."""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from ion_podman.client import Answer

_LAST_LINES = 5


def pack(directory: Path, into: IO[bytes]) -> None:
    """What it is built from, as one file; Podman itself leaves out what its ignore file says."""

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isfile() or entry.isdir() or entry.issym() or entry.islnk()):
            return None  # a socket or the like
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    with tarfile.open(fileobj=into, mode="w") as tar:
        tar.add(directory, arcname=".", filter=kept)
    into.seek(0)


def account_header(accounts: Mapping[str, tuple[str, str]]) -> Mapping[str, str]:
    if not accounts:
        return {}
    given = {place: {"username": user, "password": password} for place, (user, password) in accounts.items()}
    return {"X-Registry-Config": base64.urlsafe_b64encode(json.dumps(given).encode()).decode()}


def problem_of(answer: Answer) -> str:
    """Why there is no image: the error on the first line, and what the build printed last below it; empty if none."""
    if not answer.ok:
        return " ".join(answer.message.split())
    printed: list[str] = []
    reports = [answer.body] if isinstance(answer.body, dict) else str(answer.body or "").splitlines()
    for report in reports:
        try:
            said = report if isinstance(report, dict) else json.loads(report)
        except ValueError:
            return f"its report cannot be read: {report[:200]}"
        if error := said.get("error"):
            last = [line.rstrip() for line in "".join(printed).splitlines() if line.strip()][-_LAST_LINES:]
            return "\n".join([" ".join(str(error).split()), *last])
        printed.append(str(said.get("stream", "")))
    return "" if printed else "the report of the build was cut short: unexpected EOF"
