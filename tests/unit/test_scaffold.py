"""Adding a module to a configuration, and writing files that are not there yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core.cli.module import init as module_init
from ion_core.config.tree import Problems, parse
from ion_core.errors import ConfigError, TransientError, UsageError
from ion_core.scaffold import LANGUAGES, ModuleNames, NewFile, module_entry, module_files, with_module, write_new
from tests.docs.blocks import ROOT, blocks

ENTRY = {"command": ["sh", "main.sh"], "subscribes": ["1.2"], "publishes": []}
NAMES = ModuleNames(name="added", subscribes=("a.b", "c"), publishes=("d", "e"))
EXAMPLES = [
    (ROOT / "examples/faces/ion.yaml").read_text(encoding="utf-8"),
    *(block.text for block in blocks("docs/configuration.md") if block.language == "yaml" and "modules:" in block.text),
    "# nothing\nmodules:\n    # four\n    a:\n        command: x\n        subscribes:\n        - b\n\n\n# the end\n",
    "modules:\n  a: {command: x, subscribes: [b]}\n\n  b:\n    command: x\n    subscribes: [c]\n# state\nstate: s\n",
    'modules:\n  a:\n    subscribes: [b]\n    command: |\n      x y\n      # no comment\n\nstate: "s"\n...\n',
    "modules:\r\n  a:\r\n    command: x\r\n    subscribes: [b]\r\nstate: s\r\n",
    "state: s",
    "modules:\n# later\nstate: s\n",
    "modules: # none yet\n",
]


def modules(text: str) -> dict[str, object]:
    found = parse(text.encode(), "ion.yaml", Problems()).at(("modules",))
    return dict(found.value or {}) if found is not None else {}


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_module_is_added_and_nothing_else_changes(text: str) -> None:
    made = with_module(text.encode(), "added", ENTRY, where="ion.yaml").decode()
    lines = iter(made.splitlines())
    assert all(line in lines for line in text.splitlines()), made  # each one, in their order
    assert [*modules(text), "added"] == list(modules(made))
    node = parse(made.encode(), "ion.yaml", Problems())
    for path, value in (("command", ["sh", "main.sh"]), ("subscribes", ["1.2"]), ("publishes", [])):
        found = node.at(("modules", "added", path))
        assert found is not None
        assert [item.value for item in found.value] == value
    assert made.endswith("\n")
    assert made.count("\r") in (0, made.count("\n"))


def test_modules_that_are_apart_stay_so_and_a_comment_stays_with_its_key() -> None:
    made = with_module(EXAMPLES[-6].encode(), "added", ENTRY, where="ion.yaml").decode()
    assert "[c]\n\n  added:\n" in made
    assert "publishes: []\n# state\nstate: s\n" in made


@pytest.mark.parametrize("empty", ["modules: {}", "modules: {} # none", "modules: null", "modules: ~"])
def test_an_empty_mapping_gives_way(empty: str) -> None:
    made = with_module(f"state: s\n{empty}\n".encode(), "added", ENTRY, where="ion.yaml").decode()
    assert list(modules(made)) == ["added"]
    assert ("# none" in made) == ("# none" in empty)


@pytest.mark.parametrize(
    "text",
    ["modules: {a: {command: x, subscribes: [b]}}", "modules:\n  {a: {command: x}}\n", "modules: [a]", "modules: x"],
)
def test_where_there_is_no_room_it_says_what_to_add(text: str) -> None:
    with pytest.raises(UsageError, match=r"^ion.yaml:1:1: modules: .*Add by hand: added: command: \[sh, main.sh\]"):
        with_module(text.encode(), "added", ENTRY, where="ion.yaml")


def test_a_name_that_is_taken_is_refused_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"^ion.yaml:11:3: modules.detect: is there already"):
        with_module(EXAMPLES[0].encode(), "detect", ENTRY, where="ion.yaml")


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^ion.yaml:1:5: is not YAML"):
        with_module(b"a: {", "added", ENTRY, where="ion.yaml")


def test_files_that_are_there_are_all_named_and_none_is_written(tmp_path: Path) -> None:
    for name in ("a", "d/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"^{tmp_path}/a, {tmp_path}/d/b: are there already"):
        write_new(tmp_path, {name: NewFile(b"yours") for name in ("a", "new", "d/b")})
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "a").read_text() == (tmp_path / "d/b").read_text() == "mine"


def test_a_link_to_nowhere_counts_as_there(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(UsageError, match="a: is there already"):
        write_new(tmp_path, {"a": NewFile(b"")})


def test_a_file_in_place_of_a_directory_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file")
    with pytest.raises((UsageError, TransientError), match="/d"):
        write_new(tmp_path, {"first": NewFile(b"1"), "d/x": NewFile(b"2")})
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_are_put_into_every_file(language: str) -> None:
    files = module_files(language, NAMES)
    assert {"modules/added/Containerfile", "cases/added/first/case.yaml"} <= files.keys()
    for name, file in files.items():
        assert b"@NAME@" not in file.content, name
        assert b"@PUBLISHES@" not in file.content, name
        assert b"@SUBSCRIBES@" not in file.content, name
    assert module_entry(language, NAMES)["publishes"] == ["d", "e"]


def test_the_command_line_offers_the_languages_there_are() -> None:
    assert module_init.LANGUAGES == LANGUAGES
