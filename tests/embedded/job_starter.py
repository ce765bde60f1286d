"""A process that starts a job and is killed before its supervisor is; ``test_subprocess_executor`` starts it.

Arguments: directory of the executor, the name of a job that is made.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ion_core.contracts.executor import Ticket
from ion_core.embedded.jobs.kept import KeptJobs


def die(*_: Any, **__: Any) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def main(path: str, name: str, ticket: str) -> None:
    subprocess.Popen = die  # type: ignore[assignment, misc]
    jobs = KeptJobs(Path(path))
    (seen,) = [it for it in jobs.all({}) if it.ref.name == name]
    jobs.start(seen.ref, Ticket.decode(ticket.encode()))


main(*sys.argv[1:])
