"""A shell where a module runs: in its workspace's container, with its environment, on the user's own terminal."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ion_core.contracts.runtime import ContainerRuntime, InteractiveRuntime
from ion_core.dispatcher.slots import LABEL_MODULE, LABEL_STATE, container_spec
from ion_core.errors import OutputRefused, PermanentError
from ion_core.handler import HandlerApi, Workspace
from ion_core.handler.output import read_output
from ion_core.handler.session import CallFailed
from ion_core.jobs import Module


async def run_shell(
    module: Module,
    workspace: Workspace,
    *,
    runtime: ContainerRuntime,
    mark: str,
    terminal: bool,
    said: Callable[[str], None],
) -> int:
    """Run a shell there until it ends; its exit code. Standard input, output and error are ours.

    Where the runtime isolates nothing, what runs in it may call its handler: ``/ready`` is answered, ``/done`` checks
    the output and ``said`` is told; nothing is committed. Raises PermanentError where the runtime has no terminals, and
    what ``interactive`` raises.
    """
    if not isinstance(runtime, InteractiveRuntime):
        raise PermanentError(
            f"the runtime of module {module.name} offers no shell. Without --shell its workspace is prepared, and "
            "--runtime names another."
        )
    api, secret = HandlerApi(), secrets.token_urlsafe(32)
    api.register(secret, _Calls(workspace, module, said))
    async with api.listening():
        reachable = not runtime.capabilities.isolates
        calls = {"SHARED_SECRET": secret, "HANDLER_PORT": str(api.port)} if reachable else {}
        name = f"ion-debug-{secrets.token_hex(6)}"
        with_shell = replace(module, command=_shell(runtime, terminal))
        labels = {LABEL_STATE: mark, LABEL_MODULE: module.name}
        spec = container_spec(with_shell, name, workspace, calls=calls, labels=labels)
        foreground = await runtime.interactive(spec, terminal=terminal)
        return await _in_front(foreground.argv, foreground.env, str(foreground.cwd))


def _shell(runtime: ContainerRuntime, terminal: bool) -> tuple[str, ...]:
    """The user's own where it is there, and people sit before it; ``sh`` everywhere else."""
    own = os.environ.get("SHELL", "")
    return (own,) if terminal and not runtime.capabilities.images and os.access(own, os.X_OK) else ("sh",)


async def _in_front(argv: Sequence[str], env: Mapping[str, str], cwd: str) -> int:
    process = await asyncio.create_subprocess_exec(*argv, env=dict(env), cwd=cwd)
    with _signals_for(process):
        try:
            code = await process.wait()
        except BaseException:
            process.kill()
            raise
    return code if code >= 0 else 128 - code


@contextmanager
def _signals_for(process: asyncio.subprocess.Process) -> Iterator[None]:
    """Ctrl-C is the shell's: it gets it from the terminal, as we do. SIGTERM ends it, and so us."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, _end, process)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


class _Calls:
    """What a module in the shell may ask of its handler, as often as it is run."""

    def __init__(self, workspace: Workspace, module: Module, said: Callable[[str], None]) -> None:
        self._workspace, self._module, self._said = workspace, module, said

    async def ready(self) -> None:
        """It is filled already."""

    async def done(self) -> None:
        try:
            output = await asyncio.to_thread(read_output, self._workspace, self._module)
        except OutputRefused as error:
            self._said(f"/done: nothing would be committed: {error}")
            raise CallFailed(str(error)) from error
        counts = f"{len(output.files)} files, {len(output.insights)} insights and {len(output.events)} events"
        self._said(f"/done: {counts} would be committed")
