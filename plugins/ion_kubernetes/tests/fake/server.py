"""A stand-in for Kubernetes' API server in tests: what it refuses and tells was recorded of a real one.

One node, no scheduler, no controllers but the collecting of what an owner has left behind; Jobs are stored only.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from aiohttp import web

from plugins.ion_kubernetes.tests.fake import defaults, rules
from plugins.ion_kubernetes.tests.fake.admission import Admission
from plugins.ion_kubernetes.tests.fake.faults import Fault, How, OpenWatch, Order
from plugins.ion_kubernetes.tests.fake.node import Life, Node
from plugins.ion_kubernetes.tests.fake.patching import merged, patched
from plugins.ion_kubernetes.tests.fake.pod_log import pod_log
from plugins.ion_kubernetes.tests.fake.replay import Replay
from plugins.ion_kubernetes.tests.fake.selectors import selecting
from plugins.ion_kubernetes.tests.fake.shapes import SHAPES, check_shape
from plugins.ion_kubernetes.tests.fake.statuses import (
    Problem,
    Refused,
    bad_request,
    conflict,
    forbidden,
    invalid_object,
    status,
)
from plugins.ion_kubernetes.tests.fake.store import Key, Store, now
from plugins.ion_kubernetes.tests.fake.watching import watch

Json = dict[str, Any]
LARGEST_BODY = 3 * 1024**2
KINDS = {
    "pods": ("Pod", "v1"),
    "secrets": ("Secret", "v1"),
    "configmaps": ("ConfigMap", "v1"),
    "events": ("Event", "v1"),
    "namespaces": ("Namespace", "v1"),
    "jobs.batch": ("Job", "batch/v1"),
}
POD_CHANGES = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
    "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


@dataclass(frozen=True)
class Call:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    authorization: str | None
    body: Any

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def always_ok(pod: Json) -> Life | None:
    return Replay("ok")


@dataclass
class FakeKubernetes:
    """What a test may look at and change while the server runs."""

    life: Callable[[Json], Life | None] = always_ok
    """Asked for each pod that may start."""
    store: Store = field(default_factory=Store)
    admission: Admission = field(default_factory=Admission)
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    watches: list[OpenWatch] = field(default_factory=list)
    tokens: set[str] | None = None
    """Bearer tokens that are known; None: everybody may come."""
    denied: set[tuple[str, str]] = field(default_factory=set)
    """Verb and resource (``pods``, ``pods/log``) that are not allowed."""
    ahead: float = 0.0
    """Seconds that its clock is ahead of ours, as far as its answers tell."""
    url: str = ""
    _tls: ssl.SSLContext | None = None
    _runner: web.AppRunner | None = None
    _port: int = 0

    def __post_init__(self) -> None:
        self.node = Node(self.store, lambda pod: self.life(pod))
        for name in ("default", "ion"):
            self.store.made(("namespaces", "", name), {"metadata": {"name": name}}, dry_run=False)

    # ---- what a test does to it

    def order(self, order: Order) -> None:
        """To every watch that is open now."""
        for it in self.watches:
            it.orders.append(order)
        self.store.tell()

    def silence(self) -> None:
        """Watches that are open tell nothing any more; their connections stay."""
        for it in self.watches:
            it.silent = True

    async def watched(self, count: int = 1) -> None:
        """Until that many watches are open."""
        while len(self.watches) < count:
            await self.store.change()

    async def down(self) -> None:
        """As by ``kill -9``: connections break off, nobody listens."""
        self.order(Order.CUT)
        assert self._runner is not None
        assert self._runner.server is not None
        for site in list(self._runner.sites):
            await site.stop()
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.close()
        await self._runner.cleanup()

    async def up(self) -> None:
        """Listens, at the same port as before. Versions of an earlier life are too old."""
        if self._runner is not None:
            self.store.forget()
        app = web.Application(client_max_size=2 * LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(self._date)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)  # 0 would be no limit
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls).start()
        address: Any = self._runner.addresses[0]
        self._port = address[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def restart(self) -> None:
        await self.down()
        await self.up()

    def pod(self, name: str, namespace: str = "ion") -> Json:
        return self.store.get(("pods", namespace, name))

    def print(self, name: str, container: str, data: bytes, namespace: str = "ion") -> None:
        """What a container prints, where its life does not say it."""
        self.node.print(self.pod(name, namespace)["metadata"]["uid"], container, data)

    def told(self, name: str, reason: str, message: str, namespace: str = "ion") -> None:
        """An event about a pod, as the kubelet or the scheduler writes one."""
        about = {
            "kind": "Pod",
            "name": name,
            "namespace": namespace,
            "uid": self.pod(name, namespace)["metadata"]["uid"],
        }
        event = {"metadata": {"name": f"{name}.{self.store.version}"}, "involvedObject": about, "type": "Warning"}
        event |= {"reason": reason, "message": message, "lastTimestamp": now()}
        self.store.made(("events", namespace, event["metadata"]["name"]), event, dry_run=False)

    # ---- calls

    async def _date(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(time.time() + self.ahead, usegmt=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body: Any = None
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw
        query = dict(request.query)
        call = Call(request.method, request.path, query, request.headers.get("Authorization"), body)
        self.calls.append(call)
        fault = next((it for it in self.faults if it.takes(str(call))), None)
        if fault is not None and fault.how is How.HANG:
            await asyncio.Event().wait()
        if fault is not None and fault.how is How.ANSWER:
            return web.json_response(fault.answer, status=fault.answer["code"], headers=fault.headers)
        if fault is None or fault.how is How.DROP_AFTER:
            try:
                answer = await self._answer(request, call, len(raw))
            except Refused as refused:
                answer = web.json_response(refused.status, status=refused.status["code"], headers=refused.headers)
            if fault is None:
                return answer
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def _answer(self, request: web.Request, call: Call, size: int) -> web.StreamResponse:
        if self.tokens is not None and call.authorization not in {f"Bearer {it}" for it in self.tokens}:
            raise Refused(status(401, "Unauthorized", "Unauthorized"))
        if size > LARGEST_BODY:
            too_large = f"Request entity too large: limit is {LARGEST_BODY}"
            raise Refused(status(413, "RequestEntityTooLarge", too_large))
        if call.path == "/version":
            return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.2"})
        if call.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" and call.method == "POST":
            return web.json_response(self._review(call.body), status=201)
        resource, namespace, name, below = _place(call.path)
        self._allow(call, resource, name, below)
        if resource == "pods" and below == "log":
            return await pod_log(request, self.node, (resource, namespace or "", name))
        if call.method == "GET" and not name and call.query.get("watch") in ("1", "true"):
            return await watch(request, self.store, self.watches, resource, namespace)
        return self._object(call, resource, namespace, name)

    def _object(self, call: Call, resource: str, namespace: str | None, name: str) -> web.StreamResponse:
        dry_run = call.query.get("dryRun") == "All" or (isinstance(call.body, dict) and "dryRun" in call.body)
        key = (resource, namespace or "", name)
        if call.method == "GET":
            return web.json_response(self.store.get(key) if name else self._list(call, resource, namespace))
        if call.method == "POST" and not name:
            return web.json_response(self._create(call, resource, namespace or "", dry_run=dry_run), status=201)
        if call.method == "PATCH" and name:
            return web.json_response(self._patch(call, key, dry_run=dry_run))
        if call.method == "DELETE" and name:
            return web.json_response(self._delete(call, key, dry_run=dry_run))
        raise Refused(
            status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        )

    def _allow(self, call: Call, resource: str, name: str, below: str) -> None:
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(call.method, "get" if name else "list")
        verb = "watch" if call.query.get("watch") in ("1", "true") else verb
        what = f"{resource}/{below}" if below else resource
        if (verb, what) in self.denied:
            user = "system:serviceaccount:ion:ion"
            why = f'User "{user}" cannot {verb} resource "{what}" in API group "" in the namespace "ion"'
            raise forbidden(resource, name, why)

    def _review(self, body: Json) -> Json:
        asked = body["spec"]["resourceAttributes"]
        resource = ".".join(filter(None, (asked["resource"], asked.get("group"))))
        what = "/".join(filter(None, (resource, asked.get("subresource"))))
        return {**body, "status": {"allowed": (asked["verb"], what) not in self.denied}}

    def _list(self, call: Call, resource: str, namespace: str | None) -> Json:
        matches = selecting(call.query.get("labelSelector", ""), call.query.get("fieldSelector", ""))
        kind, version = KINDS[resource]
        items = [it for it in self.store.listed(resource, namespace) if matches(it)]
        meta = {"resourceVersion": str(self.store.version)}
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": meta, "items": items}

    def _create(self, call: Call, resource: str, namespace: str, *, dry_run: bool) -> Json:
        kind, version = KINDS[resource]
        if not isinstance(call.body, dict):
            raise bad_request("the object provided is unrecognized (must be of type Object)")
        object: Json = {"apiVersion": version, "kind": kind, **call.body}
        if kind in SHAPES:
            check_shape(object, version, kind, strict=call.query.get("fieldValidation") == "Strict")
        object.setdefault("metadata", {})
        if resource != "namespaces":
            self.store.get(("namespaces", "", namespace))
        if (place := object["metadata"].get("namespace", namespace)) != namespace:
            raise bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request: {place}"
            )
        if kind in SHAPES:
            rules.check(object, _kind(resource))
        if not object["metadata"].get("name"):
            object["metadata"]["name"] = f"{object['metadata']['generateName'][:58]}{self.store.version:05d}"
        if resource == "pods":
            self.admission.admit(self.store, namespace, object)
            object = defaults.completed(object)
        key = (resource, namespace, object["metadata"]["name"])
        made = self.store.made(key, object, dry_run=dry_run)
        if not dry_run:
            if resource == "pods":
                self.node.sees(key)
            if object["metadata"].get("ownerReferences"):
                self._collect()
        return made

    def _patch(self, call: Call, key: Key, *, dry_run: bool) -> Json:
        before = self.store.get(key)
        if isinstance(call.body, list):
            after = patched(before, call.body)
        else:
            wanted = (call.body.get("metadata") or {}).get("resourceVersion")
            if wanted not in (None, before["metadata"]["resourceVersion"]):
                changed = "the object has been modified; please apply your changes to the latest version and try again"
                raise conflict(key[0], key[2], changed)
            after = merged(before, call.body)
        kind, version = KINDS[key[0]]
        check_shape(after, version, kind, strict=call.query.get("fieldValidation") == "Strict")
        rules.check(after, _kind(key[0]))
        if key[0] == "pods" and _fixed(before["spec"]) != _fixed(after["spec"]):
            raise invalid_object(kind, key[2], [Problem("spec", "FieldValueForbidden", POD_CHANGES)])
        if dry_run:
            return after
        after = self.store.changed(key, after)
        if key[0] == "pods":
            self.node.sees(key)
        return self.store.get(key)

    def _delete(self, call: Call, key: Key, *, dry_run: bool) -> Json:
        options = call.body if isinstance(call.body, dict) else {}
        self.store.check_uid(key, (options.get("preconditions") or {}).get("uid"))
        grace = options.get("gracePeriodSeconds", call.query.get("gracePeriodSeconds"))
        if dry_run:
            return self.store.get(key)
        if key[0] == "pods":
            return self.node.delete(key, None if grace is None else int(grace))
        gone = self.store.gone(key)
        self._collect()
        return gone

    def _collect(self) -> None:
        """What names owners of which none is there is deleted, as the garbage collector does."""
        there = {it["metadata"]["uid"] for it in self.store.objects.values()}
        for key, object in list(self.store.objects.items()):
            owners = object["metadata"].get("ownerReferences") or []
            if not owners or any(it["uid"] in there for it in owners):
                continue
            if key[0] == "pods":
                self.node.delete(key, None)
            else:
                self.store.gone(key)


def _place(path: str) -> tuple[str, str | None, str, str]:
    """Resource, namespace (None: all), name and what is below it. Raises Refused (404)."""
    parts = path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[:2] == ["api", "v1"] else (parts[1] if len(parts) > 1 else "", parts[3:])
    namespace: str | None = None
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = f"{rest[0]}.{group}" if group and rest else (rest[0] if rest else "")
    if resource not in KINDS:
        raise Refused(status(404, "NotFound", "the server could not find the requested resource"))
    if resource == "namespaces":
        namespace = ""
    name, below, *_ = [*rest[1:], "", ""]
    return resource, namespace, name, below


def _kind(resource: str) -> str:
    """As refusals name it: ``Pod``, ``Job.batch``."""
    _, dot, group = resource.partition(".")
    return f"{KINDS[resource][0]}{dot}{group}"


def _fixed(spec: Json) -> Json:
    """What of a pod's spec may not be changed."""
    kept = {key: value for key, value in spec.items() if key not in ("schedulingGates", "activeDeadlineSeconds")}
    for key in ("containers", "initContainers"):
        if key in kept:
            kept[key] = [{name: value for name, value in it.items() if name != "image"} for it in kept[key]]
    return kept


@asynccontextmanager
async def fake_kubernetes(
    life: Callable[[Json], Life | None] = always_ok, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeKubernetes]:
    """A cluster that listens at ``url``, with the namespaces ``default`` and ``ion``.

    Faults of the fake itself, such as a life that raises, come out when it is closed.
    """
    cluster = FakeKubernetes(life, _tls=tls)
    await cluster.up()
    try:
        yield cluster
    finally:
        await cluster.node.close()
        await cluster.down()
