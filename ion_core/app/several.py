"""``serve`` with workers: the processes are forked before there is anything that could not be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ion_core import ending
from ion_core.app.serving import Watch, Workers, serve
from ion_core.app.shares import of_use
from ion_core.app.worker import WorkerBody
from ion_core.config import Config
from ion_core.forking import fork_server
from ion_core.state import State

log = logging.getLogger(__name__)


def serve_with_workers(
    config: Config,
    asked: int,
    *,
    environ: Mapping[str, str],
    log_to: Callable[[int, Callable[[str], None]], None],
    say: Callable[[str], None],
    until_idle: bool = False,
    watch: Watch | None = None,
    again: Callable[[], Config] | None = None,
) -> int:
    """``serve``, run to its end, with the jobs in ``asked`` workers, or as many of them as would have any.

    ``log_to`` is called in each worker, with its number and what is to be given each line that it logs; ``say`` is
    given them in this process. Call it before there is a thread or an event loop. Raises as ``serve`` does.
    """
    count = of_use(config.modules.values(), asked)
    if count < asked:
        log.warning(
            "%d of %d workers are started: all modules together have a concurrency of %d. Raise it where several "
            "events of a module may run at once",
            count,
            asked,
            sum(module.concurrency for module in config.modules.values()),
        )
    if count == 1:
        return ending.run(serve(config, environ=environ, until_idle=until_idle, watch=watch, again=again))
    body = WorkerBody(config=config, environ=environ, workers=count, rereads=again is not None, log_to=log_to)
    # Who is forked holds the lock too: while one of them lives nobody else uses the directory.
    with State.open(config.state).locked(), fork_server(body.run) as server:
        workers = Workers(server=server, count=count, say=say)
        serving = serve(config, environ=environ, until_idle=until_idle, watch=watch, again=again, workers=workers)
        return ending.run(serving)
