"""Ion from Python over HTTP, against the console of a real `serve`: the same as by the providers, in each respect."""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from ion_core.client import AsyncIon, Flow, Ion
from ion_core.errors import (
    ConfigError,
    DocumentNotFound,
    IdTaken,
    InvalidEvent,
    PermanentError,
    TransientError,
    Unroutable,
)
from tests.acceptance.pipeline import ION, Pipeline, environment
from tests.support.certificates import Authority

LOOK, MEND = "look-canary-0123456789", "mend-canary-0123456789"
SPLIT = """
cp -p "$HANDLER_BASE_DIR"/in/data/* "$HANDLER_BASE_DIR/out/data/" 2>/dev/null
echo "a line <b>of</b> its log"
cd "$HANDLER_BASE_DIR/out"
printf '[{"key":"x","value":"1"},{"key":"x","value":"2"},{"key":"y","value":"<i>"}]' > insights.json
printf '[{"key":"eventType","value":"part.made"},{"key":"n","value":"1"}]' > events/1.json
"""
CONFIG = """
modules:
  split:
    command: [sh, split.sh]
    source: modules
    subscribes: [whole.received]
    publishes: [part.made]
  bad: {{command: [sh, -c, "exit 3"], source: modules, subscribes: [part.made], retries: 0}}
  slow: {{command: [sh, -c, 'cat "$1"/go', sh, "HOME"], source: modules, subscribes: [slow.received]}}
services:
  console:
    listen: LISTEN
    tokens: {{look: LOOK, mend: MEND}}
TLS
drain_timeout: 1s
"""


def made(home: Path, *, listen: str = "127.0.0.1:0", tls: str = "") -> Pipeline:
    config = CONFIG.replace("HOME", str(home)).replace("LISTEN", listen).replace("TLS", tls)
    for token in (LOOK, MEND):
        config = config.replace(token.partition("-")[0].upper(), token)
    pipeline = Pipeline.make(home, config=config, modules={"split": SPLIT})
    os.mkfifo(home / "go")
    return pipeline


@contextmanager
def served(pipeline: Pipeline) -> Iterator[str]:
    """The URL of its console; its log is read as it comes, and shown where that is never there."""
    lines: list[str] = []
    urls: queue.Queue[str] = queue.Queue()

    def read(log: IO[str]) -> None:
        for line in log:
            lines.append(line)
            if found := re.search(r"the console listens url=(\S+)", line):
                urls.put(found[1])

    with subprocess.Popen(
        [*ION, "serve"], cwd=pipeline.home, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        reading = threading.Thread(target=read, args=(process.stderr,))
        reading.start()
        try:
            yield urls.get(timeout=60)
        except queue.Empty:
            raise AssertionError("".join(lines)) from None
        finally:
            process.terminate()
            process.wait(60)
            reading.join()
    assert "canary" not in "".join(lines)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return made(tmp_path_factory.mktemp("connect") / "home")


@pytest.fixture(scope="module")
def url(pipeline: Pipeline) -> Iterator[str]:
    with served(pipeline) as found:
        yield found


@pytest.fixture
def ion(url: str) -> Iterator[Ion]:
    with Ion.connect(url, token=MEND) as found:
        yield found


@pytest.fixture
def by_providers(pipeline: Pipeline) -> Iterator[Ion]:
    with Ion.open(pipeline.home / "ion.yaml") as found:
        yield found


def tree(directory: Path) -> dict[str, tuple[bytes, bool]]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(it.relative_to(directory)): (it.read_bytes(), os.access(it, os.X_OK)) for it in files}


def test_all_of_a_flow_is_the_same_as_by_its_providers(ion: Ion, by_providers: Ion, tmp_path: Path) -> None:
    contents = {"plain.txt": b"a\r\n--b--\r\n", "\"ä'; %22.bin": bytes(range(256)), "run.sh": b"exit 0", "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "run.sh").chmod(0o755)
    pairs = [("a", "1"), ("a", "2"), ('k"\r\n', "ü\x00")]
    flow = ion.publish("whole.received", data=pairs, files=[tmp_path / name for name in contents], name="me")
    found = flow.wait(60)
    other = by_providers.flow(flow.id)
    assert (found.outcome, found.over, found.failing) == ("dead", True, ("bad",))
    assert found == flow.state() == other.state()
    assert flow.events() == other.events()
    assert (flow.events()[0].name, flow.events()[0].data) == ("me", tuple(pairs))
    assert flow.jobs() == other.jobs()
    assert [it.state for it in flow.jobs()] == ["committed", "dead-lettered"]
    assert (
        flow.insights()
        == other.insights()
        == [{"module": "split", "event": flow.event_id, "x": ["1", "2"], "y": "<i>"}]
    )
    assert flow.logs() == other.logs()
    assert "a line <b>of</b> its log" in flow.logs("split")[0].text
    assert [repr(it) for it in flow.files()] == [repr(it) for it in other.files()]
    assert [(it.sha256, it.event_id, it.came_in) for it in flow.files()] == [
        (it.sha256, it.event_id, it.came_in) for it in other.files()
    ]
    for it, directory in ((flow, tmp_path / "http"), (other, tmp_path / "providers")):
        it.fetch(directory)
    assert tree(tmp_path / "http") == tree(tmp_path / "providers")
    assert {Path(name).name for name in tree(tmp_path / "http")} == set(contents)
    assert flow.fetch(tmp_path / "http"), "again"
    file = next(it for it in flow.files() if it.name == "plain.txt")
    assert file.fetch(tmp_path / "got").read_bytes() == contents["plain.txt"]
    with pytest.raises(FileExistsError, match="is there already"):
        file.fetch(tmp_path / "got")
    drawn, expected = flow._repr_html_(), other._repr_html_()
    assert drawn.startswith("<iframe sandbox ")
    assert re.sub(r"\d\d:\d\d:\d\d", "", drawn) == re.sub(r"\d\d:\d\d:\d\d", "", expected)


def test_the_same_id_again_is_the_same_event_whichever_way(ion: Ion, by_providers: Ion, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "f").chmod(0o755)
    first = ion.publish("slow.received", data={"a": "1"}, files=[tmp_path / "f"], event_id="mine")
    with pytest.raises(IdTaken) as other:
        by_providers.publish("slow.received", event_id="mine")
    differs = other.value.differs
    for way in (ion, by_providers):
        again = way.publish("slow.received", data={"a": "1"}, files=[tmp_path / "f"], event_id="mine")
        assert (again.id, again.event_id) == (first.id, "mine")
        with pytest.raises(IdTaken) as error:
            way.publish("slow.received", event_id="mine")
        assert error.value.differs == differs


def test_what_is_wrong_is_raised_as_by_its_providers(ion: Ion, by_providers: Ion, tmp_path: Path) -> None:
    for way in (ion, by_providers):
        with pytest.raises(Unroutable, match=r"Did you mean 'whole\.received'"):
            way.publish("whole.recieved")
        for wrong in ({"event_id": ""}, {"name": ""}, {"data": {"a": "\ud800"}}, {"files": {"../x": __file__}}):
            with pytest.raises(InvalidEvent):
                way.publish("whole.received", **wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidEvent, match="no such file"):
            way.publish("whole.received", files=[tmp_path / "none"])
        with pytest.raises(InvalidEvent, match="is not a regular file"):
            way.publish("whole.received", files=[tmp_path])
        for id in ("nope", "", "x" * 2000, "../flows", "a?b#c", "ä\n"):
            none = way.flow(id)
            for asked in (none.state, none.logs, none.files, none.jobs, none.wait):
                with pytest.raises(DocumentNotFound, match="there is none of this id"):
                    asked()


def test_who_may_not_is_told_without_the_token(url: str) -> None:
    with Ion.connect(url, token=LOOK) as ion:
        with pytest.raises(ConfigError, match="This token may look, and not mend"):
            ion.publish("whole.received")
        with pytest.raises(DocumentNotFound):
            ion.flow("nope").state()
    for token in (None, "wrong-canary-0123456789"):
        with Ion.connect(url, token=token) as ion, pytest.raises(ConfigError, match="Give a token") as error:
            ion.flow("nope").state()
        assert "canary" not in str(error.value)


def test_a_large_file_is_the_same_there_and_back(ion: Ion, tmp_path: Path) -> None:
    piece = hashlib.sha256(b"").digest() * 32_768
    with (tmp_path / "large").open("wb") as file:
        for n in range(40):
            file.write(n.to_bytes() + piece)
    flow = ion.publish("whole.received", files=[tmp_path / "large"])
    (came, *_) = flow.files()
    with (tmp_path / "large").open("rb") as file:
        assert came.sha256 == hashlib.file_digest(file, "sha256").hexdigest()
    came.fetch(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


async def test_many_wait_at_a_time_with_an_event_loop(url: str) -> None:
    async with AsyncIon.connect(url, token=MEND) as ion:
        flows = await asyncio.gather(*(ion.publish("whole.received", data=[("n", str(n))]) for n in range(40)))
        assert len({it.id for it in flows}) == 40
        assert {(await it.outcome()).type for it in flows} == {"whole.received"}
        assert {it.outcome for it in await asyncio.gather(*(it.wait(100) for it in flows))} == {"dead"}
        assert "<iframe" in await flows[0].html()


def slow(ion: Ion) -> Flow:
    return ion.publish("slow.received")


def test_a_wait_ends_when_its_time_is_over(ion: Ion) -> None:
    for timeout in (0.01, 1.5):
        with pytest.raises(TimeoutError, match=rf"is running after {timeout} s \(1 pending\)"):
            slow(ion).wait(timeout)


def test_ctrl_c_ends_a_wait_and_nothing_else(ion: Ion) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        flow = slow(ion)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            flow.wait()
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert flow.outcome == "running"


def test_what_is_closed_says_so(url: str) -> None:
    with Ion.connect(url, token=MEND) as ion:
        flow = slow(ion)
    with pytest.raises(RuntimeError, match="this Ion is closed"):
        flow.events()
    assert not [it for it in threading.enumerate() if it.name == "ion"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_who_waits_goes_on_when_the_console_is_there_again(tmp_path: Path) -> None:
    port = free_port()
    pipeline = made(tmp_path / "home", listen=f"127.0.0.1:{port}")
    with Ion.connect(f"http://127.0.0.1:{port}", token=MEND) as ion:
        with pytest.raises(TransientError, match="cannot be reached"):
            slow(ion)
        with served(pipeline):
            flow = slow(ion)
            waiting = threading.Thread(target=lambda: found.append(flow.wait(100)))
            found: list[object] = []
            waiting.start()
        assert waiting.is_alive()
        with served(pipeline):
            (pipeline.home / "go").open("w").close()  # once the module runs again, which reads it
            waiting.join(100)
        assert [getattr(it, "outcome", None) for it in found] == ["done"]


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "Ion test")
    cert, key = authority.issue("localhost", names="DNS:localhost")
    tls = f"    cert_file: {cert}\n    key_file: {key}"
    with served(made(tmp_path / "home", tls=tls)) as url:
        url = url.replace("127.0.0.1", "localhost")
        with Ion.connect(url, token=MEND, ca_file=authority.certificate) as ion:
            assert ion.publish("whole.received").wait(60).over
        with Ion.connect(url, token=MEND) as ion, pytest.raises(PermanentError, match=r"is not trusted.*give its cert"):
            ion.publish("whole.received")
        plain = url.replace("https", "http")
        with Ion.connect(plain, token=MEND) as ion, pytest.raises(TransientError, match="Then it is https"):
            ion.publish("whole.received")
