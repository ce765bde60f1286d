"""Settings of the Kubernetes executor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ion_core.contracts.executor import ExecutorCapabilities
from ion_core.contracts.provider import Finding, Reach
from ion_core.contracts.settings import ByteSize, ConfigPath, Duration, Settings
from ion_kubernetes import names

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")

OURS = {
    "activeDeadlineSeconds": "timeouts and allowances make it",
    "containers": "a module's own keys say what runs",
    "ephemeralContainers": "they would see the workspace",
    "initContainers": "a module's own keys say what runs",
    "restartPolicy": "an attempt runs once",
    "schedulingGates": "they hold a job back until its event",
    "volumes": "they are the workspace, the settings and the ticket",
}
"""Keys of a pod's spec that ``pod`` may not set, and why."""

LOOSENING = {
    "automountServiceAccountToken",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "shareProcessNamespace",
}
"""Keys of a pod's spec that bear on isolation: only those that ``allow.pod`` names may be set."""


def _label(text: str) -> str:
    if not re.fullmatch(_LABEL, text):
        raise ValueError(
            f'must be at most 63 lower case letters, digits and dashes, with no dash at either end (got "{text}")'
        )
    return text


def _subdomain(text: str) -> str:
    if not _SUBDOMAIN.fullmatch(text):
        raise ValueError(
            "must be at most 253 lower case letters, digits, dashes and dots, "
            f'with a letter or digit at either end (got "{text}")'
        )
    return text


def _image(text: str) -> str:
    if not text or text != text.strip() or re.search(r"\s", text):
        raise ValueError(f'must be an image such as registry.example/ion:0.2 (got "{text}")')
    return text


def _at_least_a_second(value: timedelta) -> timedelta:
    if value < timedelta(seconds=1):
        raise ValueError(f"must be at least 1s: Kubernetes counts whole seconds (got {value.total_seconds():g}s)")
    return value


Label = Annotated[str, AfterValidator(_label)]
Subdomain = Annotated[str, AfterValidator(_subdomain)]
Seconds = Annotated[Duration, AfterValidator(_at_least_a_second)]


class Toleration(Settings):
    """A taint of nodes that jobs may run on all the same."""

    key: str | None = Field(None, description="Key of the taint. Default: every one, with operator: Exists.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Whether its value matters.")
    value: str | None = Field(None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint. Default: each of them."
    )
    toleration_seconds: int | None = Field(None, ge=0, description="For how long, of effect: NoExecute.")

    @model_validator(mode="after")
    def _as_the_api_wants_it(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value: goes with operator: Equal only. Leave it out, or say Equal.")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("key: is missing. Name it, or tolerate everything with operator: Exists.")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds: goes with effect: NoExecute only.")
        return self

    def to_json(self) -> dict[str, Any]:
        said = {
            "key": self.key,
            "operator": self.operator,
            "value": self.value,
            "effect": self.effect,
            "tolerationSeconds": self.toleration_seconds,
        }
        return {name: value for name, value in said.items() if value is not None}


class HandlerResources(Settings):
    """What prepare and commit are given, each: requests and limits alike."""

    cpus: float = Field(default=1.0, gt=0, description="Processors, such as 0.5.")
    memory: ByteSize = Field(default=512 * 1024**2, gt=0, description="Memory. Files are not held in it.")


class AllowSettings(Settings):
    """What loosens the hardening, each by name. Nothing else is loosened."""

    pod: tuple[str, ...] = Field(
        (), description="Keys of a pod's spec which `pod` may set though isolation hangs on them, such as hostUsers."
    )
    writable_root: tuple[str, ...] = Field(
        (), description="Modules that may write to their image's own files, not to /ion/out and /tmp only."
    )

    @model_validator(mode="after")
    def _known(self) -> AllowSettings:
        if unknown := sorted(set(self.pod) - LOOSENING):
            raise ValueError(
                f'pod: "{unknown[0]}" is nothing that has to be allowed. These are: {", ".join(sorted(LOOSENING))}'
            )
        return self


class KubernetesSettings(Settings):
    """Whole jobs as pods of a Kubernetes cluster, hardened unless told otherwise."""

    handler_image: Annotated[str, AfterValidator(_image)] = Field(
        description="Image with ion-core and the plugins of the two stores, of this version: it prepares and commits."
    )
    namespace: Label = Field("ion", description="Where pods are made; it exists already.")
    kubeconfig: ConfigPath | None = Field(
        None,
        description="File that says where the API server is and how it is spoken to. Default: $KUBECONFIG, then "
        "~/.kube/config, then the service account of the pod that this runs in.",
    )
    context: str | None = Field(None, description="Which context of the kubeconfig. Default: its current one.")
    object: Literal["pod", "job"] = Field(
        "pod", description="What a job is made as. `job` is for sites whose queue, such as Kueue, admits Jobs only."
    )
    queue: Label | None = Field(
        None, description="Kueue's queue, which resumes each Job when there is room; with object: job."
    )
    warm: bool = Field(
        False, description="Jobs made ahead are placed at once, with images pulled, and wait on their nodes."
    )
    service_account: Subdomain = Field("default", description="Of the pods. Its token is not mounted.")
    image_pull_secrets: tuple[Subdomain, ...] = Field((), description="Secrets with credentials for registries.")
    pull: Literal["missing", "always", "never"] = Field(
        "missing", description="When nodes pull images: if not there, before each container, or not at all."
    )
    node_selector: dict[str, str] = Field({}, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints of nodes that jobs may run on all the same.")
    priority_class: Subdomain | None = Field(None, description="A PriorityClass.")
    runtime_class: Subdomain | None = Field(None, description="A RuntimeClass, such as gvisor.")
    dns_policy: Literal["ClusterFirst", "Default"] = Field(
        "ClusterFirst", description="Whose resolver pods ask: the cluster's, or that of their node."
    )
    run_as_user: int = Field(
        65532, gt=0, le=2**31 - 1, description="User and group of all three steps, whatever the images say."
    )
    cpus: float = Field(1.0, gt=0, description="Processors of a module that says nothing.")
    memory: ByteSize = Field(512 * 1024**2, gt=0, description="Memory of a module that says nothing.")
    handler: HandlerResources = Field(
        default=HandlerResources(), description="What prepare and commit are given, each."
    )
    workspace: ByteSize = Field(
        4 * 1024**3, gt=0, description="Size of /ion: all that a job reads and leaves. Nodes look now and then only."
    )
    tmp: ByteSize = Field(1024**3, gt=0, description="Size of a module's /tmp.")
    ephemeral_storage: ByteSize = Field(
        1024**3, gt=0, description="Disk of each container beside that: its log, and what it writes elsewhere."
    )
    image_wait: Seconds = Field(
        timedelta(minutes=5), description="How long an image that cannot be pulled is waited for."
    )
    start_wait: Seconds = Field(
        timedelta(minutes=5), description="How long a job may find no node, or its node may fail to start it."
    )
    lost_after: Seconds = Field(
        timedelta(seconds=60),
        description="How long a deleted pod may stay beyond its grace, until its node is given up.",
    )
    grace: Seconds = Field(
        timedelta(seconds=10), description="From SIGTERM to SIGKILL, where nothing else is asked for."
    )
    prepare_allowance: Seconds = Field(
        timedelta(minutes=30), description="For prepare, in the pod's own deadline: a net, no limit of the module."
    )
    commit_allowance: Seconds = Field(timedelta(minutes=30), description="For commit, in the pod's own deadline.")
    keep_jobs: Seconds = Field(
        timedelta(days=1), description="How long an ended Job stays that nobody removed; with object: job."
    )
    owner: Subdomain | None = Field(
        None, description="A ConfigMap that is to own all that is made: deleting it removes everything."
    )
    timeout: Seconds = Field(timedelta(seconds=30), description="How long one call of the API may take.")
    followed_logs: int | None = Field(
        None,
        ge=1,
        description="How many logs are followed at a time, each by a connection to the API server. Default: a quarter "
        "of the files that `serve` may have open. Others are read when their step has ended.",
    )
    pod: dict[str, Any] = Field(
        {},
        description="What pods are to have besides, as JSON of metadata (labels, annotations) and spec; merged last.",
    )
    allow: AllowSettings = Field(
        default=AllowSettings(pod=(), writable_root=()), description="What loosens the hardening."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> KubernetesSettings:
        if problems := [*self._problems_of_pod(), *self._problems_of_object()]:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of_object(self) -> Iterator[str]:
        if self.object == "pod" and self.queue is not None:
            yield "queue: goes with object: job only"
        if self.object == "job" and self.warm:
            yield "warm: goes with object: pod only; whoever admits Jobs decides when they start"

    def _problems_of_pod(self) -> Iterator[str]:
        for name in sorted(set(self.pod) - {"metadata", "spec"}):
            yield f'pod.{name}: is not for here. What there is: "metadata" and "spec" of a pod'
        metadata, spec = self.pod.get("metadata", {}), self.pod.get("spec", {})
        if not isinstance(metadata, Mapping) or not isinstance(spec, Mapping):
            yield "pod: metadata and spec must be mappings"
            return
        yield from _problems_of_metadata(metadata)
        for name in sorted(map(str, spec)):
            if name in OURS:
                yield f"pod.spec.{name}: is not for here: {OURS[name]}"
            elif name in LOOSENING and name not in self.allow.pod:
                yield (
                    f"pod.spec.{name}: isolation hangs on it. Leave it out, or allow it by name, beside `pod`: "
                    f"`allow: {{pod: [{name}]}}`"
                )

    def capabilities(self) -> ExecutorCapabilities:
        """What the executor offers: all of it is known without a cluster."""
        return ExecutorCapabilities(
            images=True,
            isolates=not self.allow.pod,
            inputs_read_only=True,
            memory_limit=True,
            cpu_limit=True,
            pids_limit=False,
            gpus=True,
            handler_api=False,
            networks=frozenset({"none", "bridge"}),
            shm_size=True,
            warm=self.warm,
            reach=Reach.NETWORK,
            streams=False,
            notice="In pods network: none is what a NetworkPolicy of the namespace makes of it: without one that "
            f"selects {names.NETWORK}=none, modules reach what others reach.",
        )

    def modules(self) -> Mapping[str, str]:
        return {f"allow.writable_root[{n}]": name for n, name in enumerate(self.allow.writable_root)}

    def findings(self) -> Iterable[Finding]:
        if self.kubeconfig is not None and not self.kubeconfig.is_file():
            where = self.section.where("kubeconfig")
            yield Finding(severity="error", where=where, text=f'no such file "{self.kubeconfig}"')
        if not _has_version(self.handler_image) and self.pull == "missing":
            yield Finding(
                severity="warning",
                where=self.section.where("handler_image"),
                text=f'"{self.handler_image}" names no version: each node goes on with the one that it pulled first, '
                "while the dispatcher may be newer. Name a version or a digest.",
            )


def _has_version(image: str) -> bool:
    tag = image.rpartition("/")[2].partition(":")[2]
    return "@" in image or tag not in ("", "latest")


def _problems_of_metadata(metadata: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(set(metadata) - {"labels", "annotations"}):
        yield f'pod.metadata.{name}: is not for here. What there is: "labels" and "annotations"'
    for name in ("labels", "annotations"):
        pairs = metadata.get(name) or {}
        if not isinstance(pairs, Mapping) or not all(isinstance(value, str) for value in pairs.values()):
            yield f"pod.metadata.{name}: must be a mapping of texts"
            continue
        for key in sorted(pairs):
            if key.startswith(("ion/", "ion.")) or key == "app.kubernetes.io/managed-by":
                yield f"pod.metadata.{name}.{key}: is what Ion finds its jobs by"
