"""A pipeline whose modules are pods of the stand-in, driven through real ``ion-core`` processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugins.ion_kubernetes.tests.fake.containers import machine_image
from plugins.ion_kubernetes.tests.fake.node import Pod
from plugins.ion_kubernetes.tests.fake.processes import Processes
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes
from tests.acceptance.pipeline import Pipeline, Served

MODULE = "registry.example/modules:1"
HANDLER = "registry.example/ion:1"
TOKEN = "token-of-the-dispatcher"


def kubeconfig(server: str, token: str = TOKEN) -> str:
    """Of a user with a token; JSON is YAML, too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(config)


@dataclass
class CountedPods:
    """A life that counts how often pods have lived; each is one attempt of one job."""

    life: Processes
    lived: int = 0

    async def live(self, pod: Pod) -> None:
        self.lived += 1
        await self.life.live(pod)


@dataclass
class ClusterPipeline:
    """``pipeline`` is driven in threads, so that the cluster answers meanwhile. ``shared`` is seen by all pods."""

    cluster: FakeKubernetes
    pods: CountedPods
    pipeline: Pipeline
    shared: Path

    async def ion(self, *arguments: str, code: int | None = 0) -> str:
        """Standard output, then what else was said."""
        done = await asyncio.to_thread(self.pipeline.ion, *arguments, code=code)
        return done.stdout + done.stderr

    async def publish(self, *, files: int = 1, event_id: str | None = None) -> str:
        return await asyncio.to_thread(self.pipeline.publish, files=files, event_id=event_id)

    @asynccontextmanager
    async def serving(self, *arguments: str) -> AsyncIterator[Served]:
        """``ion-core serve``, killed at the end if it has not ended by then. Its methods block, but ``send``."""
        with self.pipeline.serving(*arguments) as served:
            yield served

    def documents(self, kind: str) -> list[dict[str, Any]]:
        """Bodies, from the store's own files."""
        stored = (self.shared / "documents" / "documents" / kind).glob("*")
        return [json.loads(path.read_text("utf-8"))["body"] for path in stored]


def pipeline_config(shared: Path, runtime: Mapping[str, Any], modules: Mapping[str, Any], **more: Any) -> str:
    storage = {
        "documents": {"provider": "fsspec", "url": f"file://{shared}/documents"},
        "blobs": {"provider": "fsspec", "url": f"file://{shared}/blobs"},
    }
    said = {"storage": storage, "runtimes": {"default": dict(runtime)}, "modules": dict(modules), **more}
    return json.dumps(said, indent=1).replace("{", "{{").replace("}", "}}")


@asynccontextmanager
async def served_by_cluster(tmp_path: Path, modules: Mapping[str, Any], **more: Any) -> AsyncIterator[ClusterPipeline]:
    """These modules, each with the image of this machine; ``more`` is of the configuration."""
    shared = tmp_path / "shared"
    image = machine_image(shared)
    pods = CountedPods(Processes(tmp_path / "pods", {MODULE: image, HANDLER: image}))
    async with fake_kubernetes(lambda pod: pods) as cluster:
        cluster.tokens = {TOKEN}
        runtime = {"provider": "kubernetes", "handler_image": HANDLER, "kubeconfig": "kubeconfig"}
        runtime |= {"grace": "1s", "lost_after": "1s"}
        images = {name: {"image": MODULE, **module} for name, module in modules.items()}
        config = pipeline_config(shared, runtime, images, **more)
        pipeline = Pipeline.make(tmp_path / "pipeline", config=config, modules={})
        (pipeline.home / "kubeconfig").write_text(kubeconfig(cluster.url), encoding="utf-8")
        yield ClusterPipeline(cluster, pods, pipeline, shared)
