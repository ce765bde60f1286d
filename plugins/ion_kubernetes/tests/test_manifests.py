"""What ``ion-core kubernetes manifests`` prints: it would be taken, it is enough, and it is no more than that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from ruamel.yaml import YAML

from ion_core.contracts.command import Pipeline
from ion_core.contracts.executor import JobSpec, ModuleSpec, Ticket
from ion_core.contracts.provider import Reach
from ion_core.errors import ConfigError
from ion_kubernetes.api import CONFIG_MAPS, PODS
from ion_kubernetes.manifests import Stores, default_replicas, manifests
from ion_kubernetes.opening import opened
from ion_kubernetes.rights import rules
from ion_kubernetes.settings import KubernetesSettings
from plugins.ion_kubernetes.tests.calling import api_of
from plugins.ion_kubernetes.tests.fake.replay import Replay
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes
from plugins.ion_kubernetes.tests.job_controller import job_controller

Json = dict[str, Any]
AT_STORES = Stores(network=ip_network("10.0.8.0/24"), port=443)


def settings_of(**given: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({"handler_image": "registry.example/ion:0.2", **given})


def pipeline_of(reach: Reach | None = Reach.NETWORK, **given: Any) -> Pipeline:
    return Pipeline(
        **{
            "file": Path("/srv/my pipeline/ion.yaml"),
            "messaging": "ion.yaml:1:1: messaging",
            "broker": "rabbitmq",
            "broker_reach": reach,
            "drain_timeout": timedelta(seconds=45),
            "runtimes": {"shout": "cluster"},
            **given,
        }
    )


def made(reach: Reach | None = Reach.NETWORK, *, stores: tuple[Stores, ...] = (AT_STORES,), **given: Any) -> list[Json]:
    pipeline = pipeline_of(reach)
    found = manifests(
        settings_of(**given),
        pipeline,
        image="registry.example/ion:0.3",
        replicas=default_replicas(pipeline),
        stores=stores,
    )
    return [it.object for it in found]


def of_kind(found: list[Json], kind: str) -> list[Json]:
    return [it for it in found if it["kind"] == kind]


VARIANTS: list[Json] = [
    {},
    {"owner": "ion-anchor", "service_account": "jobs", "image_pull_secrets": ["registry"]},
    {"object": "job", "queue": "main", "dns_policy": "Default"},
    {"allow": {"pod": ["hostNetwork"]}, "pod": {"spec": {"hostNetwork": True}}},
]


def as_modelled(object: Json) -> Any:
    model = getattr(client, f"V1{object['kind']}").from_dict(object)
    return client.ApiClient().sanitize_for_serialization(model)


@pytest.mark.parametrize("given", VARIANTS, ids=str)
@pytest.mark.parametrize("reach", [Reach.NETWORK, Reach.MACHINE, None])
def test_the_models_of_the_official_client_know_every_field(reach: Reach | None, given: Json) -> None:
    """They drop what they do not know, and refuse wrong types: what comes out is what went in."""
    for object in made(reach, **given):
        assert as_modelled(object) == object


def test_an_unknown_field_would_be_noticed() -> None:
    [deployment] = of_kind(made(), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    assert as_modelled(deployment) != deployment


@pytest.mark.parametrize("given", VARIANTS, ids=str)
@pytest.mark.parametrize("reach", [Reach.NETWORK, Reach.MACHINE])
async def test_the_dispatchers_pod_is_taken_where_pod_security_is_restricted(reach: Reach, given: Json) -> None:
    """By the stand-in's table of rules, which a real API server's answers were recorded for."""
    found = made(reach, **given)
    [deployment] = of_kind(found, "Deployment")
    template = deployment["spec"]["template"]
    pod = {"metadata": {**template["metadata"], "name": "dispatcher"}, "spec": template["spec"]}
    async with fake_kubernetes() as cluster, api_of(cluster) as api:
        cluster.admission.restricted = True
        cluster.admission.service_accounts = {it["metadata"]["name"] for it in of_kind(found, "ServiceAccount")}
        taken = await api.create(PODS, pod, dry_run=True)
        assert taken["spec"]["serviceAccountName"] in cluster.admission.service_accounts
        for anchor in of_kind(found, "ConfigMap"):
            await api.create(CONFIG_MAPS, anchor, dry_run=True)


def test_names_lead_to_what_is_there() -> None:
    found = made(Reach.MACHINE, owner="ion-anchor", service_account="jobs")
    names = {(it["kind"], it["metadata"]["name"]) for it in found}
    assert {it["metadata"].get("namespace", "ion") for it in found} == {"ion"}
    [binding], [deployment] = of_kind(found, "RoleBinding"), of_kind(found, "Deployment")
    assert ("Role", binding["roleRef"]["name"]) in names
    assert ("ServiceAccount", binding["subjects"][0]["name"]) in names
    assert ("ServiceAccount", "jobs") in names
    assert ("ConfigMap", "ion-anchor") in names
    spec = deployment["spec"]["template"]["spec"]
    claims = [it["persistentVolumeClaim"]["claimName"] for it in spec["volumes"] if "persistentVolumeClaim" in it]
    assert [("PersistentVolumeClaim", it) in names for it in claims] == [True]
    assert {it["name"] for it in spec["containers"][0]["volumeMounts"]} == {it["name"] for it in spec["volumes"]}
    selected = deployment["spec"]["selector"]["matchLabels"]
    assert selected.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_a_dispatcher_is_no_job_of_its_own_watch() -> None:
    [deployment] = of_kind(made(), "Deployment")
    assert "app.kubernetes.io/managed-by" not in deployment["spec"]["template"]["metadata"]["labels"]


def test_several_dispatchers_share_a_broker_of_the_network_and_no_other() -> None:
    [shared], [alone] = of_kind(made(), "Deployment"), of_kind(made(Reach.MACHINE), "Deployment")
    assert (shared["spec"]["replicas"], shared["spec"]["strategy"]["type"]) == (2, "RollingUpdate")
    assert (alone["spec"]["replicas"], alone["spec"]["strategy"]["type"]) == (1, "Recreate")
    assert of_kind(made(), "PersistentVolumeClaim") == []


def test_draining_has_its_time() -> None:
    [deployment] = of_kind(made(), "Deployment")
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 45


def test_what_the_restricted_profile_forbids_is_not_enforced_away() -> None:
    [strict] = of_kind(made(), "Namespace")
    [loose] = of_kind(made(allow={"pod": ["hostNetwork"]}, pod={"spec": {"hostNetwork": True}}), "Namespace")
    assert strict["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert "pod-security.kubernetes.io/enforce" not in loose["metadata"]["labels"]


# ---- policies


def selects(policy: Json, labels: Mapping[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    return selector["matchLabels"].items() <= labels.items() and all(
        it["operator"] == "Exists" and it["key"] in labels for it in selector["matchExpressions"]
    )


async def labels_of_a_job(network: str) -> dict[str, str]:
    async with fake_kubernetes(lambda pod: None) as cluster, api_of(cluster) as api:
        async with opened(api, settings_of()) as executor:
            ref = await executor.create(job(network=network))
        labels: dict[str, str] = cluster.pod(ref.name)["metadata"]["labels"]
        return labels


async def test_policies_select_the_pods_of_jobs_and_no_dispatcher() -> None:
    found = made()
    inward, outward = of_kind(found, "NetworkPolicy")
    without, bridged = await labels_of_a_job("none"), await labels_of_a_job("bridge")
    assert (selects(inward, without), selects(inward, bridged)) == (True, True)
    assert (selects(outward, without), selects(outward, bridged)) == (True, False)
    [deployment] = of_kind(found, "Deployment")
    dispatcher = deployment["spec"]["template"]["metadata"]["labels"]
    assert not any(selects(it, dispatcher) for it in (inward, outward))
    assert inward["spec"]["policyTypes"] == ["Ingress"]
    assert "ingress" not in inward["spec"]
    names, stores = outward["spec"]["egress"]
    assert {it["port"] for it in names["ports"]} == {53}
    assert stores == {"to": [{"ipBlock": {"cidr": "10.0.8.0/24"}}], "ports": [{"protocol": "TCP", "port": 443}]}


def test_without_the_stores_addresses_nothing_is_cut_off_from_them() -> None:
    [inward] = of_kind(made(stores=()), "NetworkPolicy")
    assert inward["spec"]["policyTypes"] == ["Ingress"]


# ---- rights


@dataclass
class Refusing:
    """In the place of ``FakeKubernetes.denied``: whatever these rules of a Role do not give."""

    rules: list[Any]

    def __contains__(self, asked: object) -> bool:
        assert isinstance(asked, tuple)
        verb, resource = asked
        name, _, rest = resource.partition(".")  # jobs.batch
        group, _, below = rest.partition("/")
        named = f"{name}/{below}" if below else name
        return not any(
            verb in it["verbs"] and named in it["resources"] and group in it["apiGroups"] for it in self.rules
        )


def job(**module: Any) -> JobSpec:
    return JobSpec(
        name="ion-detect-1",
        module=ModuleSpec(**{"name": "detect", "image": "registry.example/detect:1", **module}),
        settings=b"{}",
        labels={"ion.module": "detect"},
    )


TICKET = Ticket(event_id="e", correlation_id="c", module="detect", attempt=1, token="t")
GIVEN = {"owner": "ion-anchor", "start_wait": "1s"}


async def a_job_of_its_own(cluster: FakeKubernetes, **given: Any) -> None:
    """Made, started, waited for, read, found and removed."""
    anchor = {"metadata": {"name": "ion-anchor"}}
    if ("configmaps", "ion", "ion-anchor") not in cluster.store.objects:
        cluster.store.made(("configmaps", "ion", "ion-anchor"), anchor, dry_run=False)
    async with job_controller(cluster), api_of(cluster) as api, opened(api, settings_of(**GIVEN, **given)) as executor:
        ref = await executor.create(job())
        await executor.start(ref, TICKET)
        assert (await executor.wait(ref)).cause is None
        assert [it.ref for it in await executor.find({})] == [ref]
        assert any(call.path.endswith("/log") for call in cluster.calls), "logs are followed from the start on"
        await executor.remove(ref)


@pytest.mark.parametrize("object", ["pod", "job"])
async def test_the_role_is_enough_for_all_that_is_done(object: str) -> None:
    async with fake_kubernetes(lambda pod: Replay("ok")) as cluster:
        cluster.denied = Refusing(rules(settings_of(**GIVEN, object=object)))  # type: ignore[assignment]
        await a_job_of_its_own(cluster, object=object)
        assert {it.method for it in cluster.calls} == {"GET", "POST", "DELETE", *({"PATCH"} if object == "pod" else ())}


async def test_the_role_lets_events_be_read() -> None:
    async with fake_kubernetes(lambda pod: Replay("unschedulable")) as cluster:
        cluster.denied = Refusing(rules(settings_of()))  # type: ignore[assignment]
        async with api_of(cluster) as api, opened(api, settings_of(start_wait="1s")) as executor:
            ref = await executor.create(job())
            await executor.start(ref, TICKET)
            cluster.told(ref.name, "FailedScheduling", "0/1 nodes have a seat left")
            assert "a seat left" in (await executor.wait(ref)).reason


def each_right(settings: KubernetesSettings) -> list[tuple[str, str]]:
    given: list[Any] = rules(settings)
    named = [
        (verb, ".".join(filter(None, (*it["resources"], *it["apiGroups"])))) for it in given for verb in it["verbs"]
    ]
    return [it for it in named if it != ("list", "events")]


@pytest.mark.parametrize(
    ("object", "right"),
    [(object, it) for object in ("pod", "job") for it in each_right(settings_of(**GIVEN, object=object))],
    ids=str,
)
async def test_without_one_of_the_rights_it_does_not_open(object: str, right: tuple[str, str]) -> None:
    async with fake_kubernetes(lambda pod: Replay("ok")) as cluster:
        cluster.denied = {right}
        with pytest.raises(ConfigError, match=r"we may not|cannot get resource"):
            await a_job_of_its_own(cluster, object=object)


def test_the_one_config_map_is_named() -> None:
    given: list[Any] = rules(settings_of(**GIVEN))
    assert [it["resourceNames"] for it in given if it["resources"] == ["configmaps"]] == [["ion-anchor"]]
    assert not [it for it in rules(settings_of()) if it["resources"] == ["configmaps"]]


# ---- the command

MODULE = {"image": "registry.example/shout:1", "subscribes": ["asked"], "runtime": "cluster"}
CLUSTER = {"provider": "kubernetes", "handler_image": "registry.example/ion:0.2", "owner": "ion-anchor"}


def ion(home: Path, config: Json, *arguments: str) -> subprocess.CompletedProcess[str]:
    (home / "ion.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
    command = [str(Path(sys.executable).with_name("ion-core")), "kubernetes", "manifests", *arguments]
    return subprocess.run(command, cwd=home, env=environ, capture_output=True, text=True, timeout=60, check=False)


def config(**more: Any) -> Json:
    messaging = {"provider": "rabbitmq", "url": "amqp://me:sesame@broker.example/"}
    bucket = {"provider": "fsspec", "url": "s3://bucket/ion"}
    return {
        "messaging": messaging,
        "runtimes": {"cluster": CLUSTER},
        "modules": {"shout": MODULE},
        "storage": {"documents": bucket, "blobs": bucket},
        **more,
    }


def test_what_is_printed_is_yaml_and_nothing_secret(tmp_path: Path) -> None:
    done = ion(
        tmp_path, config(), "--replicas", "3", "--image", "registry.example/other:1", "--stores", "10.0.8.0/24:443"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = list(YAML(typ="safe").load_all(done.stdout))
    assert found[0]["kind"] == "Namespace"
    assert [it["kind"] for it in found].count("NetworkPolicy") == 2
    [deployment] = of_kind(found, "Deployment")
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/other:1"
    assert f"--from-file=ion.yaml={tmp_path}/ion.yaml" in done.stdout
    assert "sesame" not in done.stdout + done.stderr
    assert "&" not in done.stdout, "an alias is no secret, but nobody expects one"


def test_what_is_left_open_is_told_beside_it(tmp_path: Path) -> None:
    several = {"cluster": {**CLUSTER, "owner": None}, "default": {"provider": "process"}}
    here = {"command": ["true"], "subscribes": ["asked"]}
    done = ion(tmp_path, config(runtimes=several, modules={"shout": MODULE, "here": here}))
    assert done.returncode == 0, done.stderr
    owner, policy, elsewhere = done.stderr.splitlines()
    assert "runtimes.cluster.owner: is not set" in owner
    assert "--stores" in policy
    assert "Modules of other runtimes (default)" in elsewhere


@pytest.mark.parametrize(
    ("more", "arguments", "code", "words"),
    [
        (
            {"runtimes": {"cluster": {"provider": "process"}}, "modules": {}},
            (),
            78,
            "ion.yaml:6:2: runtimes: none is of provider kubernetes. There are: cluster (process). Add one, or name",
        ),
        ({"messaging": {"provider": "sqlite"}}, ("--replicas", "2"), 2, "sqlite is reached by one dispatcher only"),
        ({"runtimes": {"cluster": CLUSTER, "other": CLUSTER}}, (), 2, "There are: cluster, other."),
        ({}, ("--runtime", "nowhere"), 2, 'no runtime "nowhere" is of provider kubernetes. There are: cluster.'),
        ({}, ("--stores", "10.0.8.1/24:443"), 2, "must be addresses and a port such as 10.0.8.0/24:443"),
        ({}, ("--stores", "10.0.8.0/24:99999"), 2, "must end with a port"),
        ({"runtimes": {"cluster": {"provider": "kubernetes"}}}, (), 78, "runtimes.cluster.handler_image"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    more: Json, arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    done = ion(tmp_path, config(**more), *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""
