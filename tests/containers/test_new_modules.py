"""A module that `ion-core module init` wrote, in the image of its Containerfile, on a base that stands for Debian's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_podman.testing import BUSYBOX
from tests.support import commands
from tests.support.containers import RuntimeUnderTest

IMAGE = "localhost/boxed:latest"
LOOP = """\
set -eu
. ./ion_module.sh
while ion_next; do
    for path in $(ion_inputs); do
        name=${path##*/}
        cp "$path" "$(ion_output "$name")"
        ion_emit boxed.done "$name" bytes "$(wc -c <"$path" | tr -d ' ')"
    done
    ion_insight files 1
done
"""


def ion(home: Path, *arguments: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
    done = commands.run(*arguments, cwd=home, environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tested: RuntimeUnderTest, tmp_path: Path) -> Iterator[Path]:
    config = f"runtimes:\n  default: {tested.written()}\nmodules: {{}}\n"
    (tmp_path / "ion.yaml").write_text(config, encoding="utf-8")
    ion(tmp_path, "module", "init", "boxed", "--language", "sh")
    recipe = tmp_path / "modules/boxed/Containerfile"
    text = recipe.read_text(encoding="utf-8")
    assert "\nFROM docker.io/library/debian:bookworm-slim\n" in text
    recipe.write_text(text.replace("docker.io/library/debian:bookworm-slim", BUSYBOX), encoding="utf-8")
    yield tmp_path
    tested.images.podman("rmi", "--force", IMAGE)


def test_its_recorded_case_passes_in_its_image_and_beside_it(tested: RuntimeUnderTest, project: Path) -> None:
    tested.images.build(IMAGE, project / "modules/boxed")
    assert "ok: 1 module" in ion(project, "check")
    for runtime in (tested.provider, "process"):
        assert "\n1 passed in " in ion(project, "module", "test", "--runtime", runtime)


def test_a_loop_calls_its_handler_out_of_the_container(tested: RuntimeUnderTest, project: Path) -> None:
    (project / "modules/boxed/main.sh").write_text(LOOP, encoding="utf-8")
    tested.images.build(IMAGE, project / "modules/boxed")
    assert "\n1 passed in " in ion(project, "module", "test", "--runtime", tested.provider)
