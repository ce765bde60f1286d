"""The contracts' prose and the kits say the same: each rule is one sentence and one test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ion_core import testing
from ion_core.testing.kit import Conformance

CONTRACTS = Path(__file__).parents[2] / "docs" / "contracts"
KITS = {
    "messaging": testing.MessageBrokerConformance,
    "runtime": testing.ContainerRuntimeConformance,
    "executors": testing.ExecutorConformance,
    "blobs": testing.BlobStoreConformance,
    "documents": testing.DocumentStoreConformance,
    "services": testing.ServiceConformance,
    "observers": testing.ObserverConformance,
    "provider": testing.ProviderConformance,
}
RULE = re.compile(r"^- \*\*`(\w+)`\*\* (.+)$", re.MULTILINE)


def prose(contract: str) -> str:
    return (CONTRACTS / f"{contract}.md").read_text()


@pytest.mark.parametrize("contract", KITS)
def test_each_rule_is_a_test_and_each_test_a_rule(contract: str) -> None:
    rules = [rule for rule, _ in RULE.findall(prose(contract))]
    tests = [name.removeprefix("test_") for name in dir(KITS[contract]) if name.startswith("test_")]
    assert sorted(rules) == sorted(tests)


@pytest.mark.parametrize("contract", KITS)
def test_each_rule_is_one_sentence(contract: str) -> None:
    for rule, sentence in RULE.findall(prose(contract)):
        assert sentence[0].isupper() or sentence.startswith("`"), rule
        assert re.fullmatch(r"[^.]*(\.\w+[^.]*)*\.", sentence), f"{rule}: one sentence, please: {sentence}"


@pytest.mark.parametrize("contract", KITS)
def test_everything_in_a_list_is_a_rule(contract: str) -> None:
    listed = [line for line in prose(contract).splitlines() if line.startswith("- ")]
    assert len(listed) == len(RULE.findall(prose(contract)))


def test_every_kit_that_is_shipped_has_its_contract() -> None:
    assert {kit.__name__ for kit in KITS.values()} == set(testing.__all__)
    assert {path.stem for path in CONTRACTS.glob("*.md")} == {*KITS, "README"}
    readme = prose("README")
    for contract, kit in KITS.items():
        assert f"]({contract}.md)" in readme
        assert f"`{kit.__name__}`" in readme
        assert issubclass(kit, Conformance)


def test_the_example_in_the_readme_passes_in_a_project_of_its_own(tmp_path: Path) -> None:
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", prose("README"), re.DOTALL)
    assert [name for name, _ in files] == ["json_documents.py", "test_json_documents.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    settings = "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    (tmp_path / "pytest.ini").write_text(settings)  # asyncio_mode is strict, as it comes
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    absent = re.findall(r"^    (\w+) = None", files[1][1], re.MULTILINE)
    needing = [it for it in testing.DocumentStoreConformance._needing.values() if it.needs_hook in absent]
    assert f"{len(RULE.findall(prose('documents'))) - len(needing)} passed" in done.stdout


def test_what_an_executor_begins_with_loads_and_is_held_to_the_rules(tmp_path: Path) -> None:
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", prose("executors"), re.DOTALL)
    assert [name for name, _ in files] == ["crane_plugin.py", "test_crane.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    offers = "import crane_plugin as it; print(it.CraneSettings(server='x').capabilities().reach.name)"
    told = subprocess.run(
        [sys.executable, "-c", offers], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout == "NETWORK\n"
    first = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "a_job_prepares"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        first, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No module named 'crane_executor'" in done.stdout
    assert "1 error" in done.stdout
