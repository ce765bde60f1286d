"""A broker that others reach, with a store that they do not: `check` and `serve` say so, as events lose their files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ion_core import app
from ion_core.config import check_reach, load_config
from ion_core.contracts.provider import Reach
from tests.acceptance.pipeline import Pipeline
from tests.support.worlds import messages

ION = """\
messaging: {{provider: {broker}}}
storage:
  documents: {documents}
  blobs: {blobs}
modules:
  takes:
    command: [sh, -c, "true"]
    subscribes: [start]
"""


def found(tmp_path: Path, broker: str, documents: str = "{}", blobs: str = "{}") -> list[str]:
    path = tmp_path / "ion.yaml"
    path.write_text(ION.format(broker=broker, documents=documents, blobs=blobs))
    findings = check_reach(load_config(path, environ={}))
    assert {finding.severity for finding in findings} <= {"warning"}
    return [str(finding) for finding in findings]


def test_a_shared_broker_with_stores_of_this_machine_is_said(tmp_path: Path) -> None:
    documents, blobs = found(tmp_path, "rabbitmq, url: 'amqp://me:sesame@broker/'")
    assert "ion.yaml:3:3: storage.documents: sqlite keeps documents for this machine alone" in documents
    assert f"({tmp_path}/.ion/documents.sqlite)" in documents
    assert "rabbitmq (amqp://broker:5672) serves other machines, too" in documents
    assert "sesame" not in documents
    assert "ion.yaml:4:3: storage.blobs: local keeps files for this machine alone" in blobs


def test_stores_that_others_reach_or_may_reach_are_fine(tmp_path: Path) -> None:
    shared = "{provider: fsspec, url: 's3://bucket/ion'}"
    mounted = "{provider: fsspec, url: 'file:///srv/ion'}"
    assert found(tmp_path, "rabbitmq", shared, shared) == []
    assert found(tmp_path, "rabbitmq", mounted, mounted) == []
    assert found(tmp_path, "sqlite") == []
    assert found(tmp_path, "memory", "{provider: memory}", "{provider: memory}") == []


@pytest.mark.parametrize("store", ["{provider: memory}", "{provider: fsspec, url: 'memory://ion'}"])
def test_a_store_of_one_process_with_a_broker_of_the_machine_is_said(tmp_path: Path, store: str) -> None:
    documents, blobs = found(tmp_path, "sqlite", store, store)
    for finding in (documents, blobs):
        assert "for this process alone" in finding
        assert f"sqlite ({tmp_path}/.ion/broker.sqlite) serves other processes of this machine, too" in finding


def test_check_says_it_and_is_content_all_the_same(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config="storage: {{documents: {{provider: memory}}}}", modules={})
    said = pipeline.ion("check").stdout
    assert "storage.documents: warning: memory keeps documents for this process alone (in memory)" in said


async def test_serve_says_it_at_its_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ion.yaml"
    path.write_text(ION.format(broker="sqlite", documents="{provider: memory}", blobs="{}"))
    async with asyncio.timeout(30):
        assert await app.serve(load_config(path, environ=os.environ), environ={}, until_idle=True) == 0
    assert [text for text in messages(caplog) if "storage.documents: memory keeps documents" in text]


def test_reaches_are_ordered() -> None:
    assert Reach.PROCESS < Reach.MACHINE < Reach.NETWORK
