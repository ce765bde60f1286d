"""Whatever starts something ends it, on every signal that ends it; and it ends, whatever hangs."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ion_core import ending
from ion_core.embedded.programs import table
from ion_core.signals import Interrupted
from tests.acceptance.pipeline import ION, TIMEOUT, Pipeline, environment

NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
each_signal = pytest.mark.parametrize("number", NUMBERS, ids=lambda it: it.name)

CONFIG = """
modules:
  slow:
    command: [sh, slow.sh]
    source: modules
    subscribes: [wanted]
    timeout: 10m
"""
SLOW = """
(sleep 1000; true) &
echo "module runs as $$"
sleep 1000
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.make(tmp_path / "home", config=CONFIG, modules={"slow": SLOW})


class Command:
    """A command that runs, and what it printed so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.said = process, ""

    def until(self, text: str) -> str:
        assert self.process.stdout is not None
        while text not in self.said:
            ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
            chunk = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            assert chunk, f"{text!r} was never said:\n{self.said}"
            self.said += chunk.decode(errors="replace")
        return self.said

    def ended(self) -> int:
        assert self.process.stdout is not None
        self.said += self.process.stdout.read().decode(errors="replace")
        return self.process.wait(TIMEOUT)


@contextmanager
def running(pipeline: Pipeline, *arguments: str, argv: list[str] | None = None, stdin: int = -3) -> Iterator[Command]:
    process = subprocess.Popen(
        [*(argv or ION), *arguments],
        cwd=pipeline.home,
        env=environment(PYTHONUNBUFFERED="1"),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Command(process)
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)  # which what it left may hold open


def modules_of(pipeline: Pipeline) -> list[str]:
    """Commands of processes that a module of this pipeline started."""
    home = f"HANDLER_BASE_DIR={pipeline.state}".encode()
    return [
        str((Path("/proc") / str(pid) / "cmdline").read_bytes())
        for pid in table._pids(0)
        if home in (table._environment(pid) or b"")
    ]


def left_in(pipeline: Pipeline) -> list[str]:
    """What a rehearsal has made and not removed."""
    base = pipeline.state / "rehearsals"
    notes = [path.name for path in (pipeline.state / "run").iterdir() if not path.name.startswith(".spare-")]
    return notes + ([path.name for path in base.iterdir()] if base.exists() else [])


@each_signal
def test_a_signal_to_module_run_ends_the_module(pipeline: Pipeline, number: signal.Signals) -> None:
    with running(pipeline, "module", "run", "slow", "--type", "wanted") as command:
        command.until("module runs")
        command.process.send_signal(number)
        assert command.ended() == 128 + number, command.said
        assert "interrupted" in command.said
        assert modules_of(pipeline) == []
        assert left_in(pipeline) == []


@each_signal
def test_a_signal_to_module_test_ends_the_module(pipeline: Pipeline, number: signal.Signals) -> None:
    case = pipeline.home / "cases" / "slow" / "one"
    case.mkdir(parents=True)
    (case / "case.yaml").write_text("event: wanted\n")
    with running(pipeline, "module", "test") as command:
        command.until("1 recorded case")
        until(lambda: bool(modules_of(pipeline)))
        command.process.send_signal(number)
        assert command.ended() == 128 + number, command.said
        assert modules_of(pipeline) == []
        assert left_in(pipeline) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda it: it.name)
def test_a_signal_to_debug_ends_the_shell_and_what_it_started(pipeline: Pipeline, number: signal.Signals) -> None:
    pipeline.ion("event", "publish", "wanted", "--event-id", "e1", "--data", "a=b")
    ours, theirs = os.pipe()
    with running(pipeline, "debug", "e1", "--shell", stdin=ours) as command:
        os.write(theirs, b"sleep 1000 & echo in the shell; sleep 1000\n")
        command.until("in the shell\n")
        command.process.send_signal(number)
        assert command.ended() == 128 + number, command.said
        assert modules_of(pipeline) == []
        assert left_in(pipeline) == []
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (("serve",), signal.SIGTERM),
        (("dev", "run", "wanted"), signal.SIGTERM),
        (("dev", "run", "wanted"), signal.SIGHUP),
    ],
    ids=["serve SIGTERM", "dev run SIGTERM", "dev run SIGHUP"],
)
def test_a_second_signal_ends_what_serves_with_its_modules(
    pipeline: Pipeline, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    pipeline.ion("event", "publish", "wanted", "--data", "a=b")
    if arguments[0] == "dev":
        pipeline.state = pipeline.home / "dev" / ".ion"
    with running(pipeline, *arguments) as command:
        until(lambda: bool(modules_of(pipeline)))
        command.process.send_signal(number)
        command.until(f"{number.name} received, draining")
        command.process.send_signal(number)
        assert command.ended() == 128 + number, command.said
        assert modules_of(pipeline) == []


@pytest.mark.parametrize("arguments", [("serve",), ("dev", "run", "wanted")], ids=["serve", "dev run"])
def test_a_terminal_that_is_closed_ends_what_runs_on_it(pipeline: Pipeline, arguments: tuple[str, ...]) -> None:
    pipeline.ion("event", "publish", "wanted", "--data", "a=b")
    if arguments[0] == "dev":
        pipeline.state = pipeline.home / "dev" / ".ion"
    (pipeline.home / "ion.yaml").write_text(f"{CONFIG}\ndrain_timeout: 100ms\n")
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *ION, *arguments],
        cwd=pipeline.home,
        env=environment(TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        until(lambda: bool(modules_of(pipeline)))
        os.close(terminal)
        assert process.wait(TIMEOUT) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    assert modules_of(pipeline) == []


def test_a_closed_terminal_is_survived_where_it_was_asked_for(pipeline: Pipeline) -> None:
    with running(pipeline, argv=["nohup", *ION, "serve"]) as command:
        command.until("INFO serving")
        command.process.send_signal(signal.SIGHUP)
        command.process.send_signal(signal.SIGTERM)
        assert command.ended() == 128 + signal.SIGTERM
        assert "SIGHUP received" not in command.said


def test_what_a_killed_rehearsal_left_is_removed_by_the_next(pipeline: Pipeline) -> None:
    with running(pipeline, "module", "run", "slow", "--type", "wanted") as command:
        command.until("module runs")
        command.process.kill()
        command.process.wait(TIMEOUT)
        assert modules_of(pipeline)
    (pipeline.home / "modules" / "slow.sh").write_text("true")
    pipeline.ion("module", "run", "slow", "--type", "wanted")
    assert modules_of(pipeline) == []
    assert left_in(pipeline) == []


def until(condition: Callable[[], bool]) -> None:
    """Once it holds; asked again and again, for what tells nobody when it changes."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT * 100)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("never")


def test_a_signal_while_the_command_line_is_read_ends_it_as_ever(pipeline: Pipeline) -> None:
    program = """
import os, signal, sys
import ion_core.config
from ion_core.cli import main
def kill(*_, **__): os.kill(os.getpid(), signal.SIGTERM)
ion_core.config.load_config = kill
sys.exit(main())
"""
    done = pipeline.python("-c", program, "check")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stderr == "ion-core: interrupted\n"


HANGS = """
import sys, threading
from ion_core import ending
from ion_core.cli import main
ending.LAST_WITHIN = 0.1
{patch}
sys.exit(main())
"""
IN_A_THREAD = """
from ion_core.embedded.local.putting import Putting
def never(*_):
    print("a call hangs", file=sys.stderr, flush=True)
    threading.Event().wait()
Putting.__call__ = never
"""
IN_THE_DEFAULT_POOL = """
import ion_core.handler.handler as handler, asyncio
async def sweep(self, also=()):
    await asyncio.to_thread(never)
def never(*_):
    print("a call hangs", file=sys.stderr, flush=True)
    threading.Event().wait()
handler.Handler.sweep = sweep
"""
IN_A_DATABASE = """
import ion_core.embedded.sqlite.database as database
def never(*_):
    print("a call hangs", file=sys.stderr, flush=True)
    threading.Event().wait()
database.Database._disconnect_all = never
"""


@pytest.mark.parametrize("patch", [IN_A_THREAD, IN_THE_DEFAULT_POOL], ids=["blobs", "default pool"])
def test_serve_ends_beside_a_call_that_never_returns_and_names_it(pipeline: Pipeline, patch: str) -> None:
    (pipeline.home / "modules" / "slow.sh").write_text("echo done > $HANDLER_BASE_DIR/out/data/file")
    if patch is IN_A_THREAD:
        pipeline.ion("event", "publish", "wanted", "--data", "a=b")
    with running(pipeline, "serve", argv=[sys.executable, "-c", HANGS.format(patch=patch)]) as command:
        command.until("a call hangs")
        command.process.terminate()
        while command.process.poll() is None:
            command.process.terminate()
            try:
                command.process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        assert command.ended() == 128 + signal.SIGTERM, command.said
    assert "does not end, and is left: thread" in command.said
    assert "never (<string>:" in command.said, "it says where"


def test_a_command_that_is_done_ends_beside_a_thread_that_does_not(pipeline: Pipeline) -> None:
    program = HANGS.format(patch=f"ending.CLOSE_WITHIN = 0.5\n{IN_A_DATABASE}")
    done = pipeline.python("-c", program, "event", "publish", "wanted", "--data", "a=b")
    assert done.returncode == ending.UNAVAILABLE, done.stderr
    assert "thread 'sqlite " in done.stderr
    assert "never (<string>:" in done.stderr


def test_what_ends_in_time_is_left_alone() -> None:
    async def work() -> str:
        ending.within(60)
        return "done"

    assert ending.run(work()) == "done"


def test_a_signal_cancels_the_work_and_is_told_once_that_is_over() -> None:
    cleaned = []

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGHUP)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(Interrupted) as told:
        ending.run(work())
    assert told.value.number == signal.SIGHUP
    assert cleaned == [True]
    assert [signal.getsignal(number) for number in NUMBERS] == before
