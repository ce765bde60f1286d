"""All distributions as wheels, in an environment that has nothing else, far from the clone."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks, write_files

SOURCES = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
NAMES = ["ion-core", *(path.name.replace("_", "-") for path in SOURCES[1:])]
PATIENCE = 240


def environment() -> dict[str, str]:
    """Ours, without what leads back into the clone or its environment."""
    left_out = ("ION_", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(it) for it in command],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def installer() -> list[str]:
    """pip, of the environment that is named last; uv where it is not there."""
    uv = shutil.which("uv")
    return [uv, "pip"] if importlib.util.find_spec("pip") is None and uv else [sys.executable, "-m", "pip"]


@dataclass(frozen=True)
class Fresh:
    """An environment with our wheels and what they ask for."""

    wheels: list[Path]
    bin: Path

    def ion(self, *arguments: str, cwd: Path) -> str:
        return run(self.bin / "ion-core", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    home = tmp_path_factory.mktemp("fresh")
    for source in SOURCES:
        if installer()[0] != sys.executable:
            run("uv", "build", "--quiet", "--wheel", "--out-dir", home / "wheels", source, cwd=home)
        else:
            command = ("wheel", "--quiet", "--no-deps", "--wheel-dir", home / "wheels", source)
            run(sys.executable, "-m", "pip", *command, cwd=home)
    wheels = sorted((home / "wheels").glob("*.whl"))
    venv.create(home / "venv", with_pip=False, symlinks=True)
    python = home / "venv/bin/python"
    if (pip := installer())[-1] == "pip" and pip[0] != sys.executable:
        run(*pip, "install", "--quiet", "--python", python, *wheels, cwd=home)
    else:
        run(*pip, "--python", python, "install", "--quiet", *wheels, cwd=home)
    return Fresh(wheels, home / "venv/bin")


@pytest.mark.timeout(600)
def test_they_are_installed_and_each_plugin_is_found(fresh: Fresh, tmp_path: Path) -> None:
    assert len(fresh.wheels) == len(NAMES)
    assert re.fullmatch(r"ion-core \d+\.\d+\.\d+\n", fresh.ion("version", cwd=tmp_path))
    listed = json.loads(fresh.ion("plugins", "list", "--json", cwd=tmp_path))
    assert {it["distribution"] for it in listed} == set(NAMES)
    assert [it for it in listed if it.get("problem")] == []
    where = run(fresh.bin / "python", "-c", "import ion_core; print(ion_core.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(fresh.bin.parent)


@pytest.mark.timeout(600)
def test_a_new_project_works_there(fresh: Fresh, tmp_path: Path) -> None:
    fresh.ion("init", "project", cwd=tmp_path)
    project = tmp_path / "project"
    for language in ("sh", "python"):
        fresh.ion("module", "init", f"in-{language}", "--language", language, cwd=project)
    assert "3 passed in " in fresh.ion("module", "test", cwd=project)
    fresh.ion("event", "publish", "welcome.requested", "--file", "README.md", cwd=project)
    fresh.ion("serve", "--until-idle", cwd=project)
    # Which pages its files speak of is what `ion-core docs` has.
    named = set[str]()
    for path in project.rglob("*"):
        if path.is_file() and path.suffix in (".md", ".yaml"):
            named |= set(re.findall(r"`ion-core docs (\S+)`", path.read_text(encoding="utf-8")))
    assert named
    for page in named:
        assert fresh.ion("docs", page, cwd=project).startswith("# ")


@pytest.mark.timeout(600)
def test_the_pipeline_of_the_readme_works_there(fresh: Fresh, tmp_path: Path) -> None:
    write_files("README.md", tmp_path)
    first, *_ = [block.text for block in blocks("README.md") if block.role == "run"]  # the others need more installed
    for line in first.splitlines():
        program, *arguments = line.split()
        if program == "ion-core":
            fresh.ion(*arguments, cwd=tmp_path)
        else:
            assert run("sh", "-c", line, cwd=tmp_path)


@pytest.mark.timeout(600)
def test_every_page_comes_along(fresh: Fresh, tmp_path: Path) -> None:
    pages = {line.split()[0] for line in fresh.ion("docs", cwd=tmp_path).splitlines()[1:]}
    ours = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in ROOT.glob("docs/**/*.md")}
    short = {name: name.removeprefix("ion-") for name in NAMES}  # but where a page of ours has that name
    readmes = {
        name if short[name] in ours else short[name]: path / "README.md"
        for name, path in zip(NAMES, SOURCES, strict=True)
        if name != "ion-core"
    }
    assert pages == ours | set(readmes)
    for name, path in readmes.items():
        assert fresh.ion("docs", name, cwd=tmp_path) == path.read_text(encoding="utf-8")
    assert fresh.ion("docs", "modules", cwd=tmp_path) == (ROOT / "docs/modules.md").read_text(encoding="utf-8")
    with zipfile.ZipFile(next(it for it in fresh.wheels if it.name.startswith("ion_core-"))) as wheel:
        names = wheel.namelist()
    assert any(name.endswith("scaffold/templates/python/requirements.txt") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
