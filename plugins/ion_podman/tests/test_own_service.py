"""The service of the tests touches nothing that it did not make, whatever Podman makes of what it was told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ion_podman.testing import PodmanService, podman_service

# An ordinary user's Podman: its storage is the user's own, whatever a storage.conf says.
_PODMAN = """#!/bin/sh
echo "$*" >> {called}
case $1 in
info) echo {storage} ;;
ps) echo '[]' ;;
esac
"""


class Recorded:
    """A ``podman`` command that keeps to ``storage`` and notes how it was called."""

    def __init__(self, directory: Path, storage: Path) -> None:
        self._called = directory / "called"
        program = directory / "bin/podman"
        program.parent.mkdir()
        program.write_text(_PODMAN.format(called=self._called, storage=storage), encoding="utf-8")
        program.chmod(0o755)
        self.path = str(program.parent)

    def calls(self) -> list[str]:
        return [line.split()[0] for line in self._called.read_text(encoding="utf-8").splitlines()]


def test_a_storage_that_is_not_its_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(tmp_path, tmp_path / "home/.local/share/containers/storage")
    monkeypatch.setenv("PATH", f"{recorded.path}:/usr/bin:/bin")
    with pytest.raises(RuntimeError, match="somebody else's"), podman_service(tmp_path / "podman"):
        raise AssertionError("it started")
    assert set(recorded.calls()) == {"info"}, "nothing was removed, and no service started"
    assert not (tmp_path / "podman").exists()


def test_a_storage_that_became_another_is_not_emptied(
    service: PodmanService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(tmp_path, tmp_path / "elsewhere")
    removed = PodmanService(tmp_path / "podman")
    removed.start()
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{recorded.path}:/usr/bin:/bin")
        with pytest.raises(RuntimeError, match="somebody else's"):
            removed.remove()
    assert "rm" not in recorded.calls()
    assert not (tmp_path / "podman").exists(), "its own files are gone all the same"


def test_a_directory_with_files_of_others_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="is not empty"), podman_service(tmp_path):
        raise AssertionError("it started")
    assert (tmp_path / "thesis").read_text(encoding="utf-8") == "years of work\n"


def test_its_containers_and_images_are_its_own(service: PodmanService) -> None:
    store = json.loads(service.podman("info", "--format", "json"))["store"]
    assert Path(store["graphRoot"]).is_relative_to(service.directory)


def test_what_podman_has_forgotten_ends_with_it(tmp_path: Path) -> None:
    """As where the service was killed while it made a container, whose processes then run and are nobody's."""
    with podman_service(tmp_path / "podman") as forgetful:
        image = forgetful.build_busybox()
        forgetful.podman("run", "--detach", image, "sleep", "600")
        forgetful.podman("init", forgetful.podman("create", image, "sleep", "600").strip())
        conmons = of_conmon(forgetful.directory)
        children = [pid for it in conmons for pid in Path(f"/proc/{it}/task/{it}/children").read_text().split()]
        assert (len(conmons), len(children)) == (2, 2)
        forgetful.kill()
        known = (forgetful.directory / "images" / name for name in ("libpod/bolt_state.db", "db.sql"))  # 4 and 5
        next(filter(Path.exists, known)).rename(tmp_path / "forgotten")
        forgetful.start()
        assert forgetful.containers() == []
    assert of_conmon(forgetful.directory) == []
    assert [pid for pid in children if runs(pid)] == []


def of_conmon(directory: Path) -> list[str]:
    found = subprocess.run(
        ["pgrep", "-f", f"^/[^ ]*conmon .*{directory}/"], capture_output=True, text=True, check=False
    )
    return [pid for pid in found.stdout.split() if runs(pid)]


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
