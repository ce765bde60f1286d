"""What is refused with 403: missing classes and accounts always, quota and Pod Security where a test sets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from plugins.ion_kubernetes.tests.fake.quantities import number, written
from plugins.ion_kubernetes.tests.fake.statuses import forbidden
from plugins.ion_kubernetes.tests.fake.store import Store

Json = dict[str, Any]


@dataclass
class Admission:
    quota: dict[str, str] = field(default_factory=dict)
    """Hard limits of a ResourceQuota ``rq`` in every namespace, such as ``{"pods": "1", "limits.memory": "1Gi"}``."""
    restricted: bool = False
    """Whether Pod Security's ``restricted`` is enforced."""
    policy: str | None = None
    """Why no pod is allowed, in the words of a webhook; None: that is no matter."""
    priority_classes: set[str] = field(default_factory=lambda: {"system-cluster-critical", "system-node-critical"})
    service_accounts: set[str] = field(default_factory=lambda: {"default"})

    def admit(self, store: Store, namespace: str, pod: Json) -> None:
        """Raises Refused (403)."""
        name, spec = pod["metadata"].get("name", ""), pod["spec"]
        for why in self._refusals(store, namespace, spec):
            raise forbidden("pods", name, why)

    def _refusals(self, store: Store, namespace: str, spec: Json) -> Iterator[str]:
        if self.policy is not None:
            yield f'admission webhook "policy.example" denied the request: {self.policy}'
        account = spec.get("serviceAccountName", "default")
        if account not in self.service_accounts:
            place = f"{namespace}/{account}"
            yield f'error looking up service account {place}: serviceaccount "{account}" not found'
        priority = spec.get("priorityClassName")
        if priority and priority not in self.priority_classes:
            yield f"no PriorityClass with name {priority} was found"
        if self.restricted and (found := list(_not_restricted(spec))):
            yield f'violates PodSecurity "restricted:latest": {", ".join(found)}'
        if missing := self._missing(spec):
            yield f"failed quota: rq: must specify {missing}"
        used = [it["spec"] for it in store.listed("pods", namespace) if not _over(it)] if self.quota else []
        if too_much := self._exceeded(spec, used):
            yield f"exceeded quota: rq, {too_much}"

    def _missing(self, spec: Json) -> str:
        """``limits.memory for: main,prepare``, for every resource that is counted and not given everywhere."""
        found = []
        for name in self.quota:
            if name == "pods":
                continue
            if without := sorted(it["name"] for it in _containers(spec) if _given(it, name) is None):
                found.append(f"{name} for: {','.join(without)}")
        return "; ".join(found)

    def _exceeded(self, spec: Json, used: list[Json]) -> str:
        over = {}
        for name, hard in self.quota.items():
            asked, has = _asked(spec, name), sum((_asked(it, name) for it in used), Fraction(0))
            if asked + has > number(hard):
                over[name] = (written(asked), written(has), hard)
        if not over:
            return ""
        parts = (",".join(f"{name}={it[at]}" for name, it in over.items()) for at in range(3))
        return ", ".join(f"{word}: {said}" for word, said in zip(("requested", "used", "limited"), parts, strict=True))


def _over(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _containers(spec: Json) -> list[Json]:
    return [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]


def _given(container: Json, name: str) -> str | None:
    kind, _, resource = name.rpartition(".")
    found = container.get("resources") or {}
    limit = (found.get("limits") or {}).get(resource)
    return limit if kind == "limits" else (found.get("requests") or {}).get(resource, limit)


def _asked(spec: Json, name: str) -> Fraction:
    """Containers run together, init containers one after the other."""
    if name == "pods":
        return Fraction(1)
    amounts = {
        key: [number(_given(it, name) or 0) for it in spec.get(key) or []] for key in ("containers", "initContainers")
    }
    return max(sum(amounts["containers"], Fraction(0)), *amounts["initContainers"], Fraction(0))


def _not_restricted(spec: Json) -> Iterator[str]:
    """In the words of the real check, in its order."""
    pod = spec.get("securityContext") or {}
    secure = [(it["name"], it.get("securityContext") or {}) for it in _containers(spec)]
    hosts = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    if hosts:
        yield f"host namespaces ({', '.join(f'{key}=true' for key in hosts)})"
    if paths := [it["name"] for it in spec.get("volumes") or [] if "hostPath" in it]:
        yield f'restricted volume types (volume {json.dumps(paths[0])} uses restricted volume type "hostPath")'
    if found := [name for name, it in secure if it.get("allowPrivilegeEscalation") is not False]:
        must = "must set securityContext.allowPrivilegeEscalation=false"
        yield f"allowPrivilegeEscalation != false ({_of(found)} {must})"
    if found := [name for name, it in secure if "ALL" not in (it.get("capabilities") or {}).get("drop", [])]:
        yield f'unrestricted capabilities ({_of(found)} must set securityContext.capabilities.drop=["ALL"])'
    found = [name for name, it in secure if it.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True]
    if found and spec.get("hostUsers") is not False:
        yield f"runAsNonRoot != true (pod or {_of(found)} must set securityContext.runAsNonRoot=true)"
    if found := [name for name, it in secure if it.get("runAsUser", pod.get("runAsUser")) == 0]:
        yield f"runAsUser=0 ({_of(found)} must not set runAsUser=0)"
    if found := [name for name, it in secure if _profile(it, pod) not in ("RuntimeDefault", "Localhost")]:
        yield (
            f"seccompProfile (pod or {_of(found)} must set securityContext.seccompProfile.type to "
            '"RuntimeDefault" or "Localhost")'
        )


def _profile(container: Json, pod: Json) -> str | None:
    found = container.get("seccompProfile") or pod.get("seccompProfile") or {}
    return found.get("type")


def _of(names: list[str]) -> str:
    listed = ", ".join(json.dumps(name) for name in names)
    return f"container{'s' if len(names) > 1 else ''} {listed}"
