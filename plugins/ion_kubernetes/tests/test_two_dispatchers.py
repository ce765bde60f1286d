"""Two ``ion-core serve`` on one RabbitMQ, bucket and cluster: the jobs of one that is killed are fetched by the other.

They know each other's jobs by where the document store is; a directory, shared or not, says nothing of that.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ion_rabbitmq.testing import RabbitServer
from plugins.ion_kubernetes.tests.served import ClusterPipeline, served_by_cluster
from plugins.ion_kubernetes.tests.test_served import WAITING, open_gate, runs, script, until_they_run
from tests.acceptance.pipeline import Pipeline
from tests.support.object_stores import ObjectStore
from tests.support.servers import s3 as s3


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path / "rabbitmq")
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def first(tmp_path: Path, rabbit: RabbitServer, s3: ObjectStore) -> AsyncIterator[ClusterPipeline]:
    shared = tmp_path / "shared"
    split = {"subscribes": ["whole.received"], "command": script(shared, "split", WAITING), "retries": 0}
    split |= {"concurrency": 2, "env": {"RUNS": str(shared / "runs")}}
    os.mkfifo(shared / "runs.started")
    messaging = {"provider": "rabbitmq", "url": rabbit.url}
    place = {"provider": "fsspec", **s3.settings()}
    storage = {"documents": place, "blobs": place}
    async with served_by_cluster(tmp_path, {"split": split}, messaging=messaging, storage=storage) as made:
        yield made


async def test_jobs_of_one_that_is_killed_are_fetched_by_the_other(first: ClusterPipeline, tmp_path: Path) -> None:
    home = tmp_path / "second"
    shutil.copytree(first.pipeline.home, home)
    second = Pipeline(home)
    for _ in range(2):
        await first.publish()
    with first.pipeline.serving() as one:
        await until_they_run(first, 2)
        with second.serving() as other:
            await asyncio.to_thread(other.until, "serving modules=split")
            one.send(signal.SIGKILL)
            await asyncio.to_thread(one.ended)
            await asyncio.to_thread(other.until, "its job is with the engine already", count=2)
            open_gate(first)
            await asyncio.to_thread(other.until, "job committed", count=2)
            other.send(signal.SIGTERM)
            assert await asyncio.to_thread(other.ended) == 128 + signal.SIGTERM
    assert (runs(first.shared), first.pods.lived) == ({"split": 2}, 2), "nothing ran twice"
    assert [key for key in first.cluster.store.objects if key[0] == "pods"] == []
