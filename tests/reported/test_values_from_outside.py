"""What came from a variable or a file is not shown, whichever key it stands at and whoever repeats it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ion_core.cli import main
from ion_core.cli.logging_setup import JsonFormatter, TextFormatter, WarningFormatter
from ion_core.cli.output import hide_with
from ion_core.hidden import MASK, SHORTEST, Hidden
from tests.cli.running import Ion

CANARY = "canary-3f9c1d7e"
MODULE = """
modules:
  m:
    command: {command}
    source: modules
    subscribes: [in]
    retries: 0
    env: {TOKEN: "${env:CANARY}"}
"""
COMMANDS = (
    ("check",),
    ("check", "--json"),
    ("module", "list"),
    ("event", "publish", "in", "--event-id", "e1"),
    ("serve", "--until-idle", "--verbose"),
    ("serve", "--until-idle", "--log-format", "json"),
    ("dlq", "list"),
    ("dlq", "list", "--json"),
    ("dlq", "show", "1"),
    ("trace", "list"),
    ("trace", "flow", "c1"),
    ("logs", "e1"),
    ("debug", "e1", "--json"),
    ("module", "run", "m", "--type", "in"),
    ("module", "run", "m", "--type", "in", "--json"),
)
SETTINGS = {
    "state": "state: '${env:CANARY}/state'\n" + MODULE,
    "path": "storage: {documents: {provider: sqlite, path: '${env:CANARY}/documents.sqlite'}}\n" + MODULE,
    "a path that is no directory": "storage: {blobs: {path: 'ion.yaml/${env:CANARY}'}}\n" + MODULE,
    "network": MODULE + "    network: ${env:CANARY}\n",
    "a program": MODULE.replace("{command}", "['${env:CANARY}']"),
    "an argument": MODULE.replace("{command}", "[sh, '${env:CANARY}.sh']"),
}


@pytest.fixture
def ion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ion:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", CANARY)
    (tmp_path / "modules").mkdir()
    return Ion(tmp_path, capsys)


@pytest.mark.parametrize("where", SETTINGS)
def test_a_value_from_outside_is_neither_printed_nor_stored(where: str, ion: Ion) -> None:
    text = SETTINGS[where].replace("{command}", "[sh, -c, 'echo I was given $TOKEN; exit 3']")
    (ion.home / "ion.yaml").write_text(text)
    for arguments in COMMANDS:
        if where == "state" and arguments[0] == "debug":
            continue  # it is asked where the workspace is
        done = ion(*arguments)
        assert "a bug" not in done.err
        assert CANARY not in done.out + done.err, arguments
    stored = [path for path in ion.home.rglob("*") if path.is_file()]
    assert [path for path in stored if CANARY.encode() in path.read_bytes()] == []


def test_what_is_asked_for_is_printed_as_it_is(ion: Ion) -> None:
    """An event that says the same as a variable is data: hiding something in it would change it."""
    (ion.home / "ion.yaml").write_text(MODULE.replace("{command}", "[sh, -c, 'true']"))
    arguments = ("event", "publish", "in", "--data", f"x={CANARY}", "--correlation-id", "c1", "--json")
    assert CANARY in ion(*arguments).out
    assert CANARY in ion("trace", "flow", "c1", "--json").out


@pytest.mark.parametrize("formatter", [TextFormatter(), WarningFormatter(), JsonFormatter()])
def test_no_line_of_any_library_shows_it(formatter: logging.Formatter) -> None:
    hide_with(Hidden([CANARY, "two\nlines of it"]).masked)
    try:
        try:
            raise ValueError(f"no such host {CANARY}")
        except ValueError as error:
            info = (type(error), error, error.__traceback__)
        record = logging.LogRecord("a.library", logging.DEBUG, "", 1, "to %s: %s", (CANARY, "lines of it"), info)
        record.url, record.path, record.parts = f"x://{CANARY}/", Path(CANARY), {"a": [CANARY]}
        text = formatter.format(record)
    finally:
        hide_with(str)
    assert CANARY not in text
    assert "lines of it" not in text
    assert text.count(MASK) >= 6


def test_one_command_hides_nothing_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ion.yaml").write_text('modules: {m: {command: "${env:HOME}", subscribes: [a]}')
    main(["check", "--config", str(tmp_path / "ion.yaml")])
    main(["--no-such-option-as", MASK[:0] + "/root"])
    assert MASK not in capsys.readouterr().err


@given(st.text(min_size=SHORTEST), st.text(), st.text())
def test_a_value_of_eight_characters_is_hidden_wherever_it_stands(value: str, before: str, after: str) -> None:
    value *= 2
    assert value not in Hidden([value]).masked(before + value + after).replace(MASK, "\0" * len(MASK)) or MASK in value


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("abc", "abc", "abc"),
        ("true", "it is true", "it is true"),
        ("abcd", "abcd and abcde, x-abcd", "******** and abcde, x-********"),
        ("correct horse", "a correct horse.", "a ********."),
        ("abcdefgh", "xxabcdefghxx", "xx********xx"),
        ("a/b c?d=é", f"x://{quote('a/b c?d=é')} {quote('a/b c?d=é', safe='')}", "x://******** ********"),
        ('quo"ted\\value', json.dumps({"a": 'quo"ted\\value'}), '{"a": "********"}'),
        ("/srv/data/", "/srv/data: is gone, /srv/data/x", "********: is gone, ********x"),
        ("amqp://ion:p%40ssw0rd@host/v", "p@ssw0rd p%40ssw0rd host", "******** ******** host"),
        ("first line\nsecond line\n", "second line: first line", "********: ********"),
        ("", "anything", "anything"),
    ],
)
def test_what_is_looked_for_and_what_is_not(value: str, text: str, shown: str) -> None:
    assert Hidden([value]).masked(text) == shown
