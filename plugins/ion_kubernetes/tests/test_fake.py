"""The fake API server keeps, tells and plays what a real one does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from plugins.ion_kubernetes.tests.fake.faults import Fault, How, Order
from plugins.ion_kubernetes.tests.fake.replay import TRANSCRIPTS, Replay, running
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes
from plugins.ion_kubernetes.tests.pods import pod

PODS = "/api/v1/namespaces/ion/pods"
START = "/metadata/annotations/ion~1job"


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[FakeKubernetes]:
    async with fake_kubernetes() as cluster:
        yield cluster


@pytest_asyncio.fixture
async def http(cluster: FakeKubernetes) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cluster.url, timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def call(http: aiohttp.ClientSession, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
    async with http.request(method, path, json=body, **more) as response:
        return response.status, await response.json()


async def told(http: aiohttp.ClientSession, query: str) -> AsyncIterator[dict[str, Any]]:
    async with http.get(f"{PODS}?watch=1&{query}") as response:
        async for line in response.content:
            yield json.loads(line)


async def events_of(http: aiohttp.ClientSession, version: str, last: str) -> list[dict[str, Any]]:
    """What is told after a version, until the first of that type or phase."""
    found = []
    async for event in told(http, f"resourceVersion={version}"):
        found.append(event)
        if last in (event["type"], event["object"]["status"].get("phase")):
            return found
    raise AssertionError(f"ended without {last}: {found}")


async def test_a_pod_is_made_read_listed_and_taken_away(cluster: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    cluster.life = lambda pod: None
    status, made = await call(http, "POST", PODS, pod("a", labels={"ion/module": "m"}))
    assert status == 201
    assert made["metadata"]["uid"]
    assert made["metadata"]["generation"] == 1
    assert made["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert await call(http, "GET", f"{PODS}/a") == (200, made)
    for selector, count in {"ion/module=m": 1, "ion/module!=m": 0, "ion/module in (l,m)": 1, "!ion/module": 0}.items():
        _, listed = await call(http, "GET", PODS, params={"labelSelector": selector})
        assert len(listed["items"]) == count, selector
        assert int(listed["metadata"]["resourceVersion"]) >= int(made["metadata"]["resourceVersion"])
    status, refused = await call(http, "POST", PODS, pod("a"))
    assert (status, refused["reason"], refused["details"]["name"]) == (409, "AlreadyExists", "a")
    body = {"preconditions": {"uid": "another"}}
    status, refused = await call(http, "DELETE", f"{PODS}/a", body)
    assert (status, refused["reason"]) == (409, "Conflict")
    assert (await call(http, "DELETE", f"{PODS}/a", {"preconditions": {"uid": made["metadata"]["uid"]}}))[0] == 200
    status, refused = await call(http, "GET", f"{PODS}/a")
    assert (status, refused["reason"]) == (404, "NotFound")


@pytest.mark.parametrize("name", [it for it in TRANSCRIPTS if it not in ("deleted", "forced")])
async def test_a_transcript_is_played_as_it_was_recorded(
    cluster: FakeKubernetes, http: aiohttp.ClientSession, name: str
) -> None:
    cluster.life = lambda pod: Replay(name)
    recorded = TRANSCRIPTS[name]["events"]
    _, made = await call(http, "POST", PODS, pod(name))
    seen = [("ADDED", made["status"])]
    async for event in told(http, f"resourceVersion={made['metadata']['resourceVersion']}"):
        seen.append((event["type"], event["object"]["status"]))
        if len(seen) == len(recorded):
            break
    assert [kind for kind, _ in seen] == [kind for _, kind, _ in recorded]
    for (_, status), (_, _, object) in zip(seen[1:], recorded[1:], strict=True):
        was = object["status"]
        assert (status["phase"], status.get("reason")) == (was["phase"], was.get("reason"))
        for key in ("initContainerStatuses", "containerStatuses"):
            states = [[next(iter(it["state"])) for it in told.get(key, [])] for told in (status, was)]
            assert states[0] == states[1]


async def test_a_pod_that_is_deleted_ends_and_goes(cluster: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    life = Replay("deleted", hold=running("module"))
    life.obeys.clear()
    cluster.life = lambda pod: life
    _, made = await call(http, "POST", PODS, pod("a"))
    await life.held.wait()
    status, going = await call(http, "DELETE", f"{PODS}/a", {"gracePeriodSeconds": 5})
    assert (status, going["metadata"]["deletionGracePeriodSeconds"]) == (200, 5)
    status, refused = await call(http, "POST", PODS, pod("a"))
    assert (status, refused["message"][:24]) == (409, "object is being deleted:")
    life.obeys.set()
    events = await events_of(http, made["metadata"]["resourceVersion"], "DELETED")
    assert [it["object"]["metadata"].get("deletionGracePeriodSeconds") for it in events[-3:]] == [5, 0, 0]
    ended = events[-1]["object"]["status"]["initContainerStatuses"][1]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (143, "Error")


async def test_a_pod_that_is_deleted_by_force_is_gone_at_once(
    cluster: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    life = Replay("forced", hold=running("module"))
    cluster.life = lambda pod: life
    await call(http, "POST", PODS, pod("a"))
    await life.held.wait()
    await call(http, "DELETE", f"{PODS}/a", {"gracePeriodSeconds": 0})
    assert (await call(http, "GET", f"{PODS}/a"))[0] == 404


async def test_a_gate_holds_a_pod_until_it_is_patched_away_once(
    cluster: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    gated = pod("a", schedulingGates=[{"name": "ion/start"}])
    gated["metadata"]["annotations"] = {"ion/spec": "1"}
    _, made = await call(http, "POST", PODS, gated)
    assert made["status"]["conditions"][0]["reason"] == "SchedulingGated"
    start = [
        {"op": "test", "path": START, "value": None},
        {"op": "add", "path": START, "value": "{}"},
        {"op": "remove", "path": "/spec/schedulingGates/0"},
    ]
    headers = {"Content-Type": "application/json-patch+json"}
    assert (await call(http, "PATCH", f"{PODS}/a", start, headers=headers))[0] == 200
    status, refused = await call(http, "PATCH", f"{PODS}/a", start, headers=headers)
    assert (status, refused["reason"]) == (422, "Invalid")
    events = await events_of(http, made["metadata"]["resourceVersion"], "Succeeded")
    assert events[0]["object"]["metadata"]["annotations"]["ion/job"] == "{}"
    env = [{"op": "add", "path": "/spec/containers/0/env", "value": [{"name": "A", "value": "b"}]}]
    status, refused = await call(http, "PATCH", f"{PODS}/a", env, headers=headers)
    assert (status, refused["details"]["causes"][0]["field"]) == (422, "spec")


async def test_a_watch_is_told_what_a_selector_lets_in_and_out(
    cluster: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    cluster.life = lambda pod: None
    _, made = await call(http, "POST", PODS, pod("a", labels={"of": "me"}))
    await call(http, "POST", PODS, pod("b", labels={"of": "you"}))
    headers = {"Content-Type": "application/merge-patch+json"}
    await call(http, "PATCH", f"{PODS}/a", {"metadata": {"labels": {"of": "you"}}}, headers=headers)
    await call(http, "PATCH", f"{PODS}/b", {"metadata": {"labels": {"of": "me"}}}, headers=headers)
    version = int(made["metadata"]["resourceVersion"]) - 1
    seen = []
    async for event in told(http, f"resourceVersion={version}&labelSelector=of%3Dme"):
        seen.append((event["type"], event["object"]["metadata"]["name"]))
        if len(seen) == 3:
            break
    assert seen == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "b")]


async def test_a_version_from_before_a_restart_is_too_old(cluster: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    _, listed = await call(http, "GET", PODS)
    await cluster.restart()
    events = [it async for it in told(http, f"resourceVersion={listed['metadata']['resourceVersion']}")]
    assert [(it["type"], it["object"]["code"], it["object"]["reason"]) for it in events] == [("ERROR", 410, "Expired")]


async def test_a_watch_is_cut_in_the_middle_of_a_line(cluster: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{PODS}?watch=1&allowWatchBookmarks=true") as response:
        await cluster.watched()
        cluster.order(Order.BOOKMARK)
        assert json.loads(await response.content.readline())["type"] == "BOOKMARK"
        cluster.order(Order.CUT)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


async def test_a_call_meets_the_fault_that_was_set_for_it(cluster: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    cluster.faults = [Fault("^POST .*/pods", How.DROP_AFTER), Fault("^GET")]
    with pytest.raises(aiohttp.ClientError):
        await call(http, "POST", PODS, pod("a"))
    assert (await call(http, "GET", f"{PODS}/a"))[0] == 500
    assert (await call(http, "GET", f"{PODS}/a"))[0] == 200, "what was not answered had been done"


async def test_logs_wait_for_the_container_and_end_with_it(
    cluster: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    waiting, life = Replay("ok", hold=running("prepare")), Replay("ok", hold=running("module"))
    cluster.life = lambda pod: waiting if pod["metadata"]["name"] == "w" else life
    await call(http, "POST", PODS, pod("w"))
    await call(http, "POST", PODS, pod("a"))
    await waiting.held.wait()
    await life.held.wait()
    status, refused = await call(http, "GET", f"{PODS}/w/log?container=module")
    assert (status, refused["message"].partition(": ")[2]) == (400, "PodInitializing")
    async with http.get(f"{PODS}/a/log?container=module") as response:
        assert response.status == 204
    key = ("a", "module")
    cluster.print(*key, b"one\ntw")
    async with http.get(f"{PODS}/a/log?container=module&follow=true&timestamps=true") as response:
        assert (await response.content.readline()).endswith(b"Z one\n")
        cluster.print(*key, b"o\nthree")
        life.go_on.set()
        assert [line.partition(b" ")[2] for line in (await response.read()).splitlines(True)] == [b"two\n", b"three"]
    assert (await call(http, "GET", f"{PODS}/no/log?container=module"))[0] == 404


async def test_quota_and_pod_security_refuse_in_the_words_of_the_real_ones(
    cluster: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    cluster.life = lambda pod: None
    cluster.admission.quota = {"pods": "1"}
    assert (await call(http, "POST", PODS, pod("a")))[0] == 201
    status, refused = await call(http, "POST", PODS, pod("b"))
    assert (status, refused["reason"]) == (403, "Forbidden")
    exceeded = "exceeded quota: rq, requested: pods=1, used: pods=1, limited: pods=1"
    assert refused["message"] == f'pods "b" is forbidden: {exceeded}'
    cluster.admission.quota = {"limits.memory": "1Gi"}
    _, refused = await call(http, "POST", PODS, pod("b"))
    assert "failed quota: rq: must specify limits.memory for: commit,module,prepare" in refused["message"]
    large = pod("b")
    for it in (*large["spec"]["containers"], *large["spec"]["initContainers"]):
        it["resources"] = {"limits": {"memory": "2Gi"}}
    _, refused = await call(http, "POST", PODS, large)
    asked = "requested: limits.memory=2Gi, used: limits.memory=0, limited: limits.memory=1Gi"
    assert refused["message"].endswith(asked)
    cluster.admission.quota = {}
    cluster.admission.restricted = True
    _, refused = await call(http, "POST", PODS, pod("b"))
    assert 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in refused["message"]
    assert 'containers "commit", "prepare", "module" must set' in refused["message"]


async def test_what_an_owner_leaves_is_collected(cluster: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    cluster.life = lambda pod: None
    maps = "/api/v1/namespaces/ion/configmaps"
    _, anchor = await call(http, "POST", maps, {"metadata": {"name": "anchor"}})
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "anchor", "uid": anchor["metadata"]["uid"]}
    owned = pod("a")
    owned["metadata"]["ownerReferences"] = [owner]
    await call(http, "POST", PODS, owned)
    assert (await call(http, "GET", f"{PODS}/a"))[0] == 200
    await call(http, "DELETE", f"{maps}/anchor")
    assert (await call(http, "GET", f"{PODS}/a"))[0] == 404


async def test_a_lost_node_tells_nothing_and_lets_nothing_go(
    cluster: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    life = Replay("ok", hold=running("module"))
    cluster.life = lambda pod: life
    _, made = await call(http, "POST", PODS, pod("a"))
    await life.held.wait()
    cluster.node.there.clear()
    await call(http, "DELETE", f"{PODS}/a")
    life.go_on.set()
    await asyncio.sleep(0)
    _, stays = await call(http, "GET", f"{PODS}/a")
    assert stays["metadata"]["deletionTimestamp"]
    assert "running" in stays["status"]["initContainerStatuses"][1]["state"]
    cluster.node.there.set()
    assert (await events_of(http, made["metadata"]["resourceVersion"], "DELETED"))[-1]["type"] == "DELETED"


async def test_a_pod_without_room_says_so_until_there_is_some(
    cluster: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    cluster.node.room.clear()
    _, made = await call(http, "POST", PODS, pod("a"))
    async for event in told(http, f"resourceVersion={made['metadata']['resourceVersion']}"):
        status = event["object"]["status"]
        if status["phase"] == "Succeeded":
            break
        if status["conditions"][0].get("reason") == "Unschedulable":
            assert "nodeName" not in event["object"]["spec"]
            cluster.node.room.set()
    cluster.node.room.clear()
    await call(http, "POST", PODS, pod("b"))
    await call(http, "DELETE", f"{PODS}/b")
    assert (await call(http, "GET", f"{PODS}/b"))[0] == 404, "what has no node goes at once"


async def test_a_policy_refuses_pods_in_its_own_words(cluster: FakeKubernetes, http: aiohttp.ClientSession) -> None:
    cluster.admission.policy = "no jobs today"
    status, refused = await call(http, "POST", PODS, pod("a"))
    assert (status, refused["reason"]) == (403, "Forbidden")
    assert refused["message"].endswith('admission webhook "policy.example" denied the request: no jobs today')


async def test_a_pod_that_is_evicted_says_why_before_it_goes(
    cluster: FakeKubernetes, http: aiohttp.ClientSession
) -> None:
    life = Replay("deleted", hold=running("module"))
    cluster.life = lambda pod: life
    _, made = await call(http, "POST", PODS, pod("a"))
    await life.held.wait()
    key = ("pods", "ion", "a")
    cluster.node.disrupt(key, "EvictionByEvictionAPI")
    cluster.node.delete(key, None)
    last = (await events_of(http, made["metadata"]["resourceVersion"], "DELETED"))[-1]["object"]["status"]
    assert (last["conditions"][-1]["type"], last["conditions"][-1]["reason"]) == (
        "DisruptionTarget",
        "EvictionByEvictionAPI",
    )
