"""Settings of the Kubernetes executor: what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ion_core.contracts.provider import Reach
from ion_kubernetes.settings import LOOSENING, OURS, KubernetesSettings

IMAGE = {"handler_image": "registry.example/ion:0.2"}


def test_an_image_for_prepare_and_commit_is_all_that_has_to_be_said() -> None:
    settings = KubernetesSettings.model_validate(IMAGE)
    assert settings.run_as_user == 65532
    assert settings.object == "pod"
    assert not settings.warm


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"handler_image": ""}, "must be an image such as"),
        ({"handler_image": "ion 0.2"}, "must be an image such as"),
        ({"namespace": "Ion"}, "at most 63 lower case letters"),
        ({"service_account": "-x"}, "at most 253 lower case letters"),
        ({"run_as_user": 0}, "greater than 0"),
        ({"image_wait": "0s"}, "at least 1s"),
        ({"image_wait": "500ms"}, "at least 1s"),
        ({"queue": "main"}, "queue: goes with object: job only"),
        ({"object": "job", "warm": True}, "warm: goes with object: pod only"),
        ({"tolerations": [{"operator": "Exists", "value": "x"}]}, "goes with operator: Equal only"),
        ({"tolerations": [{"value": "x"}]}, "key: is missing"),
        ({"tolerations": [{"key": "a", "toleration_seconds": 3}]}, "goes with effect: NoExecute only"),
        ({"allow": {"pod": ["nodeName"]}}, '"nodeName" is nothing that has to be allowed'),
        ({"pod": {"status": {}}}, "pod.status: is not for here"),
        ({"pod": {"spec": []}}, "metadata and spec must be mappings"),
        ({"pod": {"metadata": {"name": "x"}}}, "pod.metadata.name: is not for here"),
        ({"pod": {"metadata": {"labels": {"a": 1}}}}, "must be a mapping of texts"),
        ({"pod": {"metadata": {"annotations": {"ion/ticket": "x"}}}}, "is what Ion finds its jobs by"),
        ({"pod": {"metadata": {"labels": {"ion.state": "x"}}}}, "is what Ion finds its jobs by"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_would_do(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        KubernetesSettings.model_validate({**IMAGE, **given})


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_ion_makes_of_a_pod_is_not_for_a_patch(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"pod\.spec\.{name}: is not for here"):
        KubernetesSettings.model_validate({**IMAGE, "pod": {"spec": {name: []}}})


@pytest.mark.parametrize("name", sorted(LOOSENING))
def test_what_loosens_the_hardening_has_to_be_allowed_by_name(name: str) -> None:
    patch = {"pod": {"spec": {name: True}}}
    with pytest.raises(
        ValidationError, match=rf"pod\.spec\.{name}: isolation hangs on it.*`allow: {{pod: \[{name}\]}}`"
    ):
        KubernetesSettings.model_validate({**IMAGE, **patch})
    assert KubernetesSettings.model_validate({**IMAGE, **patch, "allow": {"pod": [name]}}).pod == patch["pod"]


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in KubernetesSettings.model_fields.items() if not field.description] == []


def test_what_it_offers_is_known_without_a_cluster() -> None:
    offered = KubernetesSettings.model_validate(IMAGE).capabilities()
    assert offered.isolates
    assert offered.reach is Reach.NETWORK
    assert not offered.warm
    loose = {"warm": True, "allow": {"pod": ["hostNetwork"]}}
    offered = KubernetesSettings.model_validate({**IMAGE, **loose}).capabilities()
    assert offered.warm
    assert not offered.isolates
