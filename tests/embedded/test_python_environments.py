"""Which Python a module finds: one of its own with what its requirements say, never Ion's by accident."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ion_core.contracts.runtime import ContainerRuntime, ContainerSpec, PythonEnvironment
from ion_core.embedded.process.runtime import open_process_runtime
from ion_core.embedded.settings import ProcessSettings
from ion_core.errors import PermanentError, TransientError
from ion_core.python_environments import Environments, Unused, look, remove_unused, search_path
from ion_core.python_environments.making import _in_short
from tests.support.wheels import make_requirements, make_wheel

SOON = 60.0
MAKING = "making a Python environment"


@pytest.fixture(params=["none", "bubblewrap"])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ContainerRuntime]:
    async with opened(tmp_path, request.param) as made:
        yield made


@asynccontextmanager
async def opened(tmp_path: Path, isolation: str = "none") -> AsyncIterator[ContainerRuntime]:
    given = {"path": tmp_path / "run", "environments": tmp_path / "python", "isolation": isolation}
    async with open_process_runtime(ProcessSettings.model_validate(given)) as runtime:
        yield runtime


@pytest.fixture(params=["pip", "uv"])
def installer(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one that is found on the PATH, or there is no uv there."""
    name: str = request.param
    if name == "uv":
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/uv").symlink_to(Path(sysconfig.get_path("scripts"), "uv"))
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    else:
        which = shutil.which
        monkeypatch.setattr(
            shutil, "which", lambda program, **more: None if program == "uv" else which(program, **more)
        )
    assert bool(shutil.which("uv")) == (name == "uv")
    return name


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    make_wheel(tmp_path / "wheels", "greeting", says="from its own package")
    return tmp_path / "wheels"


@pytest.fixture
def requirements(tmp_path: Path, wheels: Path) -> Path:
    return make_requirements(tmp_path / "module", "greeting", wheels=wheels)


@pytest.fixture
def environments(tmp_path: Path) -> Iterator[Environments]:
    made = Environments(tmp_path / "python", timeout=SOON)
    yield made
    made.close()


async def run(runtime: ContainerRuntime, tmp_path: Path, *command: str, **changes: Any) -> tuple[int, str]:
    """Its exit code, and what it printed."""
    workspace = tmp_path / "workspace"
    for directory in ("in/data", "out/data", "out/events"):
        (workspace / directory).mkdir(parents=True, exist_ok=True)
    async with asyncio.timeout(SOON):
        ref = await runtime.create(ContainerSpec(name="c", command=command, workspace=workspace, **changes))
        await runtime.start(ref)
        status = await runtime.wait(ref)
        lines = [line.text async for line in runtime.logs(ref)]
        await runtime.remove(ref)
    return status.code, "\n".join(lines)


def own(requirements: Path | None) -> PythonEnvironment:
    return PythonEnvironment(requirements=requirements)


@pytest.mark.usefixtures("installer")
async def test_a_module_finds_the_packages_of_its_requirements_and_none_of_ions(
    runtime: ContainerRuntime, tmp_path: Path, requirements: Path
) -> None:
    says = "import greeting, sys; print(greeting.say(), sys.prefix)"
    prefix = look(tmp_path / "python", requirements).path
    assert await run(runtime, tmp_path, "python3", "-c", says, python=own(requirements)) == (
        0,
        f"from its own package {prefix}",
    )
    assert await run(runtime, tmp_path, "greeting", python=own(requirements)) == (0, "from its own package")
    # What a script calls is the same one.
    assert await run(runtime, tmp_path, "sh", "-c", f"python3 -c '{says}'", python=own(requirements)) == (
        0,
        f"from its own package {prefix}",
    )
    code, said = await run(runtime, tmp_path, "python3", "-c", "import pluggy", python=own(requirements))
    assert (code, said.splitlines()[-1]) == (1, "ModuleNotFoundError: No module named 'pluggy'")


async def test_in_bubblewrap_it_may_only_be_read(tmp_path: Path, requirements: Path) -> None:
    async with opened(tmp_path, "bubblewrap") as runtime:
        code, said = await run(runtime, tmp_path, "sh", "-c", ': > "$VIRTUAL_ENV/x"', python=own(requirements))
    assert code != 0
    assert "Read-only file system" in said
    assert not (look(tmp_path / "python", requirements).path / "x").exists()


async def test_without_requirements_python3_has_nothing_of_ions_unless_that_is_asked_for(
    runtime: ContainerRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys; print(sys.prefix)"
    assert sys.prefix != sys.base_prefix, "the tests run in an environment, as Ion does"
    for path in (os.environ["PATH"], f"{Path(sys.executable).parent}:{os.environ['PATH']}", "/usr/bin:/bin"):
        monkeypatch.setenv("PATH", path)
        for command in (("python3", "-c", script), ("sh", "-c", f"python3 -c '{script}'")):
            code, said = await run(runtime, tmp_path, *command)
            assert code == 0, said
            assert said != sys.prefix
    asked = PythonEnvironment(ion=True)
    script = "import pluggy, sys; print(sys.prefix)"
    assert await run(runtime, tmp_path, "python3", "-c", script, python=asked) == (0, sys.prefix)


def test_the_path_is_the_users_own_without_the_environment_of_ion(tmp_path: Path) -> None:
    ours, base = Path(sys.executable).parent, Path(sys.base_prefix, "bin")
    link = tmp_path / "link"
    link.symlink_to(ours)
    assert search_path({"PATH": f"{ours}:/opt/bin:{link}:{base}"}) == f"/opt/bin:{base}"
    assert search_path({"PATH": f"{ours}:/opt/bin"}) == f"{base}:/opt/bin"
    assert search_path({"PATH": "/opt/bin"}, environment=tmp_path) == f"{tmp_path}/bin:/opt/bin"


@pytest.mark.usefixtures("installer")
async def test_many_that_start_at_once_have_it_made_once(
    tmp_path: Path, requirements: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    several = [Environments(tmp_path / "python", timeout=SOON) for _ in range(3)]  # locks as of three processes
    try:
        paths = await asyncio.gather(*(one.get(requirements) for one in several for _ in range(4)))
    finally:
        for one in several:
            one.close()
    assert set(paths) == {look(tmp_path / "python", requirements).path}
    assert [record.message for record in caplog.records].count(MAKING) == 1


async def test_other_requirements_are_another_environment(
    tmp_path: Path, requirements: Path, wheels: Path, environments: Environments
) -> None:
    first = await environments.get(requirements)
    make_requirements(requirements.parent, "greeting  # a comment changes nothing", "", wheels=wheels)
    assert await environments.get(requirements) == first
    make_wheel(wheels, "farewell", says="goodbye")
    make_requirements(requirements.parent, "greeting", "farewell", wheels=wheels)
    second = await environments.get(requirements)
    assert second != first
    assert (second / "bin/farewell").exists()
    assert not (first / "bin/farewell").exists()


def test_what_requirements_name_counts_as_their_content(tmp_path: Path) -> None:
    def key() -> str:
        return look(tmp_path, file).path.name

    file = tmp_path / "requirements.txt"
    more = tmp_path / "more.txt"
    more.write_text("one\n")
    file.write_text("-r more.txt\n./local-1.0-py3-none-any.whl\n")
    wheel = make_wheel(tmp_path, "local", says="one")
    keys = [key()]
    more.write_text("two\n")
    keys.append(key())
    make_wheel(tmp_path, "local", says="two")
    keys.append(key())
    package = tmp_path / "package"
    package.mkdir()
    file.write_text(f"-rmore.txt\nlocal @ file://{wheel}\n-e ./package\n")
    keys.append(key())
    make_wheel(tmp_path, "local", says="three")
    keys.append(key())
    (package / "pyproject.toml").write_text("")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


async def test_what_cannot_be_installed_is_an_error_with_the_installers_words_and_not_tried_again_at_once(
    tmp_path: Path, wheels: Path, environments: Environments, caplog: pytest.LogCaptureFixture, installer: str
) -> None:
    caplog.set_level(logging.INFO)
    file = make_requirements(tmp_path / "module", "greeting", "nowhere==7", wheels=wheels)
    for _ in range(3):
        with pytest.raises(PermanentError) as caught:
            await environments.get(file)
        begin, end = "requirements cannot be installed: ", f" Mend {file}, or make the package available."
        assert str(caught.value).startswith(begin)
        assert str(caught.value).endswith(end)
        assert "nowhere" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "redrive" not in str(caught.value)
        assert re.fullmatch(f"{installer} said of {re.escape(str(file))}:", caught.value.said[0])
        assert "nowhere" in "".join(caught.value.said[1:])
    assert [record.message for record in caplog.records].count(MAKING) == 1
    assert not look(tmp_path / "python", file).path.exists()
    make_requirements(tmp_path / "module", "greeting", wheels=wheels)
    assert (await environments.get(file) / "bin/greeting").exists()


@pytest.mark.parametrize("columns", ["20", "80"])
@pytest.mark.usefixtures("installer")
async def test_what_is_wrong_is_said_whole_however_narrow_somebodys_terminal_is(
    tmp_path: Path, wheels: Path, environments: Environments, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    file = make_requirements(tmp_path / "module", "nowhere==7", wheels=wheels)
    with pytest.raises(PermanentError, match=r"nowhere==7.*\. Mend "):
        await environments.get(file)


@pytest.mark.parametrize(
    ("lines", "short"),
    [
        (["WARNING: x", "ERROR: Could not find a", "ERROR: No matching distribution found for a==9"], "No matching "
         "distribution found for a==9"),
        (["Using Python 3.11.7", "error: No solution found", "cause: Because a was not found."],
         "No solution found: Because a was not found."),
        (["  × No solution found when resolving dependencies:", "  ╰─▶ Because a was not found in the package",
          "      registry, your requirements are unsatisfiable."],
         "No solution found when resolving dependencies: Because a was not found in the package registry, your "
         "requirements are unsatisfiable."),
        (["error: Failed to fetch: `http://x`", "  Caused by: connection refused", "  Caused by: os error 111"],
         "Failed to fetch: `http://x`: connection refused: os error 111"),
        (["Segmentation fault"], "Segmentation fault"),
        (["ERROR: " + "x" * 1000], "x" * 299 + "…"),
        ([], ""),
    ],
)  # fmt: skip
def test_what_installers_say_is_one_line_in_short(lines: list[str], short: str) -> None:
    assert _in_short(lines) == short


async def test_an_installer_that_takes_too_long_is_ended_and_another_begins_anew(
    tmp_path: Path, requirements: Path
) -> None:
    hurried = Environments(tmp_path / "python", timeout=0.001)
    with pytest.raises(TransientError, match="Set install_timeout"):
        await hurried.get(requirements)
    hurried.close()
    assert not look(tmp_path / "python", requirements).made
    patient = Environments(tmp_path / "python", timeout=SOON)
    assert (await patient.get(requirements) / "bin/greeting").exists()
    patient.close()


async def test_one_that_was_never_finished_or_was_moved_is_made_anew(
    tmp_path: Path, requirements: Path, environments: Environments
) -> None:
    path = await environments.get(requirements)
    (path / "bin/greeting").unlink()
    (path / "ion-environment.json").unlink()
    assert await environments.get(requirements) == path
    assert (path / "bin/greeting").exists()
    environments.close()
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "python", moved)
    assert not look(moved, requirements).made


async def test_gc_removes_what_no_module_wants_and_nobody_uses(
    tmp_path: Path, requirements: Path, environments: Environments
) -> None:
    directory = tmp_path / "python"
    path = await environments.get(requirements)
    later = time.time() + 3600
    os.utime(path.with_name(f"{path.name}.lock"), (0, 0))
    assert remove_unused(directory, (), before=later) == Unused()  # it is in use
    environments.close()
    assert remove_unused(directory, {path}, before=later) == Unused()  # a module asks for it
    assert remove_unused(directory, (), before=-1) == Unused()  # it was used since
    would = remove_unused(directory, (), before=later, dry_run=True)
    assert would.environments == 1
    assert would.size > 0
    assert path.is_dir()
    assert remove_unused(directory, (), before=later) == would
    assert list(directory.iterdir()) == []
    assert remove_unused(directory, (), before=later) == Unused()
    # Whoever comes then makes it again.
    assert await environments.get(requirements) == path
    assert path.is_dir()


@pytest.mark.usefixtures("installer")
async def test_requirements_that_install_nothing_need_no_installer(
    tmp_path: Path, environments: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# nothing yet\n")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("UV_INDEX_URL", "http://127.0.0.1:9/")
    path = await environments.get(file)
    assert (path / "bin/python3").exists()


async def test_requirements_that_are_gone_are_an_error(tmp_path: Path, environments: Environments) -> None:
    with pytest.raises(PermanentError, match=r"gone.txt: cannot be read: No such file"):
        await environments.get(tmp_path / "gone.txt")


async def test_credentials_in_a_line_that_cannot_be_read_are_in_no_error(
    tmp_path: Path, environments: Environments
) -> None:
    file = tmp_path / "wrong.txt"
    file.write_text("x @@ https://user:very-secret@localhost/x.whl\n")
    with pytest.raises(PermanentError, match=r"https:/+\*\*\*\*@localhost") as refused:
        await environments.get(file)
    assert "very-secret" not in "\n".join((str(refused.value), *refused.value.said))
