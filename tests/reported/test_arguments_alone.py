"""``args`` of a module: arguments behind its command, or alone for the program of its image."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core.config import check_runtimes, load_config
from ion_core.embedded.programs.start import CAPABILITIES
from ion_core.errors import ConfigError
from tests.support.worlds import World, exits


def written(tmp_path: Path, module: str) -> Path:
    path = tmp_path / "ion.yaml"
    path.write_text(f"modules: {{m: {{{module}, subscribes: [a]}}}}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("image: x, args: [--size, 3, '']", ("--size", "3", "")),
        ("image: x, args: --name 'two words'", ("--name", "two words")),
        ("image: x, args: []", ()),
        ("image: x", ()),
    ],
)
def test_arguments_are_a_list_or_one_text(tmp_path: Path, given: str, expected: tuple[str, ...]) -> None:
    assert load_config(written(tmp_path, given)).modules["m"].args == expected


def test_arguments_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"modules\.m\.args: cannot be split into arguments"):
        load_config(written(tmp_path, '''image: x, args: "a 'b"'''))
    with pytest.raises(ConfigError, match=r"modules\.m\.args\[0\]: must not contain a NUL"):
        load_config(written(tmp_path, r'image: x, args: ["a\0b"]'))


def test_arguments_alone_need_an_image_to_be_for(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "image: x, args: [a]"))
    (finding,) = check_runtimes(config, {"default": CAPABILITIES})
    assert "command is required" in str(finding)


async def test_a_module_is_given_its_arguments(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(exits(0), command=("exit",), args=("7",))
    event = await world.publish()
    await world.run()
    assert world.log_of(event)["reason"] == "exit code 7"
