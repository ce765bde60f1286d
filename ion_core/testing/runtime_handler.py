"""The runtime kit's rule about the handler, which a module may call over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ion_core.contracts.runtime import ContainerRuntime
from ion_core.testing.programs import RuntimeKit


class HandlerRules(RuntimeKit):
    """Listening where the program calls."""

    async def test_a_program_reaches_its_handler(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        async with self.handler_api() as (port, serve):
            spec = self.spec(tmp_path, self.calls(port))
            async with self.made(runtime, spec) as ref:
                listening = asyncio.create_task(runtime.listen(ref, port))
                await self.within(runtime.start(ref), "start")
                if (inside := await self.within(listening, "listen")) is not None:
                    await serve(inside)
                status = await self.ended(runtime, ref)
                if runtime.capabilities.handler_api:
                    assert status.code == 0, "the program could not call its handler"
                    assert [line.text for line in await self.lines(runtime, ref)] == ["called"]
                else:
                    assert status.code != 0, "the program called its handler, and handler_api is not offered"
