"""How Ion's names and texts become those that Kubernetes takes, and back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

MANAGED_BY = {"app.kubernetes.io/managed-by": "ion"}
"""Label of all that Ion makes; a watch selects by it."""
NAME = "ion/job"
"""Label with the job's name, which is also that of its pod, or of its Job."""
ID = "ion/id"
"""Label with a job's id, where it is made as a Job: that has a uid only from its start on."""
NETWORK = "ion/network"
"""Label with the network that the module asked for: what a NetworkPolicy selects."""

LABELS = "ion/labels"
"""Annotation with the labels as they were given, in JSON."""
SPEC = "ion/spec"
"""Annotation with a digest of what was asked for."""
TICKET = "ion/ticket"
"""Annotation with the ticket, there from the start of the job on."""
TIMEOUT = "ion/timeout"
"""Annotation with the module's timeout, in seconds, for whoever adopts the job."""
LOG_LIMIT = "ion/log-limit"
"""Annotation with the bytes kept of each step's output, for whoever adopts the job."""

GATE = "ion/start"
"""Scheduling gate of a job that was made and not started."""

PREPARE, MODULE, COMMIT = "prepare", "module", "commit"
"""Names of the three containers, in their order."""

_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NOT_OF_A_LABEL = re.compile(r"[^-A-Za-z0-9_.]+")


def label(text: str) -> str:
    """As a label's name or value: itself where it is one, else what can be kept of it and a digest of all of it."""
    if _LABEL.fullmatch(text):
        return text
    kept = _NOT_OF_A_LABEL.sub("-", text)[:42].strip("-_.")
    return "-".join(filter(None, (kept, digest(text.encode())[:20])))


def labels(given: Mapping[str, str]) -> dict[str, str]:
    """Labels to find by. Two that were given may look alike: ``LABELS`` has them as they were."""
    return {label(name): label(value) for name, value in given.items()}


def selector(given: Mapping[str, str]) -> str:
    """What selects all that has the labels ``given``, and little else."""
    return ",".join(f"{name}={value}" for name, value in sorted({**MANAGED_BY, **labels(given)}.items()))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def literal(text: str) -> str:
    """As it is to reach a program: in environment, command and arguments Kubernetes expands ``$(NAME)`` and ``$$``."""
    return text.replace("$", "$$")
