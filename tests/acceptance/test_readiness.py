"""`GET /readyz` of a real `serve` while one of its parts is really broken: it says where, what, and what would do.

Nothing is published meanwhile, unless that is what shows it: who asks for readiness may be all there is to do.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ion_podman.testing import BUSYBOX, podman_service
from ion_rabbitmq.testing import RabbitServer
from plugins.ion_kubernetes.tests.served import served_by_cluster
from tests.acceptance.pipeline import ION, environment
from tests.acceptance.small_disk import SmallDisk
from tests.acceptance.small_disk import disk as disk
from tests.support import commands
from tests.support.object_stores import moto_server

CONSOLE = {"console": {"listen": "127.0.0.1:0", "auth": "none"}}
WORK = {"work": {"command": ["true"], "source": ".", "subscribes": ["work.asked"]}}
WITHIN = 60.0


class Asked:
    """A `serve` with a console at ``url``."""

    def __init__(self, url: str, log: Path) -> None:
        self._url = url
        self._log = log

    def readiness(self) -> tuple[int, Any]:
        said = subprocess.run(
            ["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", f"{self._url}/readyz"],
            capture_output=True,
            text=True,
            check=True,
        )
        body, _, status = said.stdout.rpartition("\n")
        return int(status), json.loads(body)

    def red(self, where: str) -> Mapping[str, str]:
        """The problem of that part, once it has one and with it nothing is ready."""
        status, said = self._once(lambda said: where in [it["where"] for it in said["problems"]])
        assert (status, said["ready"], said["draining"]) == (503, False, False)
        [found] = [it for it in said["problems"] if it["where"] == where]
        assert found.keys() == {"where", "what", "wouldDo", "since"}
        assert all(found.values()), found
        return dict(found)

    def green(self) -> None:
        found = self._once(lambda said: said["ready"])
        assert found == (200, {"ready": True, "draining": False, "problems": []})

    def _once(self, holds: Callable[[Any], bool]) -> tuple[int, Any]:
        until = time.monotonic() + WITHIN
        while not holds((found := self.readiness())[1]):
            assert time.monotonic() < until, f"{found}\n{self._log.read_text()}"
            time.sleep(0.1)
        return found


@contextmanager
def asked(home: Path, *, command: Sequence[str] = (*ION, "serve"), **environ: str) -> Iterator[Asked]:
    """`serve` in ``home``, which is ready."""
    log = home / "serve.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, cwd=home, env=environment(**environ), stderr=stderr) as process,
    ):
        try:
            until = time.monotonic() + WITHIN
            while not (found := re.search(r"the console listens url=(\S+)\n", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.02)
            it = Asked(found[1], log)
            it.green()
            yield it
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def write(home: Path, **sections: Any) -> Path:
    home.mkdir(exist_ok=True)
    said = {"modules": WORK, "services": CONSOLE, "drain_timeout": "1s", **sections}
    (home / "ion.yaml").write_text(json.dumps(said), encoding="utf-8")
    return home


def test_a_broker_that_is_away(tmp_path: Path) -> None:
    server = RabbitServer(tmp_path / "node")
    try:
        server.start()
        home = write(tmp_path / "home", messaging={"provider": "rabbitmq", "url": server.url})
        with asked(home) as it:
            server.kill()
            problem = it.red("queue work")
            assert re.search("127.0.0.1|localhost", problem["what"])
            server.start()
            it.green()
    finally:
        server.remove()


def test_a_runtime_that_is_away(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ion-podman-") as directory,
        podman_service(Path(directory) / "podman") as service,
    ):
        service.build_busybox()
        module = {"image": BUSYBOX, "command": ["true"], "subscribes": ["work.asked"]}
        runtime = {"provider": "podman", "url": service.url}
        home = write(tmp_path / "home", modules={"work": module}, runtimes={"default": runtime})
        with asked(home) as it:
            service.kill()
            assert str(service.socket) in it.red("runtimes.default")["what"]
            service.start()
            it.green()
            service.pause()  # it takes connections, and says nothing
            it.red("runtimes.default")
            service.resume()
            it.green()


def test_stores_that_are_away(tmp_path: Path) -> None:
    with ExitStack() as first:
        store = first.enter_context(moto_server(tmp_path / "log"))
        where = {"provider": "fsspec", "url": store.root, "options": store.options}
        home = write(tmp_path / "home", storage={"blobs": where, "documents": where})
        with asked(home) as it:
            first.close()
            for part in ("storage.blobs", "storage.documents"):
                assert store.root in it.red(part)["what"]
            with moto_server(tmp_path / "log", port=store.port):
                it.green()


async def test_an_executor_that_is_away(tmp_path: Path) -> None:
    modules = {"work": {"command": ["true"], "subscribes": ["work.asked"]}}
    async with served_by_cluster(tmp_path, modules, services=CONSOLE) as cluster:
        stack = ExitStack()
        try:
            it = await asyncio.to_thread(stack.enter_context, asked(cluster.pipeline.home))
            await cluster.cluster.down()
            problem = await asyncio.to_thread(it.red, "runtimes.default")
            assert cluster.cluster.url.removeprefix("http://") in problem["what"]
            await cluster.cluster.up()
            await asyncio.to_thread(it.green)
        finally:
            await asyncio.to_thread(stack.close)


def test_a_disk_that_is_full(tmp_path: Path, disk: SmallDisk) -> None:
    home = write(tmp_path / "home")
    serve = disk.inside(*ION, "serve", "--state-dir", str(tmp_path / "disk" / "state"))
    command = ["sh", "-c", 'cd "$0" && exec "$@"', str(home), *serve]
    with asked(home, command=command, ION_CONFIG=str(home / "ion.yaml")) as it:
        disk.fill()
        assert "space" in it.red("storage")["what"]
        disk.free()
        it.green()


PLUGIN = """
import time
from ion_core.hookspecs import hookimpl

@hookimpl
def ion_traceparent(attempt):
    time.sleep(3.5)
"""


def test_an_event_loop_that_is_held_up(tmp_path: Path) -> None:
    """By a plugin that computes where all is to wait for."""
    site = tmp_path / "site"
    info = site / "ion_slow-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "ion_slow.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ion-slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ion_core]\nslow = ion_slow\n")
    home = write(tmp_path / "home")
    with asked(home, PYTHONPATH=str(site)) as it:
        assert commands.run("event", "publish", "work.asked", cwd=home, environ=environment()).returncode == 0
        assert re.fullmatch(r"was held up for [34] s", it.red("event loop")["what"])
