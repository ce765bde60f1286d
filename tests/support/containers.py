"""Container runtimes as tests configure and open them, and one Podman with an image for all tests of a process."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from ion_core.contracts.runtime import ContainerRuntime
from ion_podman.testing import PodmanService

RUNTIMES = ("podman", "oci")
State = Literal["created", "running"]


@pytest.fixture(scope="session")
def images() -> Iterator[PodmanService]:
    """Podman with a storage of its own, and one image in it. Its service runs once somebody has asked for that."""
    with tempfile.TemporaryDirectory(prefix="ion-podman-") as directory:
        podman = PodmanService(Path(directory) / "podman")
        try:
            podman.make()
            podman.build_busybox()
            yield podman
        finally:
            podman.remove()


@pytest.fixture
def service(images: PodmanService) -> PodmanService:
    images.start()
    return images


class RuntimeUnderTest(ABC):
    """One of the runtimes, by the name of its ``provider``; what it runs is of ``images``."""

    provider: ClassVar[str]

    def __init__(self, images: PodmanService) -> None:
        self.images = images
        self._mounted_before = frozenset(self._mounted())

    @abstractmethod
    def settings(self, **changes: Any) -> Any:
        """Those that lead to its containers and images, and ``changes``."""

    @abstractmethod
    def open(self, **changes: Any) -> AbstractAsyncContextManager[ContainerRuntime]: ...

    @abstractmethod
    def containers(self) -> Sequence[str]:
        """Names of all there are, whatever their state and whoever made them."""

    @abstractmethod
    def ids(self) -> Sequence[str]:
        """Of the same."""

    @abstractmethod
    def in_state(self, state: State) -> Sequence[str]:
        """Ids of those in that state."""

    @abstractmethod
    def section(self, **changes: Any) -> dict[str, Any]:
        """What a configuration says of it, under ``runtimes``."""

    @abstractmethod
    def _mounted(self) -> Sequence[str]:
        """Where something is mounted for containers and images."""

    def mounts(self) -> Sequence[str]:
        """Where something is, but not what was when the test began: of builds cut short Podman keeps what it had."""
        return [it for it in self._mounted() if it not in self._mounted_before]

    def written(self, **changes: Any) -> str:
        """Its section as it may stand in YAML."""
        return json.dumps(self.section(**changes))


class PodmanUnderTest(RuntimeUnderTest):
    provider = "podman"

    def __init__(self, images: PodmanService) -> None:
        super().__init__(images)
        images.start()

    def section(self, **changes: Any) -> dict[str, Any]:
        return {"provider": self.provider, "url": self.images.url, **changes}

    def settings(self, **changes: Any) -> Any:
        from ion_podman.settings import PodmanSettings

        return PodmanSettings.model_validate({"url": self.images.url, **changes})

    def open(self, **changes: Any) -> AbstractAsyncContextManager[ContainerRuntime]:
        from ion_podman.runtime import open_podman_runtime

        return open_podman_runtime(self.settings(**changes))

    def containers(self) -> Sequence[str]:
        return self.images.containers()

    def ids(self) -> Sequence[str]:
        return self.images.podman("ps", "--all", "--no-trunc", "--format", "{{.ID}}").split()

    def _mounted(self) -> Sequence[str]:
        return [it for it in mounted_below(self.images.directory) if it.endswith(("/merged", "/shm"))]

    def in_state(self, state: State) -> Sequence[str]:
        word = {"created": "initialized", "running": "running"}[state]
        return self.images.podman("ps", "--all", "--filter", f"status={word}", "--format", "{{.ID}}").split()


class OciUnderTest(RuntimeUnderTest):
    provider = "oci"

    def __init__(self, images: PodmanService) -> None:
        self.directory = images.directory / "oci"
        """For the setting of that name."""
        super().__init__(images)

    def section(self, **changes: Any) -> dict[str, Any]:
        return {"provider": self.provider, "directory": str(self.directory), **changes}

    def settings(self, **changes: Any) -> Any:
        from ion_oci.settings import OciSettings

        return OciSettings.model_validate({"directory": str(self.directory), **changes})

    def open(self, **changes: Any) -> AbstractAsyncContextManager[ContainerRuntime]:
        from ion_oci.runtime import open_oci_runtime

        return open_oci_runtime(self.settings(**changes))

    def containers(self) -> Sequence[str]:
        place = self.directory / "containers"
        return sorted(path.name for path in place.iterdir()) if place.exists() else []

    def ids(self) -> Sequence[str]:
        records = (self.directory / "containers" / name / "ion.json" for name in self.containers())
        return [json.loads(path.read_text(encoding="utf-8"))["id"] for path in records]

    def _mounted(self) -> Sequence[str]:
        images = [it for it in mounted_below(self.images.directory / "images") if it.endswith("/merged")]
        return [*mounted_below(self.directory), *images]

    def in_state(self, state: State) -> Sequence[str]:
        command = ["runc", f"--root={self.directory / 'state'}", "list", "--format", "json"]
        said = subprocess.check_output(command, env={"PATH": f"{os.environ['PATH']}:/usr/sbin"})
        return [it["id"] for it in json.loads(said) or () if it["status"] == state]


def under_test(provider: str, images: PodmanService, monkeypatch: pytest.MonkeyPatch) -> RuntimeUnderTest:
    """That runtime; whatever is run from now on finds those images."""
    for name, value in images.environ.items():
        monkeypatch.setenv(name, value)
    (found,) = (it for it in (PodmanUnderTest, OciUnderTest) if it.provider == provider)
    return found(images)


def mounted_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [place for place in (line.split()[1] for line in lines) if place.startswith(f"{directory}/")]


def holders(word: str) -> list[int]:
    """Processes of conmon with that word, such as a container's name, in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"conmon") and word.encode() in words:
            found.append(int(path.parent.name))
    return found


def control_groups(id: str) -> list[Path]:
    """Those of the container with that id."""
    return [*Path("/sys/fs/cgroup").glob(f"*/*{id}*"), *Path("/sys/fs/cgroup").glob(f"*/*/*{id}*")]
