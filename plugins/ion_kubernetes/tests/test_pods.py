"""What a job is as a pod: what the API server takes, hardened, and nothing of an event or of the settings in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core.contracts.executor import JobSpec, ModuleSpec
from ion_core.contracts.runtime import Resources
from ion_core.errors import ImageUnavailable, PermanentError
from ion_kubernetes import names
from ion_kubernetes.pods import MAX_SECRET, Wanted, merge
from ion_kubernetes.settings import KubernetesSettings
from plugins.ion_kubernetes.tests.fake import rules
from plugins.ion_kubernetes.tests.fake.admission import Admission
from plugins.ion_kubernetes.tests.fake.shapes import check_shape
from plugins.ion_kubernetes.tests.fake.store import Store

SETTINGS = b'{"storage": {"documents": {"password": "open sesame"}}}'


def settings(**given: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({"handler_image": "registry.example/ion:0.2", **given})


def spec(**given: Any) -> JobSpec:
    module = ModuleSpec(**{"name": "detect", "image": "registry.example/detect:1", **given.pop("module", {})})
    return JobSpec(**{"name": "ion-detect-1", "module": module, "settings": SETTINGS, **given})


def wanted(job: JobSpec | None = None, **given: Any) -> Wanted:
    return Wanted(spec=job or spec(), settings=settings(**given))


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {it["name"]: it for it in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]}


def accepted(pod: dict[str, Any]) -> None:
    """Raises what the API server answers where it refuses, Pod Security's ``restricted`` included."""
    check_shape(pod, "v1", "Pod", strict=True)
    rules.check(pod, "Pod")
    quota = {"pods": "10", "limits.memory": "1Ti", "limits.cpu": "1k", "requests.cpu": "1k", "requests.memory": "1Ti"}
    Admission(restricted=True, quota=quota).admit(Store(), "ion", pod)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield name
            yield from strings(below)
    elif isinstance(value, list):
        for below in value:
            yield from strings(below)
    else:
        yield str(value)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True)
VARIABLES = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="="), min_size=1, max_size=30)
MODULES = st.builds(
    ModuleSpec,
    name=TEXT.filter(bool),
    image=st.sampled_from(["i", "registry.example:5000/a/b@sha256:" + "0" * 64, "a/b_c:v1.2-x"]),
    command=st.lists(TEXT, max_size=3),
    args=st.lists(TEXT, max_size=3),
    env=st.dictionaries(VARIABLES, TEXT, max_size=4),
    resources=st.builds(
        Resources,
        cpus=st.none() | st.floats(0.0001, 64),
        memory=st.none() | st.integers(1, 2**38),
        shm=st.none() | st.integers(1, 2**34),
        gpus=st.lists(st.sampled_from(["nvidia.com/gpu=0", "nvidia.com/gpu=1", "amd.com/gpu=0"]), max_size=3),
    ),
    network=st.sampled_from(["none", "bridge"]) | TEXT,
)
SPECS = st.builds(
    JobSpec,
    name=NAMES,
    module=MODULES,
    settings=st.just(SETTINGS),
    labels=st.dictionaries(TEXT.filter(bool), TEXT, max_size=3),
    timeout=st.timedeltas(timedelta(milliseconds=1), timedelta(days=30)),
)


@given(SPECS, st.booleans())
def test_the_api_server_takes_every_job(job: JobSpec, warm: bool) -> None:
    made = wanted(job, warm=warm)
    made.check()
    accepted(made.pod())


@given(TEXT)
def test_what_kubernetes_expands_reaches_the_program_as_it_was(text: str) -> None:
    assert expanded(names.literal(text)) == text


def expanded(text: str) -> str:
    """As Kubernetes does it (its third_party/forked/golang/expansion), with a variable ``x`` that is set."""
    result, at = "", 0
    while at < len(text):
        if text[at] != "$" or at + 1 == len(text):
            result += text[at]
            at += 1
        elif text[at + 1] == "$":
            result += "$"
            at += 2
        elif text[at + 1] == "(" and ")" in text[at:]:
            end = text.index(")", at)
            result += {"x": "expanded"}.get(text[at + 2 : end], text[at : end + 1])
            at = end + 1
        else:
            result += text[at : at + 2]
            at += 2
    return result


@pytest.mark.parametrize("text", ["$(x)", "$$(x)", "$", "$$", "a$", "$x", "${x}", "`$(x)`", "$$$(x)", '"$(date)"'])
def test_dollars_in_env_command_and_arguments_stay(text: str) -> None:
    pod = wanted(spec(module={"command": ["sh", "-c", text], "args": [text], "env": {"A": text}})).pod()
    module = containers(pod)["module"]
    assert [expanded(it) for it in module["command"]] == ["sh", "-c", text]
    assert [expanded(it) for it in module["args"]] == [text]
    assert [expanded(it["value"]) for it in module["env"]] == [text]


def test_a_module_has_its_own_environment_and_nothing_of_ours() -> None:
    module = containers(wanted(spec(module={"env": {"A": "1"}})).pod())["module"]
    assert module["env"] == [{"name": "A", "value": "1"}]
    assert "envFrom" not in module


def test_a_module_sees_its_inputs_its_outputs_and_a_tmp_of_its_own() -> None:
    pod = wanted().pod()
    found = containers(pod)
    mounts = {it["mountPath"]: it for it in found["module"]["volumeMounts"]}
    assert set(mounts) == {"/ion/in", "/ion/out", "/tmp"}
    assert mounts["/ion/in"] == {"name": "workspace", "mountPath": "/ion/in", "subPath": "in", "readOnly": True}
    assert mounts["/ion/out"] == {"name": "workspace", "mountPath": "/ion/out", "subPath": "out"}
    for step in ("prepare", "commit"):
        own = {it["mountPath"]: it["name"] for it in found[step]["volumeMounts"]}
        assert own["/ion"] == "workspace"
        assert own["/tmp"] != mounts["/tmp"]["name"]


def test_settings_and_ticket_are_mounted_in_prepare_and_commit_only() -> None:
    pod = wanted().pod()
    secret = {it["name"] for it in pod["spec"]["volumes"] if {"secret", "downwardAPI"} & set(it)}
    assert len(secret) == 2
    for name, container in containers(pod).items():
        mounted = {it["name"] for it in container["volumeMounts"]}
        assert (secret <= mounted) if name != "module" else not (secret & mounted)


def test_settings_are_in_a_secret_of_their_content_and_nowhere_else() -> None:
    made = wanted()
    secret = made.secret()
    assert secret["immutable"] is True
    (data,) = secret["data"].values()
    assert base64.b64decode(data) == SETTINGS
    assert not any("open sesame" in text or data in text for text in strings(made.pod()))
    assert wanted(spec(name="another")).secret_name == made.secret_name
    assert wanted(spec(settings=SETTINGS + b" ")).secret_name != made.secret_name
    check_shape(secret, "v1", "Secret", strict=True)
    rules.check(secret, "Secret")


def test_settings_that_no_secret_holds_are_refused_with_both_sizes() -> None:
    wanted(spec(settings=b"x" * MAX_SECRET)).check()
    with pytest.raises(PermanentError, match=r"1,048,577 bytes, and a Secret holds 1,048,576"):
        wanted(spec(settings=b"x" * (MAX_SECRET + 1))).check()


def test_a_job_is_held_back_by_a_gate_and_has_a_deadline_as_a_net() -> None:
    job = spec(timeout=timedelta(seconds=90.5))
    pod = wanted(job, start_wait="1m", prepare_allowance="2m", commit_allowance="3m", grace="5s").pod()
    assert pod["spec"]["schedulingGates"] == [{"name": "ion/start"}]
    assert pod["spec"]["activeDeadlineSeconds"] == 456


def test_a_warm_job_has_no_gate_and_no_deadline_yet_and_prepare_waits_for_the_ticket() -> None:
    pod = wanted(warm=True).pod()
    assert "schedulingGates" not in pod["spec"]
    assert "activeDeadlineSeconds" not in pod["spec"]
    command = [expanded(it) for it in containers(pod)["prepare"]["command"]]
    assert command[:2] == ["sh", "-c"]
    assert 'until [ -s "$0" ]' in command[2]
    assert command[3] == "/etc/ion/ticket/ticket"
    assert command[4:7] == ["ion-core", "handler", "prepare"]


def test_the_steps_are_given_settings_ticket_result_and_workspace() -> None:
    found = containers(wanted().pod())
    for step in ("prepare", "commit"):
        command = found[step]["command"]
        assert command[:3] == ["ion-core", "handler", step]
        given = dict(zip(command[3::2], command[4::2], strict=True))
        assert given["--result"] == found[step]["terminationMessagePath"]
        assert set(given) == {"--config", "--ticket", "--result", "--basedir"}


def test_requests_are_the_limits_of_every_container() -> None:
    gpus = ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    pod = wanted(spec(module={"resources": Resources(cpus=1.5, memory=2**30, gpus=gpus)})).pod()
    for container in containers(pod).values():
        limits = container["resources"]["limits"]
        assert container["resources"]["requests"] == limits
        assert {"cpu", "memory", "ephemeral-storage"} <= set(limits)
    limits = containers(pod)["module"]["resources"]["limits"]
    assert (limits["cpu"], limits["memory"], limits["nvidia.com/gpu"]) == ("1500m", "1073741824", "2")


def test_disk_limits_leave_room_for_the_volumes_that_nodes_count_in() -> None:
    pod = wanted(workspace="3GiB", tmp="1GiB", ephemeral_storage="1GiB").pod()
    volumes = sum(int(it["emptyDir"]["sizeLimit"]) for it in pod["spec"]["volumes"] if "emptyDir" in it)
    for container in containers(pod).values():
        assert int(container["resources"]["limits"]["ephemeral-storage"]) == volumes + 2**30


def test_shared_memory_is_a_volume_in_memory() -> None:
    pod = wanted(spec(module={"resources": Resources(shm=2**26)})).pod()
    (shm,) = (it for it in pod["spec"]["volumes"] if it["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": str(2**26)}
    assert {"name": "shm", "mountPath": "/dev/shm"} in containers(pod)["module"]["volumeMounts"]


@pytest.mark.parametrize("gpu", ["nvidia.com/gpu=all", "gpu"])
def test_gpus_that_cannot_be_counted_are_refused(gpu: str) -> None:
    with pytest.raises(PermanentError, match="asks for no countable GPU"):
        wanted(spec(module={"resources": Resources(gpus=[gpu])})).check()


@pytest.mark.parametrize(
    ("module", "error", "words"),
    [
        ({"image": None}, PermanentError, "has no image"),
        ({"image": " i:1"}, ImageUnavailable, "can be no image"),
        ({"env": {"a=b": ""}}, PermanentError, "can be no name of an environment variable"),
        ({"env": {"größe": ""}}, PermanentError, "can be no name of an environment variable"),
    ],
)
def test_what_no_cluster_could_run_is_refused_before_it_is_asked(
    module: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        wanted(spec(module=module)).check()


@pytest.mark.parametrize(
    "image",
    [
        "busybox",
        "busybox:1",
        "library/busybox:1.36_a.b-c",
        "localhost:5000/a",
        "[::1]:5000/a/b",
        "registry.example/a__b/c--d.e:latest@sha256:" + "0" * 64,
        "EXAMPLE.org/a@sha256:" + "f" * 64,
    ],
)
def test_what_is_a_name_of_an_image_is_left_to_the_cluster(image: str) -> None:
    wanted(spec(module={"image": image})).check()


@pytest.mark.parametrize(
    "image",
    ["Bad", "a b", "a/", "/a", "a:", "a@sha256:0", "a:b:c", "a//b", "a._b", "-a", "https://a/b", "a\n", "größe"],
)
def test_what_can_be_no_name_of_an_image_is_refused_at_once(image: str) -> None:
    with pytest.raises(ImageUnavailable, match="can be no image"):
        wanted(spec(module={"image": image})).check()


def test_one_user_runs_all_three_and_owns_the_workspace() -> None:
    security = wanted(run_as_user=1234).pod()["spec"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (1234, 1234, 1234)
    assert security["runAsNonRoot"] is True


def test_every_container_is_hardened() -> None:
    pod = wanted(allow={"writable_root": ["detect"]}).pod()
    assert pod["spec"]["automountServiceAccountToken"] is False
    for name, container in containers(pod).items():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is (name != "module")
    assert containers(wanted().pod())["module"]["securityContext"]["readOnlyRootFilesystem"] is True


def test_settings_about_nodes_and_registries_are_the_pods() -> None:
    pod = wanted(
        image_pull_secrets=["registry"],
        node_selector={"disk": "ssd"},
        tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "toleration_seconds": 5}],
        priority_class="system-node-critical",
        runtime_class="gvisor",
        dns_policy="Default",
        pull="always",
    ).pod()
    accepted(pod)
    found = pod["spec"]
    assert found["imagePullSecrets"] == [{"name": "registry"}]
    assert found["nodeSelector"] == {"disk": "ssd"}
    assert found["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]
    assert (found["priorityClassName"], found["runtimeClassName"]) == ("system-node-critical", "gvisor")
    assert found["dnsPolicy"] == "Default"
    assert {it["imagePullPolicy"] for it in containers(pod).values()} == {"Always"}


def test_labels_are_kept_as_they_were_and_select() -> None:
    job = spec(labels={"ion.state": "a/b c", "ion.module": "x" * 80})
    metadata = wanted(job).pod()["metadata"]
    assert json.loads(metadata["annotations"][names.LABELS]) == job.labels
    assert names.labels(job.labels).items() <= metadata["labels"].items()
    for value in metadata["labels"].values():
        assert len(value) <= 63


def test_a_name_of_63_characters_is_a_label_and_one_of_64_becomes_one() -> None:
    assert names.label("n" * 63) == "n" * 63
    longer, other = names.label("n" * 64), names.label("n" * 65)
    assert len(longer) <= 63
    assert longer != other


def test_the_longest_name_is_that_of_the_pod_and_of_its_label() -> None:
    name = "i" + "o" * 50 + "n"
    pod = wanted(spec(name=name)).pod()
    accepted(pod)
    assert pod["metadata"]["name"] == pod["metadata"]["labels"][names.NAME] == name


def test_what_was_asked_for_has_a_digest_that_tells_any_change() -> None:
    assert wanted().digest == wanted().digest
    others = [
        wanted(spec(module={"image": "registry.example/detect:2"})),
        wanted(spec(settings=SETTINGS + b" ")),
        wanted(spec(timeout=timedelta(minutes=11))),
        wanted(run_as_user=1000),
        wanted(pod={"metadata": {"labels": {"team": "a"}}}),
    ]
    assert len({wanted().digest, *(it.digest for it in others)}) == 1 + len(others)


def test_a_patch_of_the_pod_is_merged_last() -> None:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    pod = wanted(
        pod={"metadata": {"labels": {"team": "a"}}, "spec": {"affinity": affinity, "priority": None}},
        node_selector={"disk": "ssd"},
    ).pod()
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "ion"
    assert pod["spec"]["affinity"] == affinity
    assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}


def test_merging_is_that_of_a_json_merge_patch() -> None:
    """Examples of RFC 7386, appendix A."""
    for target, patch, result in (
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ):
        merge(target, patch)
        assert target == result


def test_an_owner_owns_all_that_is_made() -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "ion", "uid": "u"}
    made = Wanted(spec=spec(), settings=settings(), owner=owner)
    assert made.pod()["metadata"]["ownerReferences"] == [owner]
    assert made.secret()["metadata"]["ownerReferences"] == [owner]
