"""Values that were taken for something else: text for booleans, NUL in paths, modules and programs not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from ion_core.config import Config, check_programs, load_config
from ion_core.contracts.settings import ConfigPath, Settings, StatePath, TextFromOutside
from ion_core.errors import ConfigError
from ion_fsspec_storage.settings import FsspecBlobsSettings
from tests.cli.running import Ion

NO_BOOLEANS = ["yes", "'yes'", "on", "'true'", "1", "0", "True1", "y", "[]", "1.0"]


def config(tmp_path: Path, text: str, **environ: str) -> Config:
    (tmp_path / "ion.yaml").write_text(text)
    return load_config(tmp_path / "ion.yaml", environ=environ)


def problems(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as refused:
        config(tmp_path, text, **environ)
    return str(refused.value)


REUSE = "modules: {m: {command: x, subscribes: [a], reuse: %s}}"


@pytest.mark.parametrize("value", NO_BOOLEANS)
def test_nothing_but_true_and_false_is_a_boolean(value: str, tmp_path: Path) -> None:
    assert "modules.m.reuse: must be true or false" in problems(tmp_path, REUSE % value)


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_may_come_from_outside(value: bool, tmp_path: Path) -> None:
    text = str(value).lower()
    assert config(tmp_path, REUSE % text).modules["m"].reuse is value
    assert config(tmp_path, REUSE % "'${env:REUSE}'", REUSE=text).modules["m"].reuse is value
    assert config(tmp_path, REUSE % "false", ION_MODULES__M__REUSE=text).modules["m"].reuse is value
    assert "must be true or false" in problems(tmp_path, REUSE % "false", ION_MODULES__M__REUSE="yes")
    assert "must be true or false (its value" in problems(tmp_path, REUSE % "'${env:REUSE}'", REUSE="1")


class OfAPlugin(Settings):
    """A field of each kind that a boolean may be part of."""

    plain: bool = False
    maybe: bool | None = None
    either: bool | str = "auto"
    number: bool | float = 1.0
    options: dict[str, Any] = Field(default={})


@pytest.mark.parametrize("given", ["yes", "on", "true", 1, 0, "1", 1.0])
@pytest.mark.parametrize("field", ["plain", "maybe"])
def test_the_settings_of_plugins_hold_to_that(field: str, given: object) -> None:
    with pytest.raises(ValidationError, match="must be true or false"):
        OfAPlugin.model_validate({field: given})
    assert OfAPlugin.model_validate({"maybe": None}).maybe is None
    with pytest.raises(ValidationError, match="must be true or false"):
        OfAPlugin.model_validate({"plain": None})


def test_what_may_be_something_else_too_is_left_alone() -> None:
    settings = OfAPlugin.model_validate({"either": "yes", "number": 2.5})
    assert (settings.either, settings.number) == ("yes", 2.5)
    assert OfAPlugin.model_validate({"either": TextFromOutside("true", True)}).either == "true"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("false", False),
        ("true", True),
        ("17", 17),
        ("2.5", 2.5),
        ("'17'", "17"),
        ("yes", "yes"),
        ("", ""),
        ("null", "null"),
        ("[a]", "[a]"),
        ("a: b", "a: b"),
        ("'", "'"),
        ("!x y", "!x y"),
    ],
)
def test_an_option_of_a_driver_that_a_variable_sets_is_a_yaml_scalar(text: str, meant: Any, tmp_path: Path) -> None:
    written = (
        f"storage: {{blobs: {{provider: fsspec, url: 'file://{tmp_path}', options: {{a: x}}}}}}\n" + REUSE % "true"
    )
    found = config(tmp_path, written, ION_STORAGE__BLOBS__OPTIONS__B=text).blobs.settings
    assert isinstance(found, FsspecBlobsSettings)
    assert found.options == {"a": "x", "b": meant}
    assert type(found.options["b"]) is type(meant)


def test_an_option_that_is_interpolated_is_text_unless_it_is_a_boolean(tmp_path: Path) -> None:
    options = "{a: '${env:A}', b: '${env:B}', c: ['${env:A}']}"
    written = (
        f"storage: {{blobs: {{provider: fsspec, url: 'file://{tmp_path}', options: {options}}}}}\n" + REUSE % "true"
    )
    found: BaseModel = config(tmp_path, written, A="false", B="12345678").blobs.settings
    assert found.model_dump()["options"] == {"a": False, "b": "12345678", "c": [False]}


@pytest.mark.parametrize(
    "line",
    [
        'state: "a\\0b"',
        'state: "~\\0"',
        'storage: {blobs: {path: "a\\0b"}}',
        'storage: {documents: {path: "/a\\0b"}}',
        'messaging: {path: "\\0"}',
        'runtimes: {default: {path: "a\\0b"}}',
    ],
)
def test_a_nul_in_a_path_is_a_mistake_in_the_configuration(line: str, tmp_path: Path) -> None:
    found = problems(tmp_path, f"{line}\n" + REUSE % "true")
    assert found.startswith(f"{tmp_path}/ion.yaml:1:")
    assert "must not contain a NUL character" in found


@pytest.mark.parametrize(
    "line",
    [
        'state: ""',
        'state: "${env:EMPTY}"',
        'storage: {blobs: {path: ""}}',
        'storage: {documents: {path: "${env:EMPTY}"}}',
        'messaging: {path: ""}',
        'runtimes: {default: {path: ""}}',
        'services: {watch: {folders: {in: {path: "", type: a}}}}',
        'services: {watch: {folders: {in: {path: in, type: a, then: move, to: ""}}}}',
        'services: {gateway: {listen: "127.0.0.1:0", tokens: [{token: x, types: [a]}], key_file: ""}}',
    ],
)
def test_a_path_of_no_characters_is_a_mistake_in_the_configuration(line: str, tmp_path: Path) -> None:
    found = problems(tmp_path, f"{line}\n" + REUSE % "true", EMPTY="")
    assert found.startswith(f"{tmp_path}/ion.yaml:1:")
    assert found.count("must not be empty. Give a path, or leave it out") == 1


@pytest.mark.parametrize("kind", [ConfigPath, StatePath])
@pytest.mark.parametrize(("path", "refused"), [("a\0b", "NUL"), ("", "empty")])
def test_every_kind_of_path_refuses_what_is_none(kind: Any, path: str, refused: str) -> None:
    class Model(Settings):
        path: kind

    with pytest.raises(ValidationError, match=refused):
        Model.model_validate({"path": path})


@pytest.mark.parametrize("name", ["COUNTT__CONCURRENCY", "COUNTT", "COUNTT__ENV__A", "COUNTT__RETRY__INITIAL"])
def test_a_variable_for_a_module_that_is_not_there_says_so(name: str, tmp_path: Path) -> None:
    text = "modules: {count: {command: x, subscribes: [a]}, other: {command: x, subscribes: [a]}}"
    found = problems(tmp_path, text, **{f"ION_MODULES__{name}": "3"})
    assert found == (
        f'ION_MODULES__{name}: there is no module "countt" to set. Did you mean "count"? Modules: count, other.'
    )


def test_a_variable_for_a_module_where_there_is_none_says_so(tmp_path: Path) -> None:
    found = problems(tmp_path, "drain_timeout: 1s", ION_MODULES__A__CONCURRENCY="3")
    assert found == 'ION_MODULES__A__CONCURRENCY: there is no module "a" to set. Modules: none.'


def test_check_warns_of_a_program_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "here" / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "here" / "tool").chmod(0o755)
    commands = {
        "on-the-path": "sh",
        "of-this-python": "python3",
        "beside": "{command: tool, source: here}",
        "beside-by-path": "{command: ./tool, source: here}",
        "absolute": "/bin/sh",
        "missing": "no-such-program",
        "missing-beside": "{command: ./none, source: here}",
        "missing-anywhere": "{command: none, source: here}",
        "missing-absolute": "/nowhere/none",
        "not-executable": "{command: plain, source: here}",
    }
    lines = [
        f"  {name}: {{subscribes: [a], {what[1:-1] if what[0] == '{' else f'command: {what}'}}}"
        for name, what in commands.items()
    ]
    (tmp_path / "ion.yaml").write_text("modules:\n" + "\n".join(lines))
    monkeypatch.chdir(tmp_path)
    found = {it.where.rpartition("modules.")[2]: it.text for it in check_programs(load_config("ion.yaml"))}
    assert list(found) == [f"{name}.command" for name in commands if name.startswith(("missing", "not"))]
    assert found["missing.command"].startswith('there is no program "no-such-program" on the PATH')
    assert "chmod +x" in found["not-executable.command"]
    ion = Ion(tmp_path, capsys)
    assert 'warning: there is no program "no-such-program" on the PATH' in ion("check").out
    assert len([it for it in json.loads(ion("check", "--json").out)["findings"] if "program" in it["text"]]) == 5


def test_a_script_that_is_not_there_is_found_before_an_event_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "work.py").write_text("")
    commands = {
        "there": "[python3, -u, work.py], source: here",
        "there-absolute": f"[sh, {tmp_path}/here/work.py]",
        "code": "[sh, -c, missing.sh], source: here",
        "package": "[python3, -m, missing], source: here",
        "of-the-event": "[sh, in/data/run.sh]",
        "not-known": "[tool, missing.py], source: here",
        "alone": "[python3], source: here",
        "missing": "[python3, -u, missing.py, work.py], source: here",
        "missing-shell": "[/bin/sh, -eu, missing.sh], source: here",
        "missing-absolute": "[sh, /nowhere/missing.sh], source: here",
        "missing-installs": "[python3, missing.py], source: here, python: {requirements: r.txt}",
        "missing-without-source": "[python3, work.py]",
    }
    (tmp_path / "r.txt").write_text("")
    lines = [f"  {name}: {{subscribes: [a], command: {what}}}" for name, what in commands.items()]
    (tmp_path / "ion.yaml").write_text("modules:\n" + "\n".join(lines))
    monkeypatch.chdir(tmp_path)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (tmp_path / "tool").touch(0o755)
    found = {
        it.where.rpartition("modules.")[2].removesuffix(".command"): it.text
        for it in check_programs(load_config("ion.yaml"), environ)
    }
    assert list(found) == [name for name in commands if name.startswith("missing")]
    here = f"there is no such file in {tmp_path}/here"
    assert found["missing"] == f'python3 is to run "missing.py", and {here}'
    assert found["missing-shell"] == f'sh is to run "missing.sh", and {here}'
    assert found["missing-absolute"] == 'sh is to run "/nowhere/missing.sh", and there is no such file'
    assert found["missing-installs"].endswith(here)
    assert found["missing-without-source"].endswith("Set source to the directory that it is in")
