"""How the process begins and ends: help, plugin commands, errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ion_core.cli.group import INSTEAD
from ion_core.cli.root import COMMANDS, root
from tests.cli.running import Ion, command

FIVE_MISTAKES = """\
messaging: {provider: rabbit}
modules:
  detect:
    command: [true]
    tiemout: 5s
    timeout: soon
    subscribes: [Photo!]
    runtime: cloud
"""
HEAVY = {"asyncio", "pydantic", "ruamel", "sqlite3", "pluggy", "logging", "ion_core.app", "ion_core.config"}


def test_help_imports_click_and_nothing_heavy() -> None:
    code = "import sys; from ion_core.cli import main; main(['--help']); print('\\nimported', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    imported = set(done.stdout.rpartition("imported")[2].split())
    assert "click" in imported
    assert not imported & HEAVY


def test_help_lists_every_command_as_that_command_describes_itself(ion: Ion) -> None:
    result = ion("--help")
    assert result.code == 0
    for name, listed in COMMANDS.items():
        found = root.get_command(click.Context(root), name)
        assert found is not None
        assert found.name == name
        assert found.get_short_help_str(limit=200) == listed.short_help
        assert f"\n  {name} " in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(ion: Ion, name: str) -> None:
    assert ion(name, "--help").out.startswith(f"Usage: ion-core {name}")


def test_a_group_without_a_command_shows_its_help_and_is_misuse(ion: Ion) -> None:
    result = ion("dlq")
    assert (result.code, result.out) == (2, "")
    assert "redrive" in result.err


def test_an_unknown_command_names_the_nearest_one(ion: Ion) -> None:
    result = ion("serv")
    assert result.code == 2
    assert result.err == 'ion-core: no command "serv". Did you mean "serve"?\nTry `ion-core --help`.\n'


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("run", 'no command "run". Did you mean "serve", "dev run" or "module run"?'),
        ("start", 'no command "start". Did you mean "serve" or "handler start"?'),
        ("publish", 'no command "publish". Did you mean "event publish"?'),
        ("event pubish", 'no command "event pubish". Did you mean "event publish"?'),
        ("trace logs", 'no command "trace logs". Did you mean "logs"?'),
        ("dlq retry", 'no command "dlq retry". Did you mean "dlq redrive"?'),
        ("dev module ini", 'no command "dev module ini". Did you mean "dev module init"?'),
        ("xyzzy", 'no command "xyzzy".'),
    ],
)
def test_an_unknown_command_names_what_was_meant(ion: Ion, given: str, said: str) -> None:
    result = ion(*given.split())
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[0] == f"ion-core: {said}"


@pytest.mark.parametrize("meant", sorted(set(INSTEAD.values())))
def test_what_is_suggested_is_a_command(ion: Ion, meant: str) -> None:
    assert ion(*meant.split(), "--help").code == 0


def test_version_is_told_in_three_ways(ion: Ion) -> None:
    assert ion("--version").out == ion("version").out
    assert ion("version", "--json").json["version"] in ion("version").out


def test_plugins_bring_commands_that_the_configuration_can_leave_out(ion: Ion, site: Path) -> None:
    environ = {"PYTHONPATH": str(site)}
    assert ion.process("greet", "you", environ=environ).out == "hello you\n"
    (ion.home / "ion.yaml").write_text("plugins: []\nmodules: {broken: {}}\n")
    refused = ion.process("greet", environ=environ)
    assert refused.code == 2
    assert refused.err.startswith('ion-core: no command "greet"')


def test_a_bug_is_one_line_and_exit_code_70(ion: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: 1 / 0)
    result = ion("version", "--json")
    assert (result.code, result.out) == (70, "")
    assert result.err.startswith("ion-core: a bug: ZeroDivisionError: division by zero. Please report it; its")
    assert result.err.count("\n") == 1


def test_the_command_of_a_plugin_that_fails_names_the_plugin_and_shows_its_traceback_when_asked_for(
    ion: Ion, site: Path
) -> None:
    environ = {"PYTHONPATH": str(site)}
    short = ion.process("boom", environ=environ)
    assert short.code == 70
    assert short.err.startswith(
        "ion-core: the plugin ion-greeting 1.5 failed: it raised RuntimeError: kaputt. "
        "Please report it to its author; its traceback is shown with --verbose"
    )
    assert short.err.count("\n") == 1
    long = ion.process("boom", environ={**environ, "ION_DEBUG": "1"})
    assert long.code == 70
    assert "Traceback" in long.err
    assert "is above" in long.err


def test_an_interrupted_command_ends_with_130(ion: Ion, site: Path) -> None:
    result = ion.process("interrupt", environ={"PYTHONPATH": str(site)})
    assert (result.code, result.err) == (130, "ion-core: interrupted\n")


def test_a_reader_that_goes_away_is_no_error(ion: Ion) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("config", "schema"), cwd=ion.home, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_under_stdout_is_told(ion: Ion) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("config", "schema"), cwd=ion.home, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.startswith("ion-core: standard output: No space left on device.")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("check",), ("module", "list"), ("serve",), ("event", "publish", "start")])
def test_five_mistakes_are_five_lines_with_their_positions(ion: Ion, arguments: tuple[str, ...]) -> None:
    (ion.home / "ion.yaml").write_text(FIVE_MISTAKES)
    result = ion(*arguments)
    assert (result.code, result.out) == (78, "")
    lines = result.err.splitlines()
    places = [":".join(line.split(":")[:3]) for line in lines]
    assert places == ["ion.yaml:1:23", "ion.yaml:5:5", "ion.yaml:6:14", "ion.yaml:7:18", "ion.yaml:8:14"]


@pytest.mark.parametrize("name", ["nowhere.yaml", ".", "note.txt\0", ""])
def test_a_configuration_that_cannot_be_read_is_said_to_be(ion: Ion, name: str) -> None:
    result = ion("check", "--config", name)
    assert result.code == (2 if "\0" in name or not name else 78)
    assert "Traceback" not in result.err
    assert "a bug" not in result.err


def test_no_configuration_at_all_says_how_to_give_one(ion: Ion) -> None:
    (ion.home / "ion.yaml").unlink()
    result = ion("check")
    assert result.code == 78
    assert "--config" in result.err


def test_the_state_directory_can_be_given(ion: Ion, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ion("event", "publish", "start", "--state-dir", "elsewhere").code == 0
    monkeypatch.setenv("ION_STATE", str(ion.home / "third"))
    assert ion("event", "publish", "start").code == 0
    assert [(ion.home / name).is_dir() for name in ("elsewhere", "third", ".ion")] == [True, True, False]


def test_a_state_directory_that_is_a_file_is_an_error_of_one_line(ion: Ion) -> None:
    result = ion("trace", "list", "--state-dir", "note.txt")
    assert result.code == 78
    assert result.err.startswith("ion-core: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gc", "--dry-run"], ["Missing option '--older-than'.", "Such as `ion-core gc --older-than 30d --dry-run`."]),
        (["logs"], ["Missing argument 'EVENT_ID'.", "Such as `ion-core logs 3f2a9c1b --module detect`."]),
        (["plugins", "new", "x"], ["Choose from: broker, runtime, executor", "Such as `ion-core plugins new shelf"]),
    ],
)
def test_where_something_is_missing_it_is_said_what_to_write(ion: Ion, arguments: list[str], said: list[str]) -> None:
    refused = ion(*arguments)
    assert refused.code == 2
    assert all(it in refused.err for it in said), refused.err
