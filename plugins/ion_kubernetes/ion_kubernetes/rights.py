"""What Ion may have to do in its namespace, and nothing else: asked for at the start, and given by the manifests."""

from __future__ import annotations

from collections.abc import Sequence

from ion_kubernetes.api import CONFIG_MAPS, EVENTS, JOBS, PODS, SECRETS, Resource
from ion_kubernetes.settings import KubernetesSettings

Right = tuple[str, Resource, str]
"""Verb, resource and what is below it."""

RIGHTS: Sequence[Right] = (
    *((verb, PODS, "") for verb in ("create", "delete", "get", "list", "watch")),
    ("get", PODS, "log"),
    ("create", SECRETS, ""),
)
BY_OBJECT: dict[str, Sequence[Right]] = {
    "pod": (("patch", PODS, ""),),
    "job": tuple((verb, JOBS, "") for verb in ("create", "delete", "get", "list")),
}
"""And besides, by ``object``: a pod is started by a patch, a Job is made at its start."""


def needed(settings: KubernetesSettings) -> Sequence[Right]:
    """What may not be missing."""
    return (*RIGHTS, *BY_OBJECT[settings.object])


def rules(settings: KubernetesSettings) -> list[dict[str, object]]:
    """Of a Role: what is needed; events, which tell why a pod does not start; and the one ConfigMap that is read."""
    found: dict[tuple[str, str], list[str]] = {}
    for verb, resource, below in (*needed(settings), ("list", EVENTS, "")):
        found.setdefault((resource.group, "/".join(filter(None, (resource.plural, below)))), []).append(verb)
    given: list[dict[str, object]] = [
        {"apiGroups": [group], "resources": [resource], "verbs": verbs} for (group, resource), verbs in found.items()
    ]
    if settings.owner is not None:
        named = {"resources": [CONFIG_MAPS.plural], "resourceNames": [settings.owner], "verbs": ["get"]}
        given.append({"apiGroups": [CONFIG_MAPS.group], **named})
    return given
