"""What refusals of an OCI runtime mean for a job, and what would do."""

from __future__ import annotations

import json
import re
from contextlib import suppress

from ion_core.errors import PermanentError, ProviderError, StorageFull, TransientError

_NO_PROGRAM = (
    "executable file not found",
    "executable file `",
    "exec format error",
    "no such file or directory",
    "permission denied",
    "is a directory",
)
_ABOUT_A_PROGRAM = re.compile(r"\bexec(v|:| )|executable file|exec user process")
_NO_CONTROLLER = re.compile(
    r"\b(memory|pids|cpu|cpuset)\.[a-z_.]*(max|limit|quota|weight|high|swap)|error setting cgroup|cgroup config"
)
_NO_CGROUPS = "cgroups in hybrid mode not supported"
_NO_LIMIT = re.compile(r"(set|prl|\b)rlimit")
_CLOSED = re.compile(r"(chdir to cwd|chdir to|cwd|workdir|working directory|\bstat) .*permission denied")
_MOUNTING = re.compile(r"mounting|mount `|rootfs")
_TOO_FEW_PIDS = 16
"""Below it runc's own threads, of which it has a few while it sets a container up, may not find room."""


def said_of(log: str, stderr: str) -> str:
    """What went wrong, in one line of words: of its log in JSON the last error, or what it printed."""
    found = []
    for line in log.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["level"] in ("error", "fatal"):
                found.append(str(entry["msg"]))
    return " ".join((found[-1] if found else stderr).split())


def refusal(where: str, said: str, *, pids: int) -> ProviderError:
    """What this machine lacks is nobody's event: a TransientError, and no dead letter.

    What would do stands before what was said, which is long: where reasons are cut, it is seen.
    """
    text = said.lower()
    if "no space left" in text or "disk quota exceeded" in text:
        return StorageFull(f"{where}: {said}. Free some space where containers are kept.")
    if "executable file not found" in text:
        return PermanentError(f"{where}: its program cannot be executed: {said}")
    if _NO_CGROUPS in text:
        return TransientError(
            f"{where}: crun refuses this machine's control groups. Set `runtime: runc`. It said: {said}"
        )
    if _NO_CONTROLLER.search(text):
        return TransientError(
            f"{where}: its limits cannot be set, as a control group controller is missing. See which there are in "
            f"/sys/fs/cgroup; under systemd they must be delegated to the service. It said: {said}"
        )
    if _NO_LIMIT.search(text):
        return TransientError(
            f"{where}: its limit of open files is above what this process may give. Set nofile of the runtime lower. "
            f"It said: {said}"
        )
    if _CLOSED.search(text):
        return PermanentError(
            f"{where}: its program, or its working directory, is closed to the user that it runs as. Set another "
            "WORKDIR than root's, or a USER, in the image; or let it be root, under allow.root of the runtime. "
            f"It said: {said}"
        )
    if _ABOUT_A_PROGRAM.search(text) and not _MOUNTING.search(text) and any(sign in text for sign in _NO_PROGRAM):
        return PermanentError(f"{where}: its program cannot be executed: {said}")
    room = ""
    if pids < _TOO_FEW_PIDS:
        room = (
            f" It may be for want of room: `pids` is {pids}, and the OCI runtime's threads count as well while it sets "
            f"a container up. Give it {_TOO_FEW_PIDS} or more."
        )
    return TransientError(f"{where}: the OCI runtime failed: {said}{room}")
