"""``pods/NAME/log`` of the fake API server."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from plugins.ion_kubernetes.tests.fake.node import Node
from plugins.ion_kubernetes.tests.fake.statuses import bad_request
from plugins.ion_kubernetes.tests.fake.store import Key

Json = dict[str, Any]


async def pod_log(request: web.Request, node: Node, key: Key) -> web.StreamResponse:
    """Raises Refused: 404 without the pod, 400 before the container has started and where its log is gone."""
    query = request.query
    pod = node.store.get(key)
    name = query.get("container") or pod["spec"]["containers"][0]["name"]
    where = f'container "{name}" in pod "{key[2]}"'
    state = _state(pod, name)
    if state is None:
        raise bad_request(f"container {name} is not valid for pod {key[2]}")
    if pod["status"].get("reason") == "Evicted":
        raise bad_request(f"{where} is terminated: its log was removed")
    if "waiting" in state:
        raise bad_request(f"{where} is waiting to start: {state['waiting'].get('reason', 'ContainerCreating')}")
    uid = pod["metadata"]["uid"]
    follow, stamped = query.get("follow") == "true", query.get("timestamps") == "true"
    time = query.get("sinceTime")
    log = node.logs[(uid, name)]
    if not follow and "running" in state and not log.lines:
        return web.Response(status=204)
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    at = 0
    while True:
        over = not follow or not _runs(node, key, uid, name)
        at, text = log.since(at, time=time, timestamps=stamped, end=over)
        if text:
            try:
                await response.write(text)
            except ConnectionError:  # who asked has gone
                return response
        if over:
            return response
        await node.store.change(uid)


def _runs(node: Node, key: Key, uid: str, name: str) -> bool:
    found = node.store.objects.get(key)
    return found is not None and found["metadata"]["uid"] == uid and "terminated" not in (_state(found, name) or {})


def _state(pod: Json, name: str) -> Json | None:
    status = pod.get("status", {})
    told = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    for it in told:
        if it["name"] == name:
            found: Json = it["state"]
            return found
    known = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
    return {"waiting": {}} if any(it["name"] == name for it in known) else None
