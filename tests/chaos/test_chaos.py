"""Broker, S3, Podman and two dispatchers fail at random: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.carrying import Hits, Undo, as_text, carry_out
from tests.chaos.counting import Stored, count
from tests.chaos.pipeline import PARTS
from tests.chaos.plan import ACTS, LASTING, Act, plan
from tests.chaos.proxy import tcp_proxy
from tests.chaos.running import run
from tests.chaos.s3 import S3Server
from tests.support.object_stores import client, free_port

SECONDS = 120.0


@pytest.mark.timeout(600)
def test_whatever_fails_nothing_is_lost_and_nothing_is_done_twice() -> None:
    seed = random.randrange(1_000_000)
    done = run(seed, SECONDS)
    assert done.counted.broken == []
    assert (done.counted.lost, done.counted.double) == (0, 0)
    assert done.counted.commits > 0
    assert done.counted.dead > 0
    assert {whom for _, whom in done.hits} == {act.whom for act in plan(seed, SECONDS)}, "nobody was spared"


class Clock:
    """Goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Victims:
    """Notes what happens to them and when. ``there`` are those who can be hit, and since when; all in seconds after
    the beginning.
    """

    there: Mapping[str, float]
    clock: Clock = field(default_factory=Clock)
    happened: list[tuple[float, str]] = field(default_factory=list)

    def suffer(self, *acts: Act, seconds: float) -> tuple[Hits, list[str]]:
        told: list[str] = []
        return carry_out(acts, seconds, self._do, told.append, clock=self.clock, sleep=self.clock.sleep), told

    def _do(self, act: Act) -> Undo | None:
        if self.clock.now - 1000 < self.there[act.whom]:
            return None
        self._note(f"{act.what} {act.whom}")
        return lambda: self._note(f"end of {act.what} {act.whom}")

    def _note(self, what: str) -> None:
        self.happened.append((round(self.clock.now - 1000, 1), what))


def test_what_was_begun_is_ended_while_other_acts_go_on() -> None:
    victims = Victims(there={"S3": 0, "the broker": 0})
    hits, _ = victims.suffer(
        Act(at=1, what="stop", whom="S3", lasts=3),
        Act(at=2, what="kill", whom="the broker"),
        Act(at=3, what="stop", whom="the broker", lasts=99),
        seconds=10,
    )
    assert victims.happened == [
        (1, "stop S3"),
        (2, "kill the broker"),
        (3, "stop the broker"),
        (4, "end of stop S3"),
        (10, "end of stop the broker"),
    ]
    assert hits == {("stop", "S3"): 1, ("kill", "the broker"): 1, ("stop", "the broker"): 1}


def test_an_act_waits_for_somebody_to_hit_and_holds_up_no_other() -> None:
    victims = Victims(there={"a module": 4, "S3": 0})
    _, told = victims.suffer(
        Act(at=1, what="stop", whom="a module", lasts=2), Act(at=2, what="kill", whom="S3"), seconds=10
    )
    assert victims.happened == [(2, "kill S3"), (4, "stop a module"), (6, "end of stop a module")]
    assert told == ["   2.0 s  kill S3", "   1.0 s  stop a module for 2.0 s  (3.0 s later)"]


def test_an_act_that_hits_nobody_is_told_and_not_counted() -> None:
    hits, told = Victims(there={"a module": 99}).suffer(Act(at=1, what="kill", whom="a module"), seconds=10)
    assert told == ["   1.0 s  kill a module  (there was none)"]
    assert hits.total() == 0
    assert "a module never hit" in as_text(hits)


def test_the_summary_says_who_was_hit_how_often() -> None:
    said = as_text(Hits({("kill", "a module"): 12, ("stop", "a module"): 5, ("cut", "the way to S3"): 1}))
    assert "a module 12 killed, 5 stopped; " in said
    assert said.endswith("the way to S3 1 cut")


def test_a_killed_s3_has_what_it_had(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3")
    try:
        server.start()
        with closing(client(server.store)) as asked:
            put = partial(asked.put_object, Bucket="ion-bucket")
            put(Key="kept", Body=b"1")
            put(Key="gone", Body=b"2")
            put(Key="created", Body=b"3", IfNoneMatch="*")
            asked.delete_object(Bucket="ion-bucket", Key="gone")
            server.kill()
            with (server.directory / "journal").open("ab") as journal:
                journal.write(b'{"environ": {"REQ')  # as one leaves it who is killed while he writes
            for value in (b"4", b"5"):
                server.begin()
                server.answers()
                listed = asked.list_objects_v2(Bucket="ion-bucket")["Contents"]
                assert [it["Key"] for it in listed] == ["created", "kept"]
                with pytest.raises(asked.exceptions.ClientError, match="PreconditionFailed"):
                    put(Key="created", Body=b"3", IfNoneMatch="*")
                put(Key="kept", Body=value)
                assert asked.get_object(Bucket="ion-bucket", Key="kept")["Body"].read() == value
                server.kill()
    finally:
        server.kill()


def test_a_seed_repeats_its_plan() -> None:
    assert plan(17, 600) == plan(17, 600)
    assert plan(17, 600) != plan(18, 600)
    assert plan(17, 60) == [act for act in plan(17, 600) if act.at < 60]


def test_every_act_is_in_a_plan_that_is_long_enough() -> None:
    acts = plan(17, 600)
    assert {(act.what, act.whom) for act in acts} == {(what, whom) for what, whom, _ in ACTS}
    assert [act.at for act in acts] == sorted(act.at for act in acts)
    for act in acts:
        shortest, longest = LASTING.get(act.what, (0, 0))
        assert shortest <= act.lasts <= longest


def document(kind: str, name: str, event: str, **more: Any) -> dict[str, Any]:
    return {"context": {"documentType": kind, "name": name, "eventId": event, "correlationId": "a"}, **more}


def letter(module: str) -> dict[str, Any]:
    return {"eventId": "a", "module": module}


def stored(**changed: Any) -> Stored:
    """One flow that went well, from ``a`` on, but for what was changed."""
    metas = [document("eventMeta", "cli", "a", type="whole.received", blobs=[])]
    commits = [document("commit", "split", "a", token="1", outputs=[{"key": "a/x"}], events=[])]
    for n in range(PARTS):
        metas.append(document("eventMeta", "split", f"p{n}", type="part.made", blobs=[{"key": "a/x"}]))
        metas.append(document("eventMeta", "join", f"j{n}", type="part.joined", blobs=[]))
        commits[0]["events"].append({"id": f"p{n}", "type": "part.made"})
        joined = [{"id": f"j{n}", "type": "part.joined"}]
        commits.append(document("commit", "join", f"p{n}", token="1", outputs=[], events=joined))
    metas.append(document("eventMeta", "bind", "g", type="ion.gathered.bind"))
    commits.append(document("commit", "bind", "g", token="1", outputs=[], events=[]))
    logs = [document("modulelogs", "split", "a", token="1", attempt=1, outcome="committed")]
    found: Mapping[str, Any] = {
        "documents": {"eventMeta": metas, "commit": commits, "modulelogs": logs},
        "owing": [],
        "keys": frozenset({"a/x"}),
        "dead": [letter("doomed")],
        "waiting": 0,
    }
    documents = {kind: [*it] for kind, it in found["documents"].items()}
    for kind, change in changed.pop("documents", {}).items():
        documents[kind] = change(documents[kind])
    return Stored(**{**found, "documents": documents, **changed})


def test_a_flow_that_went_well_breaks_no_promise() -> None:
    counted = count(stored(), ["a"])
    assert counted.broken == []
    assert str(counted) == "6 events, 5 jobs: 4 committed, 1 dead letters; 0 lost, 0 double"


TWICE = document("modulelogs", "split", "a", token="2", attempt=2, outcome="committed")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dead": []}, "I1: lost: ('a', 'doomed') has neither"),
        ({"documents": {"commit": lambda it: it[:-1]}}, "I1: lost: ('g', 'bind') has neither"),
        ({"documents": {"commit": lambda it: [*it, it[0]]}}, "I2: double: ('a', 'split') has 2 commits"),
        (
            {"dead": [{"eventId": "a", "module": name} for name in ("doomed", "split")]},
            "I2: double: ('a', 'split') has 1",
        ),
        ({"dead": [{"eventId": "a", "module": name} for name in ("doomed", "other")]}, "I1: there is no event for"),
        ({"documents": {"modulelogs": lambda it: [*it, TWICE]}}, "I2: double: attempt 2 of ('a', 'split')"),
        ({"documents": {"eventMeta": lambda it: it[1:]}}, "I1: event a was accepted, and is not stored"),
        ({"documents": {"eventMeta": lambda it: it[:-1]}}, "I1: there is no event for the job ('g', 'bind')"),
        ({"documents": {"eventMeta": lambda it: [*it[:2], *it[3:]]}}, "I3: part.joined j0 of ('p0', 'join')"),
        ({"keys": frozenset({"a/x", "a/y"})}, "I4: a/y is of no commit"),
        ({"keys": frozenset()}, "I4: a/x is missing"),
        ({"waiting": 2}, "I1: 2 messages wait"),
        ({"owing": ["1.commit.a"]}, "I3: 1.commit.a still owes something"),
    ],
)
def test_what_breaks_a_promise_is_counted(changed: dict[str, Any], said: str) -> None:
    broken = count(stored(**changed), ["a"]).broken
    assert [line for line in broken if line.startswith(said)], broken


def test_a_flow_that_left_no_trace_is_missed() -> None:
    broken = count(stored(), ["a", "b"]).broken
    assert "I1: event b was accepted, and is not stored" in broken


def test_the_proxy_forwards_also_after_a_silence_and_resets() -> None:
    with (
        socket.create_server(("127.0.0.1", free_port())) as server,
        tcp_proxy(server.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client,
    ):
        there, _ = server.accept()
        with there:
            there.settimeout(10)
            client.sendall(b"to")
            assert there.recv(2) == b"to"
            proxy.silence()
            there.sendall(b"fro")
            proxy.speak()
            assert client.recv(3) == b"fro"
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            assert there.recv(1) == b"", "the other end hears of it"
