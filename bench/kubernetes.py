"""The stand-in for an API server of Kubernetes in a process of its own: ``python -m bench.kubernetes``.

It prints where it listens. Each pod runs its module until the process ends. Each line that comes in is answered, in
JSON, with how many modules run, and how many watches and connections are open. ``lines N`` has each module print N
lines a second from then on, ``figures`` does nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINE = b"epoch 17 of 90, step 4711: loss 0.0932, 512 pictures a second, 11.3 GiB in use\n"


@dataclass
class StandIn:
    """One that listens at ``url``."""

    url: str
    process: asyncio.subprocess.Process

    async def say(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        answered: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return answered


@asynccontextmanager
async def stand_in() -> AsyncIterator[StandIn]:
    """It ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.kubernetes"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield StandIn((await process.stdout.readline()).decode().strip(), process)
    finally:
        process.kill()
        await process.wait()


async def _serve() -> None:
    from plugins.ion_kubernetes.tests.fake.replay import Replay, running
    from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes

    lives: dict[str, Replay] = {}

    def life(pod: dict[str, Any]) -> Replay:
        return lives.setdefault(pod["metadata"]["uid"], Replay("ok", hold=running("module")))

    async def printing(cluster: FakeKubernetes, a_second: float) -> None:
        """Evenly, in twenty portions a second."""
        owed = 0.0
        while True:
            for number, uid in enumerate(list(lives)):
                if number % 20 == int(owed) % 20:
                    cluster.node.print(uid, "module", LINE)
            owed += 1
            await asyncio.sleep(1 / (20 * a_second))

    async with fake_kubernetes(life) as cluster:
        print(cluster.url, flush=True)
        tasks = []
        while line := (await asyncio.to_thread(sys.stdin.readline)).split():
            if line[0] == "lines":
                tasks.append(asyncio.create_task(printing(cluster, float(line[1]))))
            print(json.dumps(_figures(cluster, lives.values())), flush=True)


def _figures(cluster: Any, lives: Any) -> dict[str, int]:
    return {
        "running": sum(it.held.is_set() for it in lives),
        "watches": len(cluster.watches),
        "connections": len(cluster._runner.server.connections),
        "calls": len(cluster.calls),
    }


if __name__ == "__main__":
    asyncio.run(_serve())
