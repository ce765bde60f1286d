"""Whatever a plugin prints, and whenever it does, goes to standard error: what --json prints stays JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import ion as ion  # a fixture
from tests.cli.conftest import site as site  # a fixture
from tests.cli.running import Ion

LOUD = """\
import os
from contextlib import asynccontextmanager

import click
from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.embedded.memory.blobs import open_memory_blobs
from ion_core.hookspecs import hookimpl

print("LOUD at import")
os.system("echo LOUD as a program")


class Loud(Settings):
    pass


@asynccontextmanager
async def open_loud(settings):
    print("LOUD when opened")
    async with open_memory_blobs() as blobs:
        yield blobs


@hookimpl
def ion_blob_stores():
    print("LOUD in a hook")
    return [Provider(name="loud", settings=Loud, open=open_loud, contract="1.0")]


@hookimpl
def ion_event_published(event):
    print("LOUD as an observer", flush=True)


@click.command()
def greet():
    print("hello")


@hookimpl
def ion_commands():
    print("LOUD with its commands")
    return [greet]
"""


@pytest.fixture
def loud(ion: Ion, site: Path) -> Ion:
    (site / "ion_greeting.py").write_text(LOUD)
    text = (ion.home / "ion.yaml").read_text()
    (ion.home / "ion.yaml").write_text(f"storage: {{blobs: {{provider: loud}}}}\n{text}")
    return ion


@pytest.mark.parametrize(
    "arguments",
    [
        ("plugins", "list", "--json"),
        ("config", "show", "--json"),
        ("config", "schema"),
        ("check", "--json"),
        ("event", "publish", "start", "--file", "note.txt", "--json"),
        ("trace", "list", "--json"),
    ],
    ids=" ".join,
)
def test_json_stays_json_where_a_plugin_prints(arguments: tuple[str, ...], loud: Ion, site: Path) -> None:
    result = loud.process(*arguments, environ={"PYTHONPATH": str(site)})
    assert result.code == 0, result.err
    json.loads(result.out)
    for when in ("at import", "as a program", "in a hook", "with its commands"):
        assert f"LOUD {when}" in result.err
    if arguments[:2] == ("event", "publish"):
        assert "LOUD when opened" in result.err
        assert "LOUD as an observer" in result.err


def test_what_the_command_of_a_plugin_prints_is_its_result(loud: Ion, site: Path) -> None:
    result = loud.process("greet", environ={"PYTHONPATH": str(site)})
    assert (result.code, result.out) == (0, "hello\n")
    assert "LOUD with its commands" in result.err


def test_help_goes_to_standard_output(loud: Ion, site: Path) -> None:
    environ = {"PYTHONPATH": str(site)}
    assert loud.process("serve", "--help", environ=environ).out.startswith("Usage: ")
    assert loud.process("greet", "--help", environ=environ).out.startswith("Usage: ")
