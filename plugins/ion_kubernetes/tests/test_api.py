"""Calls of the API: what they send, what refusals become, and what happens when there is no answer."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from ion_core.errors import PermanentError, TransientError
from ion_kubernetes.api import CONFIG_MAPS, EVENTS, JOBS, PODS, SECRETS, Api, LogLine, open_api
from ion_kubernetes.refusals import ApiRefused, ApiUnavailable, Cause
from plugins.ion_kubernetes.tests.calling import Anybody, cluster_and_api
from plugins.ion_kubernetes.tests.fake.faults import Fault, How, Order
from plugins.ion_kubernetes.tests.fake.replay import Replay, running
from plugins.ion_kubernetes.tests.fake.statuses import status
from plugins.ion_kubernetes.tests.pods import pod

START = "/metadata/annotations/ion~1job"


async def refused(call: Any) -> ApiRefused:
    with pytest.raises(ApiRefused) as raised:
        await call
    assert isinstance(raised.value, PermanentError)
    return raised.value


async def unavailable(call: Any) -> ApiUnavailable:
    with pytest.raises(ApiUnavailable) as raised:
        await call
    assert isinstance(raised.value, TransientError)
    return raised.value


async def read_log(api: Api, name: str, container: str = "module", **more: Any) -> list[bytes]:
    return [line.text async for line in api.log(name, container, **more)]


async def test_objects_are_made_read_listed_and_deleted() -> None:
    async with cluster_and_api() as (_, api):
        made = await api.create(PODS, pod("a", labels={"of": "me"}))
        await api.create(PODS, pod("b"))
        await api.create(SECRETS, {"metadata": {"name": "s"}, "stringData": {"ion.yaml": "a: b"}})
        assert await api.get(PODS, "a") == made
        listed = await api.list(PODS, labels={"of": "me", "app.kubernetes.io/managed-by": "ion"})
        assert [it["metadata"]["name"] for it in listed["items"]] == ["a"]
        assert int(listed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
        await api.delete(PODS, "a", uid=made["metadata"]["uid"])
        await api.delete(PODS, "a", uid=made["metadata"]["uid"])
        assert (await refused(api.get(PODS, "a"))).not_found


async def test_what_a_deleted_object_owns_goes_too() -> None:
    async with cluster_and_api() as (cluster, api):
        await api.create(CONFIG_MAPS, {"metadata": {"name": "anchor"}})
        await api.delete(CONFIG_MAPS, "anchor")
        body = cluster.calls[-1].body
        assert body == {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}


async def test_an_unknown_field_is_refused_and_not_dropped() -> None:
    async with cluster_and_api() as (cluster, api):
        wrong = pod("a")
        wrong["spec"]["containers"][0]["comand"] = ["x"]
        error = await refused(api.create(PODS, wrong))
        assert (error.status, error.reason) == (400, "BadRequest")
        assert 'unknown field "spec.containers[0].comand"' in str(error)
        assert [*cluster.store.listed("pods", None)] == []


async def test_a_dry_run_is_judged_and_not_kept() -> None:
    async with cluster_and_api() as (cluster, api):
        assert (await api.create(PODS, pod("a"), dry_run=True))["metadata"]["uid"]
        assert (await refused(api.create(PODS, pod("A_b"), dry_run=True))).invalid
        await api.create(PODS, pod("a"))
        add = [{"op": "add", "path": "/metadata/labels/x", "value": "y"}]
        assert (await api.patch(PODS, "a", add, dry_run=True))["metadata"]["labels"]["x"] == "y"
        await api.delete(PODS, "a", dry_run=True)
        assert "x" not in cluster.pod("a")["metadata"]["labels"]


async def test_refusals_are_told_apart() -> None:
    life = Replay("deleted", hold=running("module"))
    life.obeys.clear()
    async with cluster_and_api(life) as (cluster, api):
        made = await api.create(PODS, pod("a"))
        await life.held.wait()
        taken = await refused(api.create(PODS, pod("a")))
        assert (taken.already_exists, taken.being_deleted, taken.conflict) == (True, False, False)
        assert taken.details["name"] == "a"
        another = await refused(api.delete(PODS, "a", uid="another"))
        assert (another.already_exists, another.conflict) == (False, True)
        await api.delete(PODS, "a", uid=made["metadata"]["uid"], grace=5)
        going = await refused(api.create(PODS, pod("a")))
        assert (going.already_exists, going.being_deleted) == (True, True)
        invalid = await refused(api.create(PODS, pod("b", restartPolicy="never")))
        assert (invalid.invalid, invalid.status) == (True, 422)
        assert [(it.field, it.reason) for it in invalid.causes] == [("spec.restartPolicy", "FieldValueNotSupported")]
        assert isinstance(invalid.causes[0], Cause)
        cluster.admission.quota = {"pods": "0"}
        full = await refused(api.create(PODS, pod("b")))
        assert (full.over_quota, full.forbidden) == (True, False)
        cluster.admission.quota = {"limits.memory": "1Gi"}
        unlimited = await refused(api.create(PODS, pod("b")))
        assert (unlimited.over_quota, unlimited.forbidden) == (False, True)
        cluster.admission.quota, cluster.admission.restricted = {}, True
        insecure = await refused(api.create(PODS, pod("b")))
        assert (insecure.over_quota, insecure.forbidden) == (False, True)


async def test_a_second_start_of_a_pod_is_refused() -> None:
    async with cluster_and_api() as (_, api):
        gated = pod("a", schedulingGates=[{"name": "ion/start"}])
        gated["metadata"]["annotations"] = {"ion/spec": "1"}
        await api.create(PODS, gated)
        start: list[dict[str, Any]] = [
            {"op": "test", "path": START, "value": None},
            {"op": "add", "path": START, "value": "{}"},
        ]
        assert (await api.patch(PODS, "a", start))["metadata"]["annotations"]["ion/job"] == "{}"
        error = await refused(api.patch(PODS, "a", start))
        assert (error.invalid, error.status) == (True, 422)


@pytest.mark.parametrize("code", [408, 429, 500, 503, 504])
async def test_what_says_nothing_of_the_call_is_worth_trying_again(code: int) -> None:
    async with cluster_and_api() as (cluster, api):
        answer = status(code, "InternalError", "etcdserver: leader changed")
        cluster.faults = [Fault("^GET", answer=answer, headers={"Retry-After": "3"})]
        error = await unavailable(api.get(PODS, "a"))
        assert (error.status, error.retry_after) == (code, 3)
        assert "leader changed" in str(error)


async def test_a_call_without_an_answer_may_have_been_done() -> None:
    async with cluster_and_api() as (cluster, api):
        # Twice: what is idempotent aiohttp sends again, where a connection that was kept for it breaks off.
        cluster.faults = [Fault("^POST", How.DROP_AFTER), Fault("^DELETE", How.DROP, times=2)]
        error = await unavailable(api.create(PODS, pod("a")))
        assert (error.status, error.retry_after) == (None, None)
        assert (await refused(api.create(PODS, pod("a")))).already_exists
        await unavailable(api.delete(PODS, "a"))
        assert await api.get(PODS, "a")


async def test_a_server_that_never_answers_is_not_waited_for() -> None:
    async with cluster_and_api(timeout=0.2) as (cluster, api):
        cluster.faults = [Fault("^GET", How.HANG, times=2)]
        assert "nothing came within 0.2 s" in str(await unavailable(api.get(PODS, "a")))
        with pytest.raises(ApiUnavailable, match=r"nothing came within 0\.2 s"):
            await read_log(api, "a")


async def test_a_server_that_is_not_there_is_named() -> None:
    async with cluster_and_api() as (cluster, api):
        await cluster.down()
        assert cluster.url in str(await unavailable(api.get(PODS, "a")))
        await cluster.up()
        assert (await api.list(PODS))["items"] == []


async def test_what_is_no_api_server_is_not_believed() -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
        writer.close()

    server = await asyncio.start_server(hello, "127.0.0.1", 0)
    address = "http://{}:{}".format(*server.sockets[0].getsockname())
    async with server, open_api(Anybody(address), "ion") as api:
        assert "no API server" in str(await unavailable(api.get(PODS, "a")))


async def test_a_warning_of_the_server_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with cluster_and_api() as (cluster, api):
        headers = {"Warning": '299 - "would violate PodSecurity"'}
        cluster.faults = [Fault("^GET", answer={"code": 200, "kind": "Pod"}, headers=headers)]
        with caplog.at_level(logging.WARNING):
            await api.get(PODS, "a")
    assert [it.warning for it in caplog.records] == [headers["Warning"]]  # type: ignore[attr-defined]


async def test_rights_are_asked_for_without_any() -> None:
    async with cluster_and_api() as (cluster, api):
        cluster.denied = {("create", "pods"), ("get", "pods/log")}
        assert not await api.allows("create", PODS)
        assert not await api.allows("get", PODS, below="log")
        assert await api.allows("get", PODS)
        assert await api.allows("create", JOBS)
        assert cluster.calls[-1].body["spec"]["resourceAttributes"]["group"] == "batch"
        assert (await refused(api.create(PODS, pod("a")))).forbidden
        assert await api.version() == (1, 36)


async def test_events_of_a_pod_are_found_by_its_uid() -> None:
    async with cluster_and_api() as (cluster, api):
        made = await api.create(PODS, pod("a"))
        await api.create(PODS, pod("b"))
        cluster.told("a", "FailedMount", 'secret "nope" not found')
        cluster.told("b", "FailedMount", "another")
        found = await api.list(EVENTS, fields={"involvedObject.uid": made["metadata"]["uid"]})
        assert [it["message"] for it in found["items"]] == ['secret "nope" not found']


async def test_a_log_is_followed_to_its_last_byte() -> None:
    life = Replay("ok", hold=running("module"))
    async with cluster_and_api(life) as (cluster, api):
        await api.create(PODS, pod("a"))
        assert (await refused(anext(api.log("a", "commit")))).invalid
        await life.held.wait()
        long = b"x" * 200_000 + b"\n"
        cluster.print("a", "module", b"\xff one\n" + long + b"thr")
        lines = api.log("a", "module", follow=True)
        assert (await anext(lines)).text == b"\xff one\n"
        assert (await anext(lines)).text == long
        cluster.print("a", "module", b"ee")
        life.go_on.set()
        assert [line.text async for line in lines] == [b"three"]
        assert await read_log(api, "a") == [b"\xff one\n", long, b"three"]
        assert (await refused(anext(api.log("no", "module")))).not_found


async def test_a_log_that_broke_off_goes_on_where_it_was() -> None:
    life = Replay("ok", hold=running("module"))
    async with cluster_and_api(life) as (cluster, api):
        await api.create(PODS, pod("a"))
        await life.held.wait()
        cluster.print("a", "module", b"one\n")
        seen: list[LogLine] = []
        with pytest.raises(ApiUnavailable):  # noqa: PT012 - it is the reading that breaks off
            async for line in api.log("a", "module", follow=True):
                seen.append(line)
                await cluster.down()
        await cluster.up()
        cluster.print("a", "module", b"two\n")
        life.go_on.set()
        again = [line async for line in api.log("a", "module", follow=True, since=seen[-1].at)]
        assert [it.text for it in again if it.at > seen[-1].at] == [b"two\n"]
        assert await read_log(api, "a", since=datetime.now(UTC).replace(year=2999)) == []


async def test_a_container_that_prints_nothing_is_asked_of_again() -> None:
    life = Replay("ok", hold=running("module"))
    async with cluster_and_api(life) as (cluster, api):
        await api.create(PODS, pod("a"))
        await life.held.wait()
        cluster.print("a", "module", b"one\n")
        lines = api.log("a", "module", follow=True, silence=0.2)
        assert (await anext(lines)).text == b"one\n"
        with pytest.raises(ApiUnavailable, match=r"nothing came within 0\.2 s"):
            await anext(lines)


async def test_the_log_of_an_evicted_pod_is_gone() -> None:
    async with cluster_and_api(Replay("evicted-storage")) as (_, api):
        made = await api.create(PODS, pod("a"))
        async for event in api.watch(PODS, made["metadata"]["resourceVersion"]):
            if event.object["status"].get("reason") == "Evicted":
                break
        assert (await refused(anext(api.log("a", "module")))).status == 400


async def test_a_watch_ends_in_the_way_in_which_it_ended() -> None:
    async with cluster_and_api() as (cluster, api):
        version = (await api.list(PODS))["metadata"]["resourceVersion"]

        async def watched(order: Order) -> list[str]:
            events = api.watch(PODS, version)
            first = asyncio.create_task(anext(events, None))
            await cluster.watched()
            cluster.order(order)
            told = await first
            return [it.kind for it in ([told] if told else [])] + [it.kind async for it in events]

        assert await watched(Order.END) == []
        assert await watched(Order.EXPIRE) == ["ERROR"]
        with pytest.raises(ApiUnavailable, match="no whole answer"):
            await watched(Order.CUT)
        large = pod("large")
        large["metadata"]["annotations"] = {"a": "x" * 230_000}
        await api.create(PODS, large)
        event = await anext(api.watch(PODS, version))
        assert (event.kind, len(event.object["metadata"]["annotations"]["a"])) == ("ADDED", 230_000)


async def test_a_watch_that_is_silent_is_not_waited_for() -> None:
    async with cluster_and_api() as (_, api):
        with pytest.raises(ApiUnavailable, match=r"nothing came within 0\.2 s"):
            await anext(api.watch(PODS, "5000", silence=0.2))
