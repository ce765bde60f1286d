"""``ion-core serve`` with a runtime whose modules cost nothing: ``python -m bench.noop_serve WORKERS``.

By the ``ion.yaml`` of its directory, until nothing is pending. The one module there writes one event.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from ion_core import ending
from ion_core.app import serve, serve_with_workers
from ion_core.config import load_config
from ion_core.contracts.provider import Provider
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.contracts.settings import Settings
from ion_core.embedded.memory.runtime import open_memory_runtime
from ion_core.hookspecs import hookimpl
from ion_core.registry import load_plugins

CHILD = '[{"key":"eventType","value":"bench.child"}]'


async def _emit(workspace: Path, env: Mapping[str, str]) -> int:
    (workspace / "out" / "events" / "0.json").write_text(CHILD)
    return 0


def _open(settings: Settings) -> AbstractAsyncContextManager[ContainerRuntime]:
    return open_memory_runtime(settings, programs={"emit": _emit})


class Noop:
    """The plugin."""

    @hookimpl
    def ion_container_runtimes(self) -> Iterable[Provider[ContainerRuntime]]:
        yield Provider(name="noop", settings=Settings, open=_open, contract="1.0")


def _log_to(worker: int, tell: Callable[[str], None]) -> None:
    """As it is: to stderr, warnings alone."""


def main(workers: int) -> int:
    logging.basicConfig(level=logging.WARNING)
    config = load_config("ion.yaml", registry=load_plugins(extra=[Noop()]))
    if workers == 1:
        return ending.run(serve(config, environ=os.environ, until_idle=True))
    say = logging.getLogger(__name__).warning
    return serve_with_workers(config, workers, environ=os.environ, log_to=_log_to, say=say, until_idle=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
