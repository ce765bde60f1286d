"""Plugins of `ion-core plugins new`, as wheels, in an environment that has nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from ion_core.cli.installed.new_plugin import KINDS
from tests.acceptance.pipeline import environment
from tests.docs.blocks import ROOT
from tests.support.fresh import fresh_environment, install_wheels

OURS = ["click", "h11", "pluggy", "pydantic", "ruamel.yaml", "pytest", "pytest-asyncio", "hypothesis"]
"""What the wheels require, of the environment that we have."""


@dataclass(frozen=True)
class Fresh:
    """``home`` has the sources of each plugin, ``ion-new-KIND``, and what is installed is from their wheels."""

    home: Path
    python: Path

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), "-m", *arguments],
            cwd=cwd or self.home,
            env={name: value for name, value in environment().items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    home = tmp_path_factory.mktemp("new-plugins")

    def run(*command: str | Path, cwd: Path = home) -> None:
        done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    venv.create(home / "build", with_pip=False, symlinks=True)
    python = home / "build/bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "hatchling")
    for kind in KINDS:
        run(sys.executable, "-m", "ion_core", "plugins", "new", f"new-{kind}", "--kind", kind)
    for source in (ROOT, *(home / f"ion-new-{kind}" for kind in KINDS)):
        run(python, "-m", "hatchling", "build", "-t", "wheel", "-d", home / "wheels", cwd=source)
    installed = fresh_environment(home / "fresh", OURS)
    install_wheels(installed, sorted((home / "wheels").glob("*.whl")))
    return Fresh(home, installed)


@pytest.mark.timeout(600)
def test_each_is_found_and_healthy(fresh: Fresh) -> None:
    done = fresh.run("ion_core", "plugins", "doctor", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["healthy"]) == (0, True), said
    assert {it["distribution"] for it in said["plugins"]} == {"ion-core", *(f"ion-new-{kind}" for kind in KINDS)}
    assert {it["name"] for plugin in said["plugins"][1:] for it in plugin["providers"]} == {f"new-{it}" for it in KINDS}


@pytest.mark.timeout(600)
def test_its_page_is_read_like_ours(fresh: Fresh) -> None:
    for kind in KINDS:
        page = fresh.run("ion_core", "docs", f"new-{kind}").stdout
        assert page == (fresh.home / f"ion-new-{kind}/README.md").read_text()
        for named in re.findall(r"`ion-core docs (\S+)`", page):
            assert fresh.run("ion_core", "docs", named).stdout.startswith("# ")
        assert not re.search(r"@[A-Z]+@|sample", page, re.IGNORECASE), page


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_its_kit_and_its_pipeline_pass_as_they_are(fresh: Fresh, kind: str) -> None:
    done = fresh.run(
        "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "tests", cwd=fresh.home / f"ion-new-{kind}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert int(passed) >= 9, done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["blobs", "service", "observer"])
def test_the_command_of_its_page_finds_every_rule_kept(fresh: Fresh, kind: str) -> None:
    page = (fresh.home / f"ion-new-{kind}/README.md").read_text()
    (command,) = re.findall(r"`ion-core (plugins test [^`]+)`", page)
    done = fresh.run("ion_core", *command.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.timeout(600)
def test_a_further_one_is_written_from_the_wheel(fresh: Fresh, tmp_path: Path) -> None:
    written = []
    for python in (Path(sys.executable), fresh.python):
        home = tmp_path / str(len(written))
        home.mkdir()
        done = Fresh(home, python).run("ion_core", "plugins", "new", "further", "--kind", "blobs")
        assert done.returncode == 0, done.stderr
        written.append({path.relative_to(home): path.read_text() for path in home.rglob("*") if path.is_file()})
    assert written[0] == written[1]
