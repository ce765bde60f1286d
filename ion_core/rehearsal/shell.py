"""A shell where a module runs: in its workspace's container, with its environment, on the user's own terminal."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from ion_core import ending
from ion_core.contracts.runtime import ContainerRuntime, InteractiveRuntime
from ion_core.dispatcher.slots import LABEL_MODULE, LABEL_STATE, container_spec
from ion_core.errors import IonError, OutputRefused, PermanentError
from ion_core.handler import HandlerApi, Workspace
from ion_core.handler.output import read_output
from ion_core.handler.session import CallFailed
from ion_core.modules import Module
from ion_core.words import counted


async def run_shell(
    module: Module,
    workspace: Workspace,
    *,
    runtime: ContainerRuntime,
    mark: str,
    terminal: bool,
    said: Callable[[str], None],
    put_back: Callable[[], Awaitable[object]],
) -> int:
    """Run a shell there until it ends; its exit code. Standard input, output and error are ours.

    Where the runtime isolates nothing, what runs in it may call its handler: at ``/ready`` ``put_back`` puts inputs
    there again that are gone, ``/done`` checks the output and ``said`` is told; nothing is committed. Raises
    PermanentError where the runtime has no terminals, and what ``interactive`` raises.
    """
    if not isinstance(runtime, InteractiveRuntime):
        raise PermanentError(
            f"the runtime of module {module.name} offers no shell. Without --shell its workspace is prepared, and "
            "--runtime names another."
        )
    api, secret = HandlerApi(), secrets.token_urlsafe(32)
    api.register(secret, _Calls(workspace, module, said, put_back))
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
    """Ctrl-C is the shell's: it gets it from the terminal, as we do. What else ends us ends it."""
    ended_by: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_signal(number: int) -> None:
        if number != signal.SIGINT and not ended_by.done():
            ended_by.set_result(number)

    with ending.on_signals(on_signal):
        process = await asyncio.create_subprocess_exec(*argv, env=dict(env), cwd=cwd)
        waiting = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({waiting, ended_by}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if process.returncode is None:
                process.kill()
            code = await waiting
    if ended_by.done():
        return 128 + ended_by.result()
    return code if code >= 0 else 128 - code


class _Calls:
    """What a module in the shell may ask of its handler, as often as it is run."""

    def __init__(
        self,
        workspace: Workspace,
        module: Module,
        said: Callable[[str], None],
        put_back: Callable[[], Awaitable[object]],
    ) -> None:
        self._workspace, self._module, self._said, self._put_back = workspace, module, said, put_back

    async def ready(self) -> None:
        try:
            await self._put_back()
        except IonError as error:
            raise CallFailed(str(error)) from error

    async def done(self) -> None:
        try:
            output = await asyncio.to_thread(read_output, self._workspace, self._module)
        except OutputRefused as error:
            self._said(f"/done: nothing would be committed: {error}")
            raise CallFailed(str(error)) from error
        counts = (
            f"{counted(len(output.files), 'file')}, {counted(len(output.insights), 'insight')} and "
            f"{counted(len(output.events), 'event')}"
        )
        self._said(f"/done: {counts} would be committed")
