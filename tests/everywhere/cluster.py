"""The stand-in for Kubernetes as a process of its own, until its standard input ends."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from plugins.ion_kubernetes.tests.fake.containers import Image, machine_image
from plugins.ion_kubernetes.tests.fake.processes import Processes
from plugins.ion_kubernetes.tests.fake.server import fake_kubernetes
from plugins.ion_kubernetes.tests.served import HANDLER, MODULE, TOKEN, kubeconfig


async def main(pods: Path, programs: Path, shared: Path) -> None:
    machine = machine_image(shared)
    module = Image({**machine.files, "/app": programs}, env=machine.env)
    life = Processes(pods, {MODULE: module, HANDLER: machine})
    async with fake_kubernetes(lambda pod: life) as cluster:
        cluster.tokens = {TOKEN}
        print(json.dumps({"kubeconfig": kubeconfig(cluster.url)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
