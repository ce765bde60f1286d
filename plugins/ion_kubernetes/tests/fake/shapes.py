"""The JSON shapes of what we send: unknown fields and wrong types are refused before any rule is asked (400).

Not Kubernetes' whole schema: what no pod of ours has is ``ANY`` below its first field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from plugins.ion_kubernetes.tests.fake.statuses import bad_request

ANY, STRING, BOOL, INT32, INT64, QUANTITY = "any", "string", "bool", "int32", "int64", "quantity"
_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")
_SAID = r"'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


@dataclass(frozen=True)
class Struct:
    name: str
    fields: dict[str, Any]
    """Shapes, by name."""


@dataclass(frozen=True)
class Many:
    of: Shape


@dataclass(frozen=True)
class Named:
    """A map with keys of any name."""

    of: Shape


Shape: TypeAlias = "str | Struct | Many | Named"
STRINGS, TEXTS = Many(STRING), Named(STRING)


def _any(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), ANY)


META = Struct(
    "ObjectMeta",
    {"name": STRING, "generateName": STRING, "namespace": STRING, "labels": TEXTS, "annotations": TEXTS}
    | {"uid": STRING, "resourceVersion": STRING, "generation": INT64, "finalizers": STRINGS}
    | _any("ownerReferences managedFields creationTimestamp deletionTimestamp deletionGracePeriodSeconds selfLink"),
)
_KEY = Struct("SecretKeySelector", {"name": STRING, "key": STRING, "optional": BOOL})
_FIELD = Struct("ObjectFieldSelector", {"apiVersion": STRING, "fieldPath": STRING})
_ITEMS = Many(Struct("KeyToPath", {"key": STRING, "path": STRING, "mode": INT32}))
_DOWNWARD = Many(
    Struct("DownwardAPIVolumeFile", {"path": STRING, "fieldRef": _FIELD, "mode": INT32} | _any("resourceFieldRef"))
)
_FROM = {"secretKeyRef": _KEY, "configMapKeyRef": _KEY, "fieldRef": _FIELD, "resourceFieldRef": ANY, "fileKeyRef": ANY}
_ENV = Struct("EnvVar", {"name": STRING, "value": STRING, "valueFrom": Struct("EnvVarSource", {**_FROM})})
_SECCOMP = Struct("SeccompProfile", {"type": STRING, "localhostProfile": STRING})
_SECURITY = Struct(
    "SecurityContext",
    {"runAsUser": INT64, "runAsGroup": INT64, "runAsNonRoot": BOOL, "privileged": BOOL, "seccompProfile": _SECCOMP}
    | {"allowPrivilegeEscalation": BOOL, "readOnlyRootFilesystem": BOOL}
    | {"capabilities": Struct("Capabilities", {"add": STRINGS, "drop": STRINGS})}
    | _any("seLinuxOptions windowsOptions procMount appArmorProfile"),
)
_RESOURCES = Struct("ResourceRequirements", {"limits": Named(QUANTITY), "requests": Named(QUANTITY), "claims": ANY})
_MOUNT = Struct(
    "VolumeMount",
    {"name": STRING, "mountPath": STRING, "subPath": STRING, "subPathExpr": STRING, "readOnly": BOOL}
    | _any("mountPropagation recursiveReadOnly"),
)
CONTAINER = Struct(
    "Container",
    {"name": STRING, "image": STRING, "command": STRINGS, "args": STRINGS, "workingDir": STRING, "env": Many(_ENV)}
    | {"resources": _RESOURCES, "volumeMounts": Many(_MOUNT), "imagePullPolicy": STRING, "securityContext": _SECURITY}
    | {"restartPolicy": STRING, "terminationMessagePath": STRING, "terminationMessagePolicy": STRING}
    | {"stdin": BOOL, "stdinOnce": BOOL, "tty": BOOL}
    | _any("envFrom ports volumeDevices livenessProbe readinessProbe startupProbe lifecycle resizePolicy")
    | _any("restartPolicyRules"),
)
_SECRET_VOLUME = {"items": _ITEMS, "optional": BOOL}
_SOURCES = {
    "secret": Struct("SecretProjection", {"name": STRING, **_SECRET_VOLUME}),
    "configMap": Struct("ConfigMapProjection", {"name": STRING, **_SECRET_VOLUME}),
    "downwardAPI": Struct("DownwardAPIProjection", {"items": _DOWNWARD}),
} | _any("serviceAccountToken clusterTrustBundle podCertificate")
VOLUME_SOURCES: dict[str, Shape] = {
    "emptyDir": Struct("EmptyDirVolumeSource", {"medium": STRING, "sizeLimit": QUANTITY}),
    "secret": Struct("SecretVolumeSource", {"secretName": STRING, "defaultMode": INT32, **_SECRET_VOLUME}),
    "configMap": Struct("ConfigMapVolumeSource", {"name": STRING, "defaultMode": INT32, **_SECRET_VOLUME}),
    "downwardAPI": Struct("DownwardAPIVolumeSource", {"items": _DOWNWARD, "defaultMode": INT32}),
    "projected": Struct(
        "ProjectedVolumeSource",
        {"sources": Many(Struct("VolumeProjection", {**_SOURCES})), "defaultMode": INT32},
    ),
    "hostPath": Struct("HostPathVolumeSource", {"path": STRING, "type": STRING}),
} | _any("persistentVolumeClaim nfs image csi ephemeral")
_TOLERATION = Struct(
    "Toleration",
    {"key": STRING, "operator": STRING, "value": STRING, "effect": STRING, "tolerationSeconds": INT64},
)
_POD_SECURITY = Struct(
    "PodSecurityContext",
    {"runAsUser": INT64, "runAsGroup": INT64, "runAsNonRoot": BOOL, "fsGroup": INT64, "seccompProfile": _SECCOMP}
    | {"supplementalGroups": Many(INT64), "fsGroupChangePolicy": STRING}
    | _any("seLinuxOptions windowsOptions sysctls appArmorProfile supplementalGroupsPolicy seLinuxChangePolicy"),
)
POD_SPEC = Struct(
    "PodSpec",
    {"containers": Many(CONTAINER), "initContainers": Many(CONTAINER), "restartPolicy": STRING}
    | {"volumes": Many(Struct("Volume", {"name": STRING, **VOLUME_SOURCES})), "nodeSelector": TEXTS}
    | {"terminationGracePeriodSeconds": INT64, "activeDeadlineSeconds": INT64, "serviceAccountName": STRING}
    | {"automountServiceAccountToken": BOOL, "enableServiceLinks": BOOL, "tolerations": Many(_TOLERATION)}
    | {"priorityClassName": STRING, "runtimeClassName": STRING, "dnsPolicy": STRING, "hostname": STRING}
    | {"nodeName": STRING, "schedulerName": STRING, "hostNetwork": BOOL, "hostPID": BOOL, "hostIPC": BOOL}
    | {"hostUsers": BOOL, "shareProcessNamespace": BOOL, "subdomain": STRING, "priority": INT32}
    | {"imagePullSecrets": Many(Struct("LocalObjectReference", {"name": STRING}))}
    | {"schedulingGates": Many(Struct("PodSchedulingGate", {"name": STRING})), "securityContext": _POD_SECURITY}
    | _any("affinity topologySpreadConstraints dnsConfig hostAliases os overhead readinessGates resourceClaims")
    | _any("preemptionPolicy resources serviceAccount setHostnameAsFQDN ephemeralContainers"),
)
_TOP: dict[str, Shape] = {"apiVersion": STRING, "kind": STRING, "metadata": META}
_EXIT_CODES = Struct(
    "PodFailurePolicyOnExitCodesRequirement", {"containerName": STRING, "operator": STRING, "values": Many(INT32)}
)
_RULE = Struct("PodFailurePolicyRule", {"action": STRING, "onExitCodes": _EXIT_CODES, "onPodConditions": ANY})
_JOB_SPEC = Struct(
    "JobSpec",
    {"template": Struct("PodTemplateSpec", {"metadata": META, "spec": POD_SPEC}), "backoffLimit": INT32}
    | {"ttlSecondsAfterFinished": INT32, "activeDeadlineSeconds": INT64, "suspend": BOOL, "completionMode": STRING}
    | {"podFailurePolicy": Struct("PodFailurePolicy", {"rules": Many(_RULE)}), "podReplacementPolicy": STRING}
    | {"parallelism": INT32, "completions": INT32, "successPolicy": ANY, "selector": ANY, "manualSelector": BOOL}
    | _any("backoffLimitPerIndex maxFailedIndexes managedBy"),
)
SHAPES = {
    "Pod": Struct("Pod", {**_TOP, "spec": POD_SPEC, "status": ANY}),
    "Job": Struct("Job", {**_TOP, "spec": _JOB_SPEC, "status": ANY}),
    "Secret": Struct("Secret", {**_TOP, "data": TEXTS, "stringData": TEXTS, "type": STRING, "immutable": BOOL}),
    "ConfigMap": Struct("ConfigMap", {**_TOP, "data": TEXTS, "binaryData": TEXTS, "immutable": BOOL}),
    "Namespace": Struct("Namespace", {**_TOP, "spec": ANY, "status": ANY}),
}


def check_shape(object: dict[str, Any], version: str, kind: str, *, strict: bool) -> None:
    """Raises Refused (400) for wrong types, and for unknown fields where ``strict``."""
    before = f'{kind} in version "{version}" cannot be handled as a {kind}: '
    unknown = []
    for problem, is_unknown in _problems(object, SHAPES[kind], "", "", ""):
        if not is_unknown:
            raise bad_request(before + problem)
        unknown.append(problem)
    if strict and unknown:
        raise bad_request(f"{before}strict decoding error: {', '.join(unknown)}")


def _problems(value: Any, shape: Shape, path: str, plain: str, struct: str) -> Iterator[tuple[str, bool]]:
    """What is wrong, and whether it is only an unknown field. ``plain`` is the path without indexes."""
    if value is None or shape == ANY:
        return
    if isinstance(shape, Struct) and isinstance(value, dict):
        for name, below in value.items():
            where, short = f"{path}.{name}".lstrip("."), f"{plain}.{name}".lstrip(".")
            if name not in shape.fields:
                yield f'unknown field "{where}"', True
            else:
                yield from _problems(below, shape.fields[name], where, short, shape.name)
    elif isinstance(shape, Many) and isinstance(value, list):
        for index, below in enumerate(value):
            yield from _problems(below, shape.of, f"{path}[{index}]", plain, struct)
    elif isinstance(shape, Named) and isinstance(value, dict):
        for name, below in value.items():
            yield from _problems(below, shape.of, f"{path}.{name}", plain, struct)
    elif shape == QUANTITY:
        text = value if isinstance(value, str) else str(value)
        if not _QUANTITY.fullmatch(text):
            yield f"quantities must match the regular expression {_SAID}", False
    elif not _is(value, shape):
        said = _go(value)
        yield f"json: cannot unmarshal {said} into Go struct field {struct}.{plain} of type {_type(shape)}", False


def _is(value: Any, shape: Shape) -> bool:
    if shape in (INT32, INT64):
        return isinstance(value, int) and not isinstance(value, bool)
    return (shape == STRING and isinstance(value, str)) or (shape == BOOL and isinstance(value, bool))


def _go(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return {str: "string", int: "number", float: "number", list: "array"}.get(type(value), "object")


def _type(shape: Shape) -> str:
    if isinstance(shape, Many):
        return f"[]{_type(shape.of)}"
    if isinstance(shape, Named):
        return f"map[string]{_type(shape.of)}"
    return f"v1.{shape.name}" if isinstance(shape, Struct) else shape
