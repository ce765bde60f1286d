"""The provider kit on the registered executor, with the stand-in for a cluster and a kubeconfig that names it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ion_core.contracts.provider import Provider
from ion_core.testing import ProviderConformance
from ion_kubernetes import plugin
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes


class TestKubernetesProvider(ProviderConformance):
    server = ""

    @pytest_asyncio.fixture
    async def cluster(self) -> AsyncIterator[FakeKubernetes]:
        async with fake_kubernetes() as cluster:
            yield cluster

    @pytest.fixture
    def provider(self, cluster: FakeKubernetes) -> Provider[Any]:
        self.server = cluster.url
        return next(iter(plugin.ion_executors()))

    def section(self, tmp_path: Path) -> dict[str, Any]:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
        return {
            "handler_image": "registry.example/ion:0.2",
            "kubeconfig": str(tmp_path / "kubeconfig"),
            "warm": True,
            "allow": {"writable_root": ["m"]},
        }

    def unusable(self, tmp_path: Path) -> dict[str, Any]:
        return {**self.section(tmp_path), "context": "nowhere"}

    def not_set_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
        return {"handler_image": "registry.example/ion:0.2"}
