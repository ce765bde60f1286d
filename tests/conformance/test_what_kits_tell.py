"""A kit tells which rules it did not test, the sentence of one that fails, and cleans up behind itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ion_core import testing
from ion_core.testing.kit import Conformance
from ion_core.testing.told import sentence_of, sentences

TOLD = "ion_core.testing.told"
HEAD = """\
from pathlib import Path

import pytest
import pytest_asyncio

from ion_core.embedded.local.blobs import open_local_blobs
from ion_core.embedded.settings import LocalBlobsSettings, SqliteBrokerSettings, SqliteDocumentsSettings
from ion_core.embedded.sqlite.broker import open_sqlite_broker
from ion_core.embedded.sqlite.documents import open_sqlite_documents
from ion_core.testing import BlobStoreConformance, DocumentStoreConformance, MessageBrokerConformance


class Blobs(BlobStoreConformance):
    reopen = corrupt = withhold = litter = outage = None

    @pytest_asyncio.fixture
    async def blobs(self):
        async with open_local_blobs(LocalBlobsSettings(path=Path("blobs").absolute())) as blobs:
            yield blobs
"""


def run(directory: Path, text: str, *arguments: str, processes: int = 0) -> tuple[int, str]:
    """The exit code and the output of pytest in a project of its own, with ``processes`` of pytest-xdist."""
    (directory / "test_it.py").write_text(HEAD + text)
    (directory / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    command += ["-n", str(processes), "-p", TOLD] if processes else ["-p", "no:xdist"]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_rules_that_were_not_tested_are_named(tmp_path: Path) -> None:
    text = """

class TestStore(Blobs):
    pass


"""
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n\ndef pytest_collection_modifyitems(items):\n    for item in items:\n"
        "        if item.name == 'test_url_is_a_uri':\n            item.add_marker(pytest.mark.skip)\n"
        "        if item.name == 'test_list_is_sorted':\n            item.add_marker(pytest.mark.xfail)\n"
    )
    code, said = run(tmp_path, text)
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if line.startswith("TestStore: ")]
    rules = testing.BlobStoreConformance.rules()
    assert line.startswith(f"TestStore: {len(rules) - 7} of {len(rules)} rules, not tested: "), line
    for left_out in (
        "trouble_with_one_blob_is_its_own (withhold = None)",
        "blobs_outlive_the_process (reopen = None)",
        "list_is_sorted (xfail)",
        "url_is_a_uri (skipped)",
    ):
        assert left_out in line


def test_where_few_rules_are_asked_for_the_others_are_counted(tmp_path: Path) -> None:
    code, said = run(tmp_path, "\n\nclass TestStore(Blobs):\n    pass\n", "-k", "sorted or uri")
    assert code == 0, said
    others = len(testing.BlobStoreConformance.rules()) - 2 - 5
    assert f"TestStore: 2 of {others + 7} rules, not tested: " in said
    assert f"{others} rules that nobody asked for" in said


def test_processes_tell_it_together(tmp_path: Path) -> None:
    text = """

class TestStore(Blobs):
    @pytest_asyncio.fixture
    async def blobs(self, tmp_path):
        async with open_local_blobs(LocalBlobsSettings(path=tmp_path)) as blobs:
            yield blobs


class TestOther(TestStore):
    pass
"""
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n\ndef pytest_collection_modifyitems(items):\n    for item in items:\n"
        "        if item.name == 'test_url_is_a_uri':\n            item.add_marker(pytest.mark.skip)\n"
    )
    code, said = run(tmp_path, text, processes=2)
    assert code == 0, said
    rules = testing.BlobStoreConformance.rules()
    lines = [line for line in said.splitlines() if line.startswith(("TestStore: ", "TestOther: "))]
    assert [line.partition(": ")[0] for line in lines] == ["TestOther", "TestStore"]
    for line in lines:
        assert f": {len(rules) - 6} of {len(rules)} rules, not tested: " in line
        assert "blobs_outlive_the_process (reopen = None)" in line
        assert "url_is_a_uri (skipped)" in line
        assert "nobody" not in line


def test_pytest_finds_what_tells_it() -> None:
    """Where ion-core is installed: in the process that has the terminal nothing imports a kit."""
    project = tomllib.loads((Path(testing.__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {TOLD: TOLD}


def test_of_a_process_that_crashes_it_is_said_that_nobody_knows(tmp_path: Path) -> None:
    text = """

class TestStore(Blobs):
    def test_zz_crashes(self):
        import os
        os._exit(1)

    def test_zzz_passes(self):
        pass
"""
    code, said = run(tmp_path, text, "-k", "sorted or uri or zz", "--max-worker-restart=1", processes=1)
    assert code == 1, said
    assert "that nobody asked for, or that a process had which crashed" in said


@pytest.mark.parametrize(
    "text",
    [
        "class TestStore(Blobs):\n    test_list_is_sorted = None\n",
        "class TestStore(Blobs):\n    async def test_list_is_sorted(self):\n        pass\n",
        "class Mixin:\n    test_list_is_sorted = None\n\n\nclass TestStore(Mixin, Blobs):\n    pass\n",
        "class Less(Blobs):\n    test_list_is_sorted = None\n\n\nclass TestStore(Less):\n    pass\n",
        "class TestStore(Blobs):\n    reopen = open_local_blobs\n    test_blobs_outlive_the_process = None\n",
        "class TestStore(Blobs):\n    @pytest.mark.xfail\n    async def test_list_is_sorted(self, blobs):\n"
        "        await super().test_list_is_sorted(blobs)\n",
    ],
)
def test_a_test_in_the_place_of_a_rule_fails(tmp_path: Path, text: str) -> None:
    (tmp_path / "conftest.py").write_text("")
    code, said = run(tmp_path, f"\n\n{text}", "-k", "sorted or outlive")
    assert code == 1, said
    assert "stands in the place of a rule of the kit" in said


def test_a_rule_that_fails_shows_its_sentence(tmp_path: Path) -> None:
    text = """

class Lost:
    async def url(self, key):
        return "no address"

    def __getattr__(self, name):
        return getattr(self.blobs, name)


class TestStore(Blobs):
    @pytest_asyncio.fixture
    async def blobs(self):
        async with open_local_blobs(LocalBlobsSettings(path=Path("blobs").absolute())) as blobs:
            lost = Lost()
            lost.blobs = blobs
            yield lost
"""
    code, said = run(tmp_path, text, "-k", "uri")
    assert code == 1, said
    assert f"The rule: {sentence_of('url_is_a_uri', 'blobs')}" in said
    assert "gives a URI" in said


def test_what_the_kits_make_is_removed_behind_them(tmp_path: Path) -> None:
    text = """

class TestBlobs(Blobs):
    pass


class TestDocuments(DocumentStoreConformance):
    reopen = damage = reads = outage = None

    @pytest_asyncio.fixture
    async def documents(self):
        async with open_sqlite_documents(SqliteDocumentsSettings(path=Path("documents").absolute())) as documents:
            yield documents


class TestBroker(MessageBrokerConformance):
    reopen = take_back = outage = None

    @pytest_asyncio.fixture
    async def broker(self):
        async with open_sqlite_broker(SqliteBrokerSettings(path=Path("broker").absolute())) as broker:
            await broker.declare("of-another-0123456789ab", topics=[], retry=self.retry)
            yield broker


async def left():
    async with open_local_blobs(LocalBlobsSettings(path=Path("blobs").absolute())) as blobs:
        keys = [key async for key in blobs.list("")]
    async with open_sqlite_documents(SqliteDocumentsSettings(path=Path("documents").absolute())) as documents:
        found = [document async for document in documents.find()]
    async with open_sqlite_broker(SqliteBrokerSettings(path=Path("broker").absolute())) as broker:
        return keys, found, [queue.name for queue in await broker.queues()]


@pytest.mark.asyncio
async def test_nothing_is_left():
    assert await left() == ([], [], ["of-another-0123456789ab"])
"""
    chosen = "nothing_is_left or uri or sorted or listed_with_their_topics or oldest_first or creat"
    code, said = run(tmp_path, text, "-k", chosen)
    assert code == 0, said
    assert (tmp_path / "broker").exists()
    assert (tmp_path / "documents").exists()


@pytest.mark.parametrize("name", testing.__all__)
def test_each_kit_knows_the_page_of_its_rules(name: str) -> None:
    kit: type[Conformance] = getattr(testing, name)
    assert kit.rules()
    assert {(kit.contract, rule) for rule in kit.rules()} <= sentences().keys()
