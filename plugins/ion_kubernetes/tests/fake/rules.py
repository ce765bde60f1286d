"""What an API server refuses of pods, Jobs, Secrets and ConfigMaps: a table of rules, held against recorded answers.

A rule yields the problems of what it looks at. Those of a pod's spec are those of a Job's template, below another path.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from plugins.ion_kubernetes.tests.fake.quantities import number, written
from plugins.ion_kubernetes.tests.fake.shapes import VOLUME_SOURCES
from plugins.ion_kubernetes.tests.fake.statuses import (
    Problem,
    invalid,
    invalid_object,
    required,
    unsupported,
)

Json = dict[str, Any]
Problems = Iterator[Problem]
LARGEST = 2**31 - 1
MOST_DATA = 1024**2

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_NAME = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_NO_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_NO_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_NO_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{_VALUE}')"
)
_NO_KEY = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME}')"
)
_SECURITY_FIELDS = [
    "Capabilities",
    "Privileged",
    "SELinuxOptions",
    "WindowsOptions",
    "RunAsUser",
    "RunAsGroup",
    "RunAsNonRoot",
    "ReadOnlyRootFilesystem",
    "AllowPrivilegeEscalation",
    "ProcMount",
    "SeccompProfile",
    "AppArmorProfile",
]


def check(object: Json, kind: str) -> None:
    """Raises Refused (422) with every problem as a cause. ``kind`` is as in ``Job.batch``."""
    problems = [it for rule in RULES[kind] for it in rule(object)]
    if problems:
        raise invalid_object(kind, object.get("metadata", {}).get("name", ""), problems)


def _quoted(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# ---- names, labels, annotations


def _names(object: Json) -> Problems:
    meta = object.get("metadata", {})
    name = meta.get("name", "")
    if not name and not meta.get("generateName"):
        yield required("metadata.name", "name or generateName is required")
    elif len(name) > 253:
        yield invalid("metadata.name", _quoted(name), "must be no more than 253 bytes")
    elif name and not re.fullmatch(_SUBDOMAIN, name):
        yield invalid("metadata.name", _quoted(name), _NO_SUBDOMAIN)


def _labels(object: Json) -> Problems:
    yield from labels("metadata.labels", object.get("metadata", {}).get("labels") or {})


def labels(field: str, found: Json) -> Problems:
    for key, value in found.items():
        if not re.fullmatch(_NAME, key.rpartition("/")[2]):
            yield invalid(field, _quoted(key), _NO_KEY)
        if len(value) > 63:
            yield invalid(field, _quoted(value), "must be no more than 63 bytes")
        elif not re.fullmatch(_VALUE, value):
            yield invalid(field, _quoted(value), _NO_VALUE)


def _annotations(object: Json) -> Problems:
    found = object.get("metadata", {}).get("annotations") or {}
    if sum(len(key.encode()) + len(value.encode()) for key, value in found.items()) > 256 * 1024:
        yield Problem("metadata.annotations", "FieldValueTooLong", "Too long: may not be more than 262144 bytes")


def _data(object: Json) -> Problems:
    found = {**(object.get("data") or {}), **(object.get("binaryData") or {}), **(object.get("stringData") or {})}
    encoded = object.get("kind") == "Secret"
    plain = object.get("stringData") or {}
    sizes = (
        len(it) * 3 // 4 - it.count("=") if encoded and key not in plain else len(it.encode())
        for key, it in found.items()
    )
    if sum(sizes) > MOST_DATA:
        yield Problem("data", "FieldValueTooLong", f"Too long: may not be more than {MOST_DATA} bytes")
    for key in found:
        if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
            yield invalid(
                f"data[{key}]",
                _quoted(key),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            )


# ---- a pod's spec: each rule is given the spec and its path


def _restart_policy(spec: Json, path: str) -> Problems:
    given = spec.get("restartPolicy", "Always")
    if given not in ("Always", "OnFailure", "Never"):
        yield unsupported(f"{path}.restartPolicy", given, ["Always", "OnFailure", "Never"])


def _deadline(spec: Json, path: str) -> Problems:
    given = spec.get("activeDeadlineSeconds")
    if given is not None and not 1 <= given <= LARGEST:
        yield invalid(f"{path}.activeDeadlineSeconds", given, f"must be between 1 and {LARGEST}, inclusive")


def _selector(spec: Json, path: str) -> Problems:
    yield from labels(f"{path}.nodeSelector", spec.get("nodeSelector") or {})


def _tolerations(spec: Json, path: str) -> Problems:
    for index, it in enumerate(spec.get("tolerations") or []):
        if it.get("operator") == "Exists" and it.get("value"):
            why = "value must be empty when `operator` is 'Exists'"
            yield invalid(f"{path}.tolerations[{index}].operator", _quoted(it["value"]), why)


def _seccomp(spec: Json, path: str) -> Problems:
    profile = (spec.get("securityContext") or {}).get("seccompProfile") or {}
    if profile.get("type") == "Localhost" and not profile.get("localhostProfile"):
        where = f"{path}.securityContext.seccompProfile.localhostProfile"
        yield required(where, "must be set when seccomp type is Localhost")


def _volumes(spec: Json, path: str) -> Problems:
    seen: set[str] = set()
    for index, it in enumerate(spec.get("volumes") or []):
        where = f"{path}.volumes[{index}]"
        name = it.get("name", "")
        if not name:
            yield required(f"{where}.name")
        elif not re.fullmatch(_LABEL, name) or len(name) > 63:
            yield invalid(f"{where}.name", _quoted(name), _NO_LABEL)
        if name in seen:
            yield Problem(f"{where}.name", "FieldValueDuplicate", f"Duplicate value: {_quoted(name)}")
        seen.add(name)
        sources = [source for source in VOLUME_SOURCES if source in it]
        if not sources:
            yield required(where, "must specify a volume type")
        for more in sources[1:]:
            why = "Forbidden: may not specify more than 1 volume type"
            yield Problem(f"{where}.{more}", "FieldValueForbidden", why)


def _containers(spec: Json, path: str) -> Problems:
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    seen: set[str] = set()
    for key in ("containers", "initContainers"):
        for index, it in enumerate(spec.get(key) or []):
            where = f"{path}.{key}[{index}]"
            yield from _container_name(it, where, seen)
            for rule in CONTAINER_RULES:
                yield from rule(it, where)
            yield from _mounts(it, where, spec)


def _container_name(it: Json, where: str, seen: set[str]) -> Problems:
    name = it.get("name", "")
    if not name:
        yield required(f"{where}.name")
    elif len(name) > 63:
        yield invalid(f"{where}.name", _quoted(name), "must be no more than 63 characters")
    elif not re.fullmatch(_LABEL, name):
        yield invalid(f"{where}.name", _quoted(name), _NO_LABEL)
    elif name in seen:
        yield Problem(f"{where}.name", "FieldValueDuplicate", f"Duplicate value: {_quoted(name)}")
    seen.add(name)


# ---- a container of it


def _image(it: Json, where: str) -> Problems:
    image = it.get("image", "")
    if not image:
        yield required(f"{where}.image")
    elif image != image.strip():
        yield invalid(f"{where}.image", _quoted(image), "must not have leading or trailing whitespace")


def _choices(it: Json, where: str) -> Problems:
    for key, supported in CHOICES.items():
        if key in it and it[key] not in supported:
            yield unsupported(f"{where}.{key}", it[key], supported)


def _env(it: Json, where: str) -> Problems:
    for index, entry in enumerate(it.get("env") or []):
        name = entry.get("name", "")
        if not name:
            yield required(f"{where}.env[{index}].name")
        elif "=" in name or not re.fullmatch(r"[ -~]+", name):
            why = "a valid environment variable name must consist only of printable ASCII characters other than '='"
            yield invalid(f"{where}.env[{index}].name", _quoted(name), why)


def _resources(it: Json, where: str) -> Problems:
    found = it.get("resources") or {}
    limits = found.get("limits") or {}
    requests = found.get("requests") or {}
    for name, value in limits.items():
        if _whole(name) and number(value).denominator != 1:
            for key in ("limits", "requests"):  # a limit is a request too, where there is none
                said = f'"{written(number(value))}"'
                yield invalid(f"{where}.resources.{key}[{name}]", said, "must be an integer")
    for name, value in requests.items():
        if _whole(name) and name not in limits:
            why = "Limit must be set for non overcommitable resources"
            yield required(f"{where}.resources.limits", why)
        elif name in limits and number(value) > number(limits[name]):
            why = f"must be less than or equal to {name} limit of {limits[name]}"
            yield invalid(f"{where}.resources.requests", _quoted(str(value)), why)


def _whole(resource: str) -> bool:
    """Extended resources, as GPUs: whole numbers, and a limit always."""
    return "/" in resource


def _security(it: Json, where: str) -> Problems:
    found = it.get("securityContext") or {}
    for key in ("runAsUser", "runAsGroup"):
        if not 0 <= found.get(key, 0) <= LARGEST:
            why = f"must be between 0 and {LARGEST}, inclusive"
            yield invalid(f"{where}.securityContext.{key}", found[key], why)
    if found.get("privileged") and found.get("allowPrivilegeEscalation") is False:
        given = {name[0].lower() + name[1:]: name for name in _SECURITY_FIELDS}
        said = {name: found.get(key) for key, name in given.items()}
        why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        yield invalid(f"{where}.securityContext", _quoted(said), why)


def _mounts(it: Json, where: str, spec: Json) -> Problems:
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    paths: Counter[str] = Counter()
    for index, mount in enumerate(it.get("volumeMounts") or []):
        at = f"{where}.volumeMounts[{index}]"
        if mount.get("name") not in volumes:
            yield Problem(f"{at}.name", "FieldValueNotFound", f"Not found: {_quoted(mount.get('name'))}")
        path = mount.get("mountPath", "")
        if not path:
            yield required(f"{at}.mountPath")
        paths[path] += 1
        if paths[path] > 1:
            yield invalid(f"{at}.mountPath", _quoted(path), "must be unique")
        below = mount.get("subPath", "")
        if ".." in below.split("/"):
            yield invalid(f"{where}.volumeMounts.subPath", _quoted(below), "must not contain '..'")
        if below.startswith("/"):
            yield invalid(f"{where}.volumeMounts.subPath", _quoted(below), "must be a relative path")


# ---- a Job


def _job_numbers(job: Json) -> Problems:
    for key in ("backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds"):
        if job["spec"].get(key, 0) < 0:
            yield invalid(f"spec.{key}", job["spec"][key], "must be greater than or equal to 0")


def _job_restart_policy(job: Json) -> Problems:
    given = job["spec"]["template"]["spec"].get("restartPolicy", "Always")
    where = "spec.template.spec.restartPolicy"
    if given not in ("OnFailure", "Never"):
        yield required(where, 'valid values: "OnFailure", "Never"')
    elif given != "Never" and "podFailurePolicy" in job["spec"]:
        yield invalid(where, _quoted(given), 'only "Never" is supported when podFailurePolicy is specified')


def _job_failure_policy(job: Json) -> Problems:
    if "podFailurePolicy" not in job["spec"]:
        return
    replacement = job["spec"].get("podReplacementPolicy", "Failed")
    if replacement != "Failed":
        yield unsupported("spec.podReplacementPolicy", replacement, ["Failed"])
    spec = job["spec"]["template"]["spec"]
    names = {it.get("name") for key in ("containers", "initContainers") for it in spec.get(key) or []}
    for index, rule in enumerate(job["spec"]["podFailurePolicy"].get("rules") or []):
        codes = rule.get("onExitCodes") or {}
        where = f"spec.podFailurePolicy.rules[{index}].onExitCodes"
        values = codes.get("values") or []
        if codes.get("containerName") not in (*names, None):
            why = "must be one of the container or initContainer names in the pod template"
            yield invalid(f"{where}.containerName", _quoted(codes["containerName"]), why)
        if values != sorted(values):
            yield invalid(f"{where}.values", _quoted(values), "must be ordered")
        for at, value in enumerate(values):
            if value == 0 and codes.get("operator") == "In":
                yield invalid(f"{where}.values[{at}]", 0, "must not be 0 for the In operator")


def _job_success_policy(job: Json) -> Problems:
    policy = job["spec"].get("successPolicy")
    if policy is not None and job["spec"].get("completionMode") != "Indexed":
        fields = ("succeededIndexes", "succeededCount")
        rules = [{key[0].upper() + key[1:]: it.get(key) for key in fields} for it in policy.get("rules", [])]
        yield invalid("spec.successPolicy", _quoted({"Rules": rules}), "requires indexed completion mode")


def _job_labels(job: Json) -> Problems:
    """The name of the Job is a label of its pods."""
    name = job.get("metadata", {}).get("name", "")
    more = (job["spec"]["template"].get("metadata") or {}).get("labels") or {}
    yield from labels("spec.template.labels", {**more, "batch.kubernetes.io/job-name": name})


def _in_pod(object: Json) -> Problems:
    for rule in SPEC_RULES:
        yield from rule(object.get("spec") or {}, "spec")


def _in_template(job: Json) -> Problems:
    for rule in SPEC_RULES:
        if rule is not _restart_policy:  # a Job has one of its own
            yield from rule(job["spec"]["template"]["spec"], "spec.template.spec")


CHOICES = {
    "imagePullPolicy": ["Always", "IfNotPresent", "Never"],
    "restartPolicy": ["Always", "Never", "OnFailure"],
    "terminationMessagePolicy": ["File", "FallbackToLogsOnError"],
}
CONTAINER_RULES: list[Callable[[Json, str], Problems]] = [_image, _choices, _env, _resources, _security]
SPEC_RULES: list[Callable[[Json, str], Problems]] = [
    _restart_policy,
    _deadline,
    _selector,
    _tolerations,
    _seccomp,
    _volumes,
    _containers,
]
_ALL: list[Callable[[Json], Problems]] = [_names, _labels, _annotations]
_JOB = [_job_numbers, _job_restart_policy, _job_failure_policy, _job_success_policy, _job_labels, _in_template]
RULES: dict[str, list[Callable[[Json], Problems]]] = {
    "Pod": [*_ALL, _in_pod],
    "Job.batch": [*_ALL, *_JOB],
    "Secret": [*_ALL, _data],
    "ConfigMap": [*_ALL, _data],
    "Namespace": _ALL,
}
