"""A module in Python with a package of its own, from `module init` to `gc`, as a user would have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.pipeline import Pipeline
from tests.support.wheels import make_requirements, make_wheel

MAIN = """\
import greeting
import ion_module

ion_module.output("said.txt").write_text(greeting.say())
ion_module.emit("greet.done", files=["said.txt"])
"""


@pytest.fixture
def project(tmp_path: Path) -> Pipeline:
    Pipeline(tmp_path).ion("init", "project")
    project = Pipeline(tmp_path / "project")
    project.ion("module", "init", "greet", "--language", "python")
    (project.home / "modules/greet/main.py").write_text(MAIN)
    make_wheel(tmp_path / "wheels", "greeting", says="with its own package")
    return project


def require(project: Pipeline, *names: str) -> None:
    make_requirements(project.home / "modules/greet", *names, wheels=project.home.parent / "wheels")


def environments(project: Pipeline) -> dict[str, Any]:
    found = json.loads(project.ion("check", "--json").stdout)["environments"]
    return {it["module"]: it for it in found}


def results(project: Pipeline) -> list[str]:
    return [path.read_text() for path in (project.state / "blobs/files").rglob("said.txt")]


def test_its_packages_are_installed_when_it_first_runs_and_gc_removes_what_nobody_asks_for(project: Pipeline) -> None:
    require(project, "greeting")
    file = project.home / "modules/greet/requirements.txt"
    found = environments(project)["greet"]
    assert (found["requirements"], found["made"]) == (str(file), False)
    assert "greet.python: info: its environment is not made yet" in project.ion("check").stdout
    project.publish("greet.requested", files=0)
    project.ion("serve", "--until-idle")
    assert results(project) == ["with its own package"]
    assert environments(project)["greet"] == {**found, "made": True}
    assert Path(found["environment"]).parent == project.state / "python"
    # One step of it runs in the same one.
    ran = project.ion("module", "run", "greet", "--type", "greet.requested", "--json")
    assert json.loads(ran.stdout)["files"][0]["name"] == "said.txt"

    config = project.home / "ion.yaml"
    config.write_text(config.read_text().replace("python:\n      requirements: modules/greet/requirements.txt", ""))
    assert f"{file} is there, and nobody installs it" in project.ion("check").stdout
    would = project.ion("gc", "--older-than", "0s", "--dry-run").stdout
    assert "Would remove 1 Python environment that no module asks for, " in would
    assert Path(found["environment"]).is_dir()
    assert json.loads(project.ion("gc", "--older-than", "0s", "--json").stdout)["environments"] == 1
    assert list((project.state / "python").iterdir()) == []


def test_requirements_that_another_module_of_the_same_directory_installs_are_no_reason_to_warn(tmp_path: Path) -> None:
    project = Pipeline(tmp_path)
    (tmp_path / "requirements.txt").write_text("greeting\n")
    shell = "modules:\n  shout: {command: [sh, shout.sh], source: ., subscribes: [asked]}\n"
    python = "  greet: {command: [python3, main.py], source: ., subscribes: [asked], python: {requirements: %s}}\n"
    config = tmp_path / "ion.yaml"
    config.write_text(shell + python % "requirements.txt")
    assert "nobody installs it" not in project.ion("check").stdout
    (tmp_path / "others.txt").write_text("greeting\n")
    config.write_text(shell + python % "others.txt")
    assert f"{tmp_path / 'requirements.txt'} is there, and nobody installs it" in project.ion("check").stdout


def test_what_cannot_be_installed_is_a_dead_letter_that_says_why_until_it_is_mended(project: Pipeline) -> None:
    require(project, "greeting", "nowhere==7")
    project.publish("greet.requested", files=0)
    project.publish("welcome.requested")
    project.ion("serve", "--until-idle", code=1)
    [letter] = json.loads(project.ion("dlq", "list", "--module", "greet", "--json").stdout)
    assert letter["reason"].startswith("requirements cannot be installed: ")
    assert "nowhere==7" in letter["reason"]
    assert "modules/greet/requirements.txt" in letter["reason"]
    assert "\n" not in letter["reason"]
    assert "said of" in project.ion("logs", letter["eventId"], "--module", "greet").stdout
    # What is tried by hand says the same, and nothing of a queue.
    for command in (("run", "greet", "--type", "greet.requested"), ("test", "greet")):
        ran = project.ion("module", *command, code=1)
        told = ran.stdout + ran.stderr
        assert "requirements cannot be installed: " in told
        assert "said of" in told
        assert "redrive" not in told
        assert "\\n" not in told
    assert len(project.documents("commit")) == 1  # the other module went on
    require(project, "greeting")
    project.ion("dlq", "redrive", "--module", "greet", "--all")
    project.ion("serve", "--until-idle")
    assert results(project) == ["with its own package"]
