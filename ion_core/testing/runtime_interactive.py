"""The runtime kit's rule about containers on a terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from subprocess import PIPE

from ion_core.contracts.runtime import ContainerRuntime, InteractiveRuntime
from ion_core.testing.programs import RuntimeKit

ODD = """two  words, "quotes", 'more', $HOME and a\ttab"""


class InteractiveRules(RuntimeKit):
    """Kept by runtimes that have ``interactive``; for others there is nothing to keep."""

    async def test_what_is_interactive_is_the_same_container(self, runtime: ContainerRuntime, tmp_path: Path) -> None:
        if not isinstance(runtime, InteractiveRuntime):
            return
        spec = self.spec(tmp_path, self.listens("in/data/there", "out/data/heard", code=5), env={"ODD": ODD})
        (spec.workspace / "in/data/there").write_text("was there\n")
        foreground = await self.within(runtime.interactive(spec, terminal=False), "interactive")
        assert not any(ODD in argument for argument in foreground.argv), "its environment is for all to see in argv"
        assert not (spec.workspace / "out/data/heard").exists(), "it ran already"
        process = await asyncio.create_subprocess_exec(
            *foreground.argv, env=dict(foreground.env), cwd=foreground.cwd, stdin=PIPE, stdout=PIPE
        )
        try:
            said, _ = await self.within(process.communicate(b"hello\n"), "the end of it")
        finally:
            if process.returncode is None:
                process.kill()
        assert said.decode() == f"was there\n{ODD}\n"
        assert (spec.workspace / "out/data/heard").read_text() == "hello\n"
        assert process.returncode == 5
        assert await self.state(runtime, spec) is None, "it is left behind"
