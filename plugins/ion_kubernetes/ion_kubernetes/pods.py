"""What a job is as a pod: prepare and module as init containers, commit as the main one, one after the other.

Nothing of an event is in what is made. The ticket comes with the start, as an annotation, which prepare and commit see
as a file; the settings are a Secret, which only they mount. The module sees ``in``, ``out`` and its own /tmp.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ion_core.contracts.executor import JobSpec
from ion_core.errors import ImageUnavailable, PermanentError
from ion_core.words import counted
from ion_kubernetes import names
from ion_kubernetes.settings import KubernetesSettings

Json = dict[str, Any]

MAX_SECRET = 1024**2
"""Bytes of data that a Secret holds."""

_SETTINGS = "ion.yaml"
_SETTINGS_AT = "/etc/ion/settings"
_TICKET_AT = "/etc/ion/ticket"
_RESULT = "/dev/termination-log"
_QUEUE = "kueue.x-k8s.io/queue-name"
_READ_BY_GROUP = 0o440
_PULL = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}
_HANDLER_TMP = 64 * 1024**2

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
_REFERENCE = re.compile(
    rf"(?:{_HOST}(?::[0-9]+)?/)?{_PART}(?:/{_PART})*(?::\w[\w.-]{{0,127}})?(?:@[A-Za-z][\w+.-]*:[0-9a-fA-F]{{32,}})?",
    re.ASCII,
)
"""After the grammar of distribution/reference, which container engines share."""

# as process 1 a shell ignores SIGTERM unless it is told what to do
_WHEN_THERE = 'trap "exit 143" TERM; until [ -s "$0" ]; do sleep 0.1; done; exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A job as it is to be. ``owner`` is an ownerReference of all that is made for it."""

    spec: JobSpec
    settings: KubernetesSettings
    owner: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Raises ImageUnavailable or PermanentError for what no cluster could run."""
        module, where = self.spec.module, f"job {self.spec.name}"
        if not module.image:
            raise PermanentError(f"{where}: module {module.name!r} has no image, and Kubernetes runs nothing else.")
        if not _REFERENCE.fullmatch(module.image):  # the API server takes it, and no node ever will
            raise ImageUnavailable(f'{where}: "{module.image}" can be no image. One is such as registry.example/a/b:1.')
        if len(self.spec.settings) > MAX_SECRET:
            raise PermanentError(
                f"{where}: the settings for prepare and commit have {counted(len(self.spec.settings), 'byte')}, and a "
                f"Secret holds {MAX_SECRET:,}. Make the section of this module, or of the stores, smaller."
            )
        for name in module.env:
            if not name or "=" in name or not (name.isascii() and name.isprintable()):
                raise PermanentError(f"{where}: {name!r} can be no name of an environment variable in Kubernetes.")
        for gpu in module.resources.gpus:
            if "/" not in gpu or gpu.endswith("=all"):
                raise PermanentError(
                    f'{where}: "{gpu}" asks for no countable GPU. Name one for each that is wanted, such as '
                    "nvidia.com/gpu=0, nvidia.com/gpu=1: Kubernetes counts them, and chooses which."
                )

    @cached_property
    def secret_name(self) -> str:
        """One for each content, so that jobs share it, and a changed one is another."""
        return f"ion-settings-{names.digest(self.spec.settings)[:24]}"

    def secret(self) -> Json:
        data = {_SETTINGS: base64.b64encode(self.spec.settings).decode("ascii")}
        metadata: Json = {"name": self.secret_name, "labels": dict(names.MANAGED_BY)}
        if self.owner is not None:
            metadata["ownerReferences"] = [dict(self.owner)]
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "immutable": True, "data": data}

    @cached_property
    def deadline(self) -> int:
        """Seconds on its node after which the engine ends the pod: a net for when nobody of us is there."""
        settings = self.settings
        allowances = settings.start_wait + settings.prepare_allowance + settings.commit_allowance
        return math.ceil((self.spec.timeout + allowances + settings.grace).total_seconds())

    @cached_property
    def digest(self) -> str:
        """Of all that was asked for, with the settings."""
        return str(self._body["metadata"]["annotations"][names.SPEC])

    def pod(self) -> Json:
        """As it is sent. Held back by a gate, or warm: without one, and prepare waits for the ticket."""
        return deepcopy(self._body)

    def job(self, id: str, ticket: bytes) -> Json:
        """A Job for sites whose queue admits those: made at the start, with its ticket, and one pod for ever.

        Its controller gives it no second pod, and no deadline of its own: that would take pod and log away at once.
        """
        pod, settings = self.pod(), self.settings
        metadata, spec = pod["metadata"], pod["spec"]
        spec.pop("schedulingGates", None)  # a queue holds it back, or nothing does
        labels, annotations = metadata["labels"] | {names.ID: id}, metadata["annotations"]
        annotations[names.TICKET] = ticket.decode()
        queue = {} if settings.queue is None else {_QUEUE: settings.queue}
        body: Json = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.spec.name, "labels": labels | queue, "annotations": dict(annotations)},
            "spec": {
                "suspend": settings.queue is not None,
                "backoffLimit": 0,
                "completions": 1,
                "parallelism": 1,
                "podReplacementPolicy": "Failed",
                "ttlSecondsAfterFinished": math.ceil(settings.keep_jobs.total_seconds()),
                "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec},
            },
        }
        if self.owner is not None:
            body["metadata"]["ownerReferences"] = [dict(self.owner)]
        return body

    @cached_property
    def _body(self) -> Json:
        spec = self.spec
        annotations = {
            names.LABELS: _text(dict(spec.labels)),
            names.TIMEOUT: f"{spec.timeout.total_seconds():g}",
            names.LOG_LIMIT: str(spec.log_limit),
        }
        labels = {
            **names.labels(spec.labels),
            **names.MANAGED_BY,
            names.NAME: spec.name,
            names.NETWORK: names.label(spec.module.network),
        }
        body: Json = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": spec.name, "labels": labels, "annotations": annotations},
            "spec": self._pod_spec(),
        }
        if self.owner is not None:
            body["metadata"]["ownerReferences"] = [dict(self.owner)]
        merge(body, self.settings.pod)
        body["metadata"]["annotations"][names.SPEC] = names.digest(_text(body).encode())[:32]
        return body

    def _pod_spec(self) -> Json:
        settings = self.settings
        user = settings.run_as_user
        spec: Json = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "serviceAccountName": settings.service_account,
            "dnsPolicy": settings.dns_policy,
            "terminationGracePeriodSeconds": math.ceil(settings.grace.total_seconds()),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "runAsGroup": user,
                "fsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "initContainers": [self._handler(names.PREPARE), self._module()],
            "containers": [self._handler(names.COMMIT)],
            "volumes": self._volumes(),
        }
        if not settings.warm:  # a deadline counts from when the pod has its node: a warm one is given it at its start
            spec["schedulingGates"] = [{"name": names.GATE}]
            spec["activeDeadlineSeconds"] = self.deadline
        if settings.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
        if settings.node_selector:
            spec["nodeSelector"] = dict(settings.node_selector)
        if settings.tolerations:
            spec["tolerations"] = [it.to_json() for it in settings.tolerations]
        if settings.priority_class:
            spec["priorityClassName"] = settings.priority_class
        if settings.runtime_class:
            spec["runtimeClassName"] = settings.runtime_class
        return spec

    def _volumes(self) -> list[Json]:
        shm, settings = self.spec.module.resources.shm, self.settings
        ticket = {"path": "ticket", "fieldRef": {"fieldPath": f"metadata.annotations['{names.TICKET}']"}}
        volumes: list[Json] = [
            {"name": "workspace", "emptyDir": {"sizeLimit": str(settings.workspace)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": str(settings.tmp)}},
            # not the module's: it could lay snares for commit there
            {"name": "handler-tmp", "emptyDir": {"sizeLimit": str(_HANDLER_TMP)}},
            {"name": "settings", "secret": {"secretName": self.secret_name, "defaultMode": _READ_BY_GROUP}},
            {"name": "ticket", "downwardAPI": {"items": [ticket], "defaultMode": _READ_BY_GROUP}},
        ]
        if shm is not None:
            volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(shm)}})
        return volumes

    @property
    def _storage(self) -> int:
        """Of each container: a node counts all volumes of a pod, and its logs, against the largest of them."""
        settings = self.settings
        return settings.workspace + settings.tmp + _HANDLER_TMP + settings.ephemeral_storage

    def _handler(self, step: str) -> Json:
        settings = self.settings
        command = ["ion-core", "handler", step, "--config", f"{_SETTINGS_AT}/{_SETTINGS}"]
        command += ["--ticket", f"{_TICKET_AT}/ticket", "--result", _RESULT, "--basedir", "/ion"]
        if settings.warm and step == names.PREPARE:
            command = ["sh", "-c", _WHEN_THERE, f"{_TICKET_AT}/ticket", *command]
        return {
            "name": step,
            "image": settings.handler_image,
            "imagePullPolicy": _PULL[settings.pull],
            "command": [names.literal(text) for text in command],
            "workingDir": "/ion",
            "env": [{"name": "HOME", "value": "/tmp"}],
            "resources": _resources(settings.handler.cpus, settings.handler.memory, self._storage),
            "securityContext": _hardened(read_only_root=True),
            "terminationMessagePath": _RESULT,
            "terminationMessagePolicy": "File",
            "volumeMounts": [
                {"name": "workspace", "mountPath": "/ion"},
                {"name": "handler-tmp", "mountPath": "/tmp"},
                {"name": "settings", "mountPath": _SETTINGS_AT, "readOnly": True},
                {"name": "ticket", "mountPath": _TICKET_AT, "readOnly": True},
            ],
        }

    def _module(self) -> Json:
        module, settings = self.spec.module, self.settings
        asked = module.resources
        mounts: list[Json] = [
            {"name": "workspace", "mountPath": "/ion/in", "subPath": "in", "readOnly": True},
            {"name": "workspace", "mountPath": "/ion/out", "subPath": "out"},
            {"name": "tmp", "mountPath": "/tmp"},
        ]
        if asked.shm is not None:
            mounts.append({"name": "shm", "mountPath": "/dev/shm"})
        gpus = Counter(name.partition("=")[0] for name in asked.gpus)
        container: Json = {
            "name": names.MODULE,
            "image": module.image,
            "imagePullPolicy": _PULL[settings.pull],
            "env": [{"name": name, "value": names.literal(value)} for name, value in module.env.items()],
            "resources": _resources(asked.cpus or settings.cpus, asked.memory or settings.memory, self._storage, gpus),
            "securityContext": _hardened(read_only_root=module.name not in settings.allow.writable_root),
            "volumeMounts": mounts,
        }
        if module.command:
            container["command"] = [names.literal(text) for text in module.command]
        if module.args:
            container["args"] = [names.literal(text) for text in module.args]
        return container


def merge(target: Json, patch: Mapping[str, Any]) -> None:
    """A JSON merge patch (RFC 7386): mappings are merged, anything else replaces what was there, null removes it."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(target.get(name), dict):
            merge(target[name], value)
        elif isinstance(value, Mapping):
            target[name] = {}
            merge(target[name], value)
        else:
            target[name] = deepcopy(value)


def _hardened(*, read_only_root: bool) -> Json:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only_root,
    }


def _resources(cpus: float, memory: int, storage: int, gpus: Mapping[str, int] | None = None) -> Json:
    """Requests are the limits: what a job was promised it has, and a quota of either kind counts it."""
    each = {
        "cpu": f"{max(1, round(cpus * 1000))}m",
        "memory": str(memory),
        "ephemeral-storage": str(storage),
        **{name: str(count) for name, count in (gpus or {}).items()},
    }
    return {"requests": dict(each), "limits": each}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def start_patch(pod: Mapping[str, Any], ticket: bytes, *, warm_deadline: int | None) -> Sequence[Json]:
    """What starts the job of this very pod, and refuses to start it twice: its gate goes, its ticket comes.

    ``warm_deadline`` is that of a pod that has none yet.
    """
    path = f"/metadata/annotations/{names.TICKET.replace('/', '~1')}"
    patch: list[Json] = [
        {"op": "test", "path": "/metadata/uid", "value": pod["metadata"]["uid"]},
        {"op": "test", "path": path, "value": None},
        {"op": "add", "path": path, "value": ticket.decode()},
    ]
    for number, gate in enumerate(pod["spec"].get("schedulingGates") or ()):  # others' gates are for others to open
        if gate.get("name") == names.GATE:
            at = f"/spec/schedulingGates/{number}"
            patch += [{"op": "test", "path": f"{at}/name", "value": names.GATE}, {"op": "remove", "path": at}]
    if warm_deadline is not None:
        patch.append({"op": "add", "path": "/spec/activeDeadlineSeconds", "value": warm_deadline})
    return patch
