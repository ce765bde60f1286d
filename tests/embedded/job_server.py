"""A process that starts a job and stays; ``test_fork_server`` starts it.

Arguments: directory of the executor, the name of a job that is made, its ticket.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ion_core.contracts.executor import Ticket
from ion_core.embedded.jobs.kept import KeptJobs


def main(path: str, name: str, ticket: str) -> None:
    jobs = KeptJobs(Path(path))
    (seen,) = [it for it in jobs.all({}) if it.ref.name == name]
    jobs.start(seen.ref, Ticket.decode(ticket.encode()))
    signal.pause()


main(*sys.argv[1:])
