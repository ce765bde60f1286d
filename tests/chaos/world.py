"""RabbitMQ and S3 behind proxies, containers of Podman, two dispatchers: and what a plan does to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ion_podman.testing import BUSYBOX, PodmanService, podman_service
from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import ION, environment
from tests.chaos.carrying import Undo
from tests.chaos.counting import Counted, count, stored_in
from tests.chaos.dispatchers import Dispatcher
from tests.chaos.pipeline import modules
from tests.chaos.plan import DISPATCHERS, Act
from tests.chaos.proxy import TcpProxy, tcp_proxy
from tests.chaos.s3 import S3Server
from tests.support.object_stores import s3_at

PLACE = "chaos"
"""The prefix in the bucket, and that of the queues."""
DELAY = 0.2
"""Seconds by which a proxy holds back each piece of data, while it delays."""
AT_ONCE = 4
"""Events that are published by one command."""
ENDS_WITHIN = 90.0
SETTLES_WITHIN = 180.0
"""Seconds for what is left to do. Where a crash came between the record of a last attempt and its dead letter, that is
waited for for a minute: so long RabbitMQ may hide it.
"""
WAITED_ENOUGH = 5000
"""Milliseconds after which RabbitMQ sends again what has waited and did not arrive in its queue, as in a crash: three
minutes, unless it is told so, in which no queue shows it.
"""
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}
EXPECTED_ENDS = {-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 69, 75}
"""Exit codes of a dispatcher: it was killed, it was told to end, or what it needs was away when it began."""


@dataclass
class World:
    """Everything that runs; ``mark`` is in the environment of all modules."""

    mark: str
    rabbit: RabbitServer
    podman: PodmanService
    s3: S3Server
    to_rabbit: TcpProxy
    to_s3: TcpProxy
    dispatchers: Sequence[Dispatcher]
    publisher: Path

    # What happens

    def suffers(self, act: Act) -> Undo | None:
        """Returns what ends it; None if there is nobody to do it to."""
        match act.what, act.whom:
            case "kill", "the broker":
                return self._kill(self.rabbit)
            case "stop", "the broker":
                self.rabbit.freeze()
                return self.rabbit.thaw
            case "kill", "S3":
                return self._kill(self.s3)
            case "stop", "S3":
                self.s3.freeze()
                return self.s3.thaw
            case "kill", "the service of Podman":
                self.podman.kill()
                self.podman.start()
                return nothing
            case "stop", "the service of Podman":
                self.podman.pause()
                return self.podman.resume
            case _, "the way to the broker":
                return self._way(self.to_rabbit, act)
            case _, "the way to S3":
                return self._way(self.to_s3, act)
            case _, "a module":
                return self._module(act)
        dispatcher = self.dispatchers[DISPATCHERS.index(act.whom)]
        hit = dispatcher.signal(SIGNALS[act.what])
        return partial(dispatcher.signal, signal.SIGCONT) if hit else None

    @staticmethod
    def _kill(server: RabbitServer | S3Server) -> Undo:
        server.kill()
        server.begin()
        return nothing

    @staticmethod
    def _way(proxy: TcpProxy, act: Act) -> Undo:
        if act.what == "cut":
            proxy.cut()
            return nothing
        if act.what == "silence":
            proxy.silence()
            return proxy.speak
        proxy.delay = DELAY
        return partial(setattr, proxy, "delay", 0.0)

    def _module(self, act: Act) -> Undo | None:
        if not (running := self.modules()):
            return None
        pid = running[int(act.chance * len(running))]
        return partial(send, pid, signal.SIGCONT) if send(pid, SIGNALS[act.what]) else None

    def modules(self) -> Sequence[int]:
        """The first process of each container of a module that runs."""
        return [pid for pid in self.module_processes() if is_first(pid)]

    def module_processes(self) -> Sequence[int]:
        """The first ones of their containers, and what those have started."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if f"MARK={self.mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return sorted(found)

    # What comes in

    def publishes(self, ids: Sequence[str], seconds: float) -> threading.Thread:
        """Begin to publish an event of each of these ids, some at a time, spread over that time.

        Whatever is not accepted as a whole is published again, all of it: the ids are the same.
        """
        thread = threading.Thread(target=self._publish, args=(ids, seconds), daemon=True)
        thread.start()
        return thread

    def _publish(self, ids: Sequence[str], seconds: float) -> None:
        began = time.monotonic()
        for first in range(0, len(ids), AT_ONCE):
            time.sleep(max(began + seconds * first / len(ids) - time.monotonic(), 0))
            lines = [json.dumps({"eventId": id, "correlationId": id}) for id in ids[first : first + AT_ONCE]]
            (self.publisher / "batch").write_text("\n".join(lines), encoding="utf-8")
            words = ["event", "publish", "whole.received", "--batch", "batch"]
            while self._ion(self.publisher, *words, within=ENDS_WITHIN).returncode != 0:
                time.sleep(0.2)

    # What comes out

    def settles(self) -> Iterator[str]:
        """Have all work done that there is; yields what was not as promised of the ends (I6)."""
        for dispatcher in self.dispatchers:
            if not dispatcher.end(ENDS_WITHIN):
                yield f"I6: {dispatcher.home.name} did not end within {ENDS_WITHIN:g} s: {dispatcher.tail()}"
            for code in dispatcher.ends.keys() - EXPECTED_ENDS:
                yield f"I6: {dispatcher.home.name} ended with {code}: {dispatcher.tail()}"
            if dispatcher.ends[-signal.SIGKILL] != dispatcher.killed:
                yield f"I6: {dispatcher.home.name} was killed {dispatcher.killed} times, and ended so otherwise"
            if "Traceback" in dispatcher.log.read_text("utf-8", "replace"):
                yield f"I6: {dispatcher.home.name} told of a bug: {dispatcher.log}"
        self.rabbit.answers()
        self.s3.answers()
        # together, and each clears up what was begun in its own directory
        with ThreadPoolExecutor() as both:
            yield from filter(None, both.map(self._until_idle, self.dispatchers))

    def _until_idle(self, dispatcher: Dispatcher) -> str | None:
        """What was not as promised."""
        try:
            done = self._ion(dispatcher.home, "serve", "--until-idle", within=SETTLES_WITHIN)
            said, ended, fine = done.stderr, f"ended with {done.returncode}", done.returncode in (0, 1)
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode("utf-8", "replace")
            ended, fine = f"is not idle after {error.timeout:g} s", False
        (dispatcher.home / "last").write_text(said, encoding="utf-8")
        return None if fine else f"I6: the last {dispatcher.home.name} {ended}: {said[-4000:]}"

    def counts(self, accepted: Sequence[str]) -> Counted:
        """I1 to I5, once it has settled."""
        dead = json.loads(self._ion(self.publisher, "dlq", "list", "--json", within=ENDS_WITHIN).stdout)
        queues = json.loads(self._ion(self.publisher, "module", "list", "--json", within=ENDS_WITHIN).stdout)
        waiting = sum(it["queue"][name] or 0 for it in queues for name in ("ready", "delayed", "unsettled"))
        counted = count(stored_in(self.s3.store, PLACE, dead, waiting), accepted)
        counted.broken += self._left()
        return counted

    def _left(self) -> Iterator[str]:
        if names := self.podman.containers():
            yield f"I5: containers are left: {', '.join(names)}"
        if pids := self.module_processes():
            yield f"I5: processes of modules are left: {pids}"
        for dispatcher in self.dispatchers:
            for place in ("work", "run", "jobs"):
                directory = dispatcher.home / ".ion" / place
                entries = sorted(directory.iterdir()) if directory.is_dir() else []
                left = [it.name for it in entries if not it.name.startswith(".spare-")]
                if left:
                    yield f"I5: {dispatcher.home.name} has left {left} in {place}"

    def keeps(self, place: Path) -> None:
        """Copies of what everybody said, for people."""
        place.mkdir(parents=True, exist_ok=True)
        for dispatcher in self.dispatchers:
            for log in (dispatcher.log, dispatcher.home / "last"):
                shutil.copy(log, place / f"{dispatcher.home.name}.{log.name}")
        for log in (self.podman.directory / "service.log", self.rabbit.home / "output", self.s3.directory / "log"):
            shutil.copy(log, place / f"{log.parent.name}.{log.name}")

    @staticmethod
    def _ion(home: Path, *arguments: str, within: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ION, *arguments],
            cwd=home,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )


def nothing() -> None:
    """Ends what ends by itself."""


def is_first(pid: int) -> bool:
    """Whether it has the id 1 where it runs; False once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines)


def send(pid: int, number: signal.Signals) -> bool:
    """Whether it was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def world(mark: str) -> Iterator[World]:
    """One that runs while the body does; nothing of it is left afterwards. Its dispatchers have not begun yet."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ion-chaos-")))
        rabbit = RabbitServer(directory / "rabbitmq")
        stack.callback(rabbit.remove)
        stack.callback(rabbit.thaw)
        rabbit.configure(dead_letter_worker_publisher_confirm_timeout=WAITED_ENOUGH)
        rabbit.start()
        s3 = S3Server(directory / "s3")
        stack.callback(s3.kill)
        s3.start()
        podman = stack.enter_context(podman_service(directory / "podman"))
        podman.build_busybox()
        to_rabbit = stack.enter_context(tcp_proxy(rabbit.port))
        to_s3 = stack.enter_context(tcp_proxy(s3.store.port))
        place = {"provider": "fsspec", "url": f"{s3.store.root}/{PLACE}", "options": dict(s3_at(to_s3.port).options)}
        config = {
            "messaging": {
                "provider": "rabbitmq",
                "url": f"amqp://guest:guest@127.0.0.1:{to_rabbit.port}/",
                "prefix": PLACE,
            },
            "runtimes": {"default": {"provider": "podman", "url": podman.url}},
            "storage": {"blobs": place, "documents": place},
            "drain_timeout": "20s",
            "modules": modules(BUSYBOX, mark),
        }
        homes = [directory / name.replace(" ", "-") for name in (*DISPATCHERS, "publisher")]
        for home in homes:
            home.mkdir()
            (home / "ion.yaml").write_text(json.dumps(config), encoding="utf-8")
        dispatchers = [Dispatcher(home) for home in homes[:2]]
        for dispatcher in dispatchers:
            stack.callback(dispatcher.kill)
        yield World(mark, rabbit, podman, s3, to_rabbit, to_s3, dispatchers, homes[2])
