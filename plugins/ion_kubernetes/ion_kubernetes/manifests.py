"""What an operator applies so that a pipeline is served in a cluster: objects of Kubernetes, each with what to know.

Nothing secret is in them: the configuration comes in by a Secret that the operator makes.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from ion_core.contracts.command import Pipeline
from ion_core.contracts.provider import Reach
from ion_kubernetes import names
from ion_kubernetes.rights import rules
from ion_kubernetes.settings import KubernetesSettings

Json = dict[str, Any]

DISPATCHER = "ion-dispatcher"
"""Name of the Deployment, and of all that is only for it."""
CONFIG, ENVIRONMENT = "ion-config", "ion-env"
"""Secrets that the operator makes: the configuration, and variables for ``${env:…}`` in it."""

# Not the label that jobs are found by: a dispatcher is none.
_LABELS = {"app.kubernetes.io/name": DISPATCHER, "app.kubernetes.io/part-of": "ion"}
_CONFIG_AT, _STATE_AT = "/etc/ion", "/var/lib/ion"
_USER = 65532
"""Of the image, as deploy/Containerfile makes it."""
_TO_CLOSE = 30
"""Seconds beside drain_timeout, to close what is open."""
_NOT_RESTRICTED = {"hostIPC", "hostNetwork", "hostPID", "securityContext"}


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Where prepare and commit find the stores: addresses, and a TCP port of these."""

    network: IPv4Network | IPv6Network
    port: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One object, and in lines without ``#`` what to know of it."""

    about: Sequence[str]
    object: Json


def default_replicas(pipeline: Pipeline) -> int:
    """Two where several dispatchers may share the work, so that one is there while the other is replaced."""
    return 2 if shared(pipeline) else 1


def shared(pipeline: Pipeline) -> bool:
    """Whether dispatchers in different pods reach the same broker."""
    return pipeline.broker_reach is Reach.NETWORK


def manifests(
    settings: KubernetesSettings, pipeline: Pipeline, *, image: str, replicas: int, stores: Sequence[Stores]
) -> Iterator[Manifest]:
    """In the order in which they are applied."""
    yield _namespace(settings)
    yield _made(settings, "v1", "ServiceAccount", DISPATCHER, about=["Who the dispatcher is to the API server."])
    if settings.service_account != "default":
        yield Manifest(
            about=["Who jobs are to the API server: nobody that may anything; its token is not mounted."],
            object=_object(
                settings, "v1", "ServiceAccount", settings.service_account, automountServiceAccountToken=False
            ),
        )
    yield from _role(settings)
    if settings.owner is not None:
        about = ["Owns every job and Secret that Ion makes: deleting it ends and removes all of them."]
        yield _made(settings, "v1", "ConfigMap", settings.owner, about=about)
    yield from _policies(settings, stores)
    if not shared(pipeline):
        yield _state(settings, pipeline)
    yield _deployment(settings, pipeline, image, replicas)


def _object(settings: KubernetesSettings, version: str, kind: str, name: str, **more: Any) -> Json:
    metadata = {"name": name, "namespace": settings.namespace, "labels": {"app.kubernetes.io/part-of": "ion"}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def _made(settings: KubernetesSettings, version: str, kind: str, name: str, *, about: Sequence[str]) -> Manifest:
    return Manifest(about=about, object=_object(settings, version, kind, name))


def _namespace(settings: KubernetesSettings) -> Manifest:
    loose = sorted(_NOT_RESTRICTED & {*settings.allow.pod} & {*settings.pod.get("spec", {})})
    about = [
        "Where all of it is. Jobs and dispatcher keep to the restricted profile of Pod Security, so it is enforced."
    ]
    if loose:
        about = [f"Not enforced, only warned of: jobs set {', '.join(loose)}, which the restricted profile forbids."]
    level = "pod-security.kubernetes.io"
    labels = {f"{level}/warn": "restricted"} if loose else {f"{level}/enforce": "restricted"}
    labels["app.kubernetes.io/part-of"] = "ion"
    metadata = {"name": settings.namespace, "labels": labels}
    return Manifest(about=about, object={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


def _role(settings: KubernetesSettings) -> Iterator[Manifest]:
    group = "rbac.authorization.k8s.io"
    yield Manifest(
        about=["All that the dispatcher may do, and only in this namespace. It reads no Secret."],
        object=_object(settings, f"{group}/v1", "Role", DISPATCHER, rules=rules(settings)),
    )
    binding = _object(
        settings,
        f"{group}/v1",
        "RoleBinding",
        DISPATCHER,
        roleRef={"apiGroup": group, "kind": "Role", "name": DISPATCHER},
        subjects=[{"kind": "ServiceAccount", "name": DISPATCHER, "namespace": settings.namespace}],
    )
    yield Manifest(about=[], object=binding)


def _policies(settings: KubernetesSettings, stores: Sequence[Stores]) -> Iterator[Manifest]:
    jobs: Json = {"matchLabels": {**names.MANAGED_BY}, "matchExpressions": [{"key": names.NAME, "operator": "Exists"}]}
    yield Manifest(
        about=[
            "Nobody connects to a job. A NetworkPolicy does something only where the cluster's network enforces it."
        ],
        object=_policy(settings, "ion-jobs-nothing-in", {"podSelector": jobs, "policyTypes": ["Ingress"]}),
    )
    if not stores:
        return
    without = {**jobs, "matchLabels": {**jobs["matchLabels"], names.NETWORK: "none"}}
    dns: Json = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}
    if settings.dns_policy == "ClusterFirst":
        dns["to"] = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
    egress = [
        dns,
        *(
            {"to": [{"ipBlock": {"cidr": str(it.network)}}], "ports": [{"protocol": "TCP", "port": it.port}]}
            for it in stores
        ),
    ]
    yield Manifest(
        about=[
            "Jobs of modules with network: none reach names and the stores. The network of a pod is that of all its",
            "containers: prepare and commit need the stores, and so the module reaches them, too, without credentials.",
        ],
        object=_policy(
            settings, "ion-jobs-no-network", {"podSelector": without, "policyTypes": ["Egress"], "egress": egress}
        ),
    )


def _policy(settings: KubernetesSettings, name: str, spec: Json) -> Json:
    return _object(settings, "networking.k8s.io/v1", "NetworkPolicy", name, spec=spec)


def _state(settings: KubernetesSettings, pipeline: Pipeline) -> Manifest:
    spec = {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "10Gi"}}}
    return Manifest(
        about=[f"What waits, in the queues of {pipeline.broker}. On block storage: network file systems are refused."],
        object=_object(settings, "v1", "PersistentVolumeClaim", DISPATCHER, spec=spec),
    )


def _deployment(settings: KubernetesSettings, pipeline: Pipeline, image: str, replicas: int) -> Manifest:
    file, several = shlex.quote(str(pipeline.file)), shared(pipeline)
    secret = f"kubectl -n {settings.namespace} create secret generic"
    about = [
        "The dispatcher. Its configuration, and whatever that names by ${file:…} or by a path beside it, comes from:",
        f"  {secret} {CONFIG} --from-file=ion.yaml={file}",
        "variables, for ${env:…}, from one that may be missing:",
        f"  {secret} {ENVIRONMENT} --from-literal=ION_AMQP_URL=…",
        "No probe: serve answers nothing, and ends when it cannot go on. Jobs run on while it is replaced.",
    ]
    if not several:
        about.append(f"One replica, no more: {pipeline.broker} is reached from one pod only.")
    spec: Json = {
        "replicas": replicas,
        "selector": {"matchLabels": dict(_LABELS)},
        "strategy": {"type": "RollingUpdate" if several else "Recreate"},
        "template": {"metadata": {"labels": dict(_LABELS)}, "spec": _pod(settings, pipeline, image)},
    }
    return Manifest(about=about, object=_object(settings, "apps/v1", "Deployment", DISPATCHER, spec=spec))


def _pod(settings: KubernetesSettings, pipeline: Pipeline, image: str) -> Json:
    state = {"emptyDir": {}} if shared(pipeline) else {"persistentVolumeClaim": {"claimName": DISPATCHER}}
    spec: Json = {
        "serviceAccountName": DISPATCHER,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(pipeline.drain_timeout.total_seconds()) + _TO_CLOSE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(image)],
        "volumes": [
            {"name": "config", "secret": {"secretName": CONFIG, "defaultMode": 0o440}},
            {"name": "state", **state},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return spec


def _container(image: str) -> Json:
    # for commands by `kubectl exec`, too
    environ = {"ION_CONFIG": f"{_CONFIG_AT}/ion.yaml", "ION_STATE": _STATE_AT, "HOME": "/tmp"}
    return {
        "name": "dispatcher",
        "image": image,
        "command": ["ion-core", "serve", "--log-format", "json"],
        "env": [{"name": name, "value": value} for name, value in environ.items()],
        "envFrom": [{"secretRef": {"name": ENVIRONMENT, "optional": True}}],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG_AT, "readOnly": True},
            {"name": "state", "mountPath": _STATE_AT},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
