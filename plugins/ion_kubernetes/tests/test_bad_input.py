"""What ``ion-core serve`` and ``check`` say of a cluster that is not as it has to be: exit code and words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugins.ion_kubernetes.tests.served import ClusterPipeline, kubeconfig, served_by_cluster


@pytest.fixture
async def pipeline(tmp_path: Path) -> AsyncIterator[ClusterPipeline]:
    async with served_by_cluster(tmp_path, {"shout": {"command": ["true"], "subscribes": ["asked"]}}) as made:
        yield made


async def said(it: ClusterPipeline, command: str, code: int) -> str:
    return await it.ion(*command.split(), code=code)


COMMANDS = ["check", "serve --until-idle"]


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_namespace_that_is_not_there(pipeline: ClusterPipeline, command: str) -> None:
    del pipeline.cluster.store.objects[("namespaces", "", "ion")]
    words = await said(pipeline, command, 78)
    assert "runtimes.default.namespace: there is no namespace 'ion'. Make it" in words


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_token_that_is_wrong(pipeline: ClusterPipeline, command: str) -> None:
    (pipeline.pipeline.home / "kubeconfig").write_text(kubeconfig(pipeline.cluster.url, "another"), encoding="utf-8")
    words = await said(pipeline, command, 78)
    assert "another" not in words, "no token is told"
    assert "runtimes.default.kubeconfig: the API server does not know who we are: look at the credentials" in words


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_verb_that_is_forbidden(pipeline: ClusterPipeline, command: str) -> None:
    pipeline.cluster.denied = {("create", "pods"), ("get", "pods/log")}
    words = await said(pipeline, command, 78)
    assert "in namespace 'ion' we may not create pods, get pods/log." in words
    assert "`ion-core kubernetes manifests` prints a Role" in words


async def test_no_cluster_at_all(pipeline: ClusterPipeline) -> None:
    await pipeline.cluster.down()
    nothing = "kubernetes: GET /version: no whole answer from http://127.0.0.1:"
    assert f"runtimes.default: not checked: {nothing}" in await said(pipeline, "check", 0)
    assert (await said(pipeline, "serve --until-idle", 69)).startswith(f"ion-core: {nothing}")
    await pipeline.cluster.up()  # which is taken down at the end
