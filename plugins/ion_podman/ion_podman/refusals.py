"""What Podman's refusals mean for a job, and what would do."""

from __future__ import annotations

import json
import re

from ion_core.errors import ContainerNotFound, PermanentError, ProviderError, StorageFull, TransientError

_NO_PROGRAM = (
    "executable file not found",
    "a command that was not found",
    "oci permission denied",
    "oci runtime permission denied",
    "exec format error",
    '": is a directory',
    "no such file or directory: unknown",
    "permission denied: unknown",
    "no command or entrypoint provided",
)
_NEVER = (
    "statfs ",
    "network not found",
    "unable to find network",
    "cdi device",
    "error stat'ing file",
    "stat /dev/",
    "no matching entries in passwd file",
    "no matching entries in group file",
    "too many levels of symbolic links",
)
_NO_CONTROLLER = re.compile(
    r"\b(memory|pids|cpu|cpuset)\.[a-z_.]*(max|limit|quota|weight|high|swap)|error setting cgroup"
)
_HALF_REMOVED = "getting container from store"
"""Podman was killed while it removed it: its storage is gone, it is still listed, and a removal removes it."""
_NO_CGROUPS = "cgroups in hybrid mode not supported"
_NO_LIMIT = re.compile(r"(set|prl|\b)rlimit")
_PREPARING = re.compile(r"preparing container [0-9a-f]{64} for attach: ")
_CLOSED = re.compile(r"(chdir to cwd|chdir to|cwd|workdir|working directory|\bstat) .*permission denied")


def readable(said: str) -> str:
    """One line of words: what an OCI runtime says of itself as JSON is taken out of that."""
    text = _PREPARING.sub("", re.sub(r"\{.*\}", _words_of, said, flags=re.DOTALL))
    text = text.replace("\\n", " ").replace('\\"', '"').replace("\\t", " ")
    return " ".join(text.split())


def _words_of(found: re.Match[str]) -> str:
    try:
        entry = json.loads(found[0])
    except ValueError:
        return found[0]
    words = next((entry[key] for key in ("msg", "message", "error", "cause") if entry.get(key)), None)
    return str(words) if words is not None else found[0]


def refusal(where: str, said: str, status: int) -> ProviderError:
    """``said`` as Podman said it. What this machine lacks is nobody's event: a TransientError, and no dead letter.

    What would do stands before what was said, which is long: where reasons are cut, it is seen.
    """
    text = said.lower()
    said = readable(said)
    if "no such container" in text or _HALF_REMOVED in text:  # 4.3 answers some of these with 500
        return ContainerNotFound(f"{where}: there is none (any more).")
    if "no space left" in text or "disk quota exceeded" in text:
        return StorageFull(f"{where}: {said}. Free some space where Podman keeps its containers.")
    if "executable file not found" in text:
        return PermanentError(f"{where}: its program cannot be executed: {said}")
    if _NO_CGROUPS in text:
        return TransientError(
            f'{where}: crun refuses this machine\'s control groups. Set `runtime = "runc"` in containers.conf. '
            f"It said: {said}"
        )
    if _NO_CONTROLLER.search(text):
        return TransientError(
            f"{where}: its limits cannot be set, as a control group controller is missing. See which there are by "
            f"`podman info`; where Podman runs without root they must be delegated to its user. It said: {said}"
        )
    if _NO_LIMIT.search(text):
        return TransientError(
            f"{where}: its limits of open files or processes are above what Podman's service may give. Set nofile of "
            f"the runtime, or default_ulimits in containers.conf, lower. It said: {said}"
        )
    if _CLOSED.search(text):
        return PermanentError(
            f"{where}: its program, or its working directory, is closed to the user that it runs as. Set another "
            "WORKDIR than root's, or a USER, in the image; or let it be root, under allow.root of the runtime. "
            f"It said: {said}"
        )
    if any(sign in text for sign in _NO_PROGRAM):
        return PermanentError(f"{where}: its program cannot be executed: {said}")
    if status < 500 or any(sign in text for sign in _NEVER):
        return PermanentError(f"{where}: Podman refuses: {said}")
    return TransientError(f"{where}: Podman failed: {said}")
