"""What a worker tells the process that keeps it, which may be slow, stopped or gone."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from ion_core.app import reporting
from ion_core.app.reporting import Reporting

Ends = tuple[Reporting, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    theirs, ours = socket.socketpair()
    with theirs, ours:
        yield Reporting(theirs), ours


def heard(ours: socket.socket, *, until: str) -> list[dict[str, object]]:
    """What comes, up to what has that key."""
    said = b""
    while not said.endswith(b"\n") or until not in json.loads(said.splitlines()[-1]):
        chunk = ours.recv(1 << 20)
        assert chunk, "it hung up"
        said += chunk
    return [json.loads(line) for line in said.splitlines()]


def test_what_is_told_comes_whole_and_in_order(ends: Ends) -> None:
    report, ours = ends
    for n in range(3):
        report.tell(n=n)
    report.tell(last=True)
    assert heard(ours, until="last") == [{"n": 0}, {"n": 1}, {"n": 2}, {"last": True}]


def test_telling_does_not_wait_for_who_does_not_listen(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "HELD", 1 << 20)
    report, ours = ends
    ours.setblocking(True)
    for n in range(3_000):
        report.tell(n=n, text="x" * 1_000)
    first = ours.recv(1 << 22)  # what the system holds: there is room for more
    report.tell(first=True)
    rest = b""
    ours.settimeout(10)
    while b'"dropped"' not in rest:
        rest += ours.recv(1 << 20)
        report.tell(more=True)
    lines = [json.loads(line) for line in (first + rest).splitlines()[:-1]]
    [dropped] = {line["dropped"] for line in lines if "dropped" in line}
    numbers = [line["n"] for line in lines if "n" in line]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) + dropped >= 3_000


def test_a_listener_that_is_gone_is_no_error(ends: Ends) -> None:
    report, ours = ends
    ours.close()
    report.tell(n=1)
    assert report.read() is None
    report.close()


def test_orders_come_whole_however_they_arrive(ends: Ends) -> None:
    report, ours = ends
    ours.sendall(b'{"do": "go"}\n{"do"')
    assert report.read() == [{"do": "go"}]
    ours.sendall(b': "stop"}\n')
    assert report.read() == [{"do": "stop"}]
    ours.close()
    assert report.read() is None
