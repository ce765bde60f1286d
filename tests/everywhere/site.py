"""What backends run against: real servers and images, each started once, when it is first asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from threading import RLock
from types import TracebackType

from ion_podman.testing import BUSYBOX, PodmanService, podman_service
from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import environment
from tests.containers.base_image import lay_out_libraries
from tests.containers.test_faces import lay_out
from tests.support.object_stores import ObjectStore, azurite_server, moto_server

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (ROOT / "tests/everywhere/modules", *(ROOT / "examples/faces/modules" / it for it in ("detect", "blur")))
CATALOGUE = ROOT / "examples/faces/modules/catalogue/catalogue.sh"
IMAGE = "localhost/ion-test/everywhere:latest"
APP = "/app"
"""Where programs of modules lie in an image."""


class Site:
    """Everything of it ends with the context. Threads ask it by turns: ``with site.one_at_a_time``."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.one_at_a_time = RLock()

    def __enter__(self) -> Site:
        # short, since sockets lie in it
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ion-site-")))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @cached_property
    def rabbit(self) -> RabbitServer:
        server = RabbitServer(self.directory / "rabbitmq")
        self._stack.callback(server.remove)
        server.start()
        return server

    @cached_property
    def s3(self) -> ObjectStore:
        return self._stack.enter_context(moto_server(self.directory / "moto.log"))

    @cached_property
    def azure(self) -> ObjectStore:
        return self._stack.enter_context(azurite_server(self.directory / "azurite.log"))

    @cached_property
    def podman(self) -> PodmanService:
        """With ``IMAGE``. What has its ``environ`` sees the same images."""
        service = self._stack.enter_context(podman_service(self.directory / "podman"))
        service.build_busybox()
        context = self.directory / "image"
        lay_out(context / "root")
        lay_out_perl(context / "root")
        lay_out_programs(context / "root" / APP.lstrip("/"))
        (context / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY root /\nWORKDIR {APP}\n", encoding="utf-8")
        service.build(IMAGE, context)
        shutil.rmtree(context)
        return service

    @cached_property
    def programs(self) -> Path:
        """A directory with the programs of all modules, for runtimes without images."""
        lay_out_programs(self.directory / "programs")
        return self.directory / "programs"

    @cached_property
    def shared(self) -> Path:
        """What pods may write to: stores in files."""
        made = self.directory / "shared"
        made.mkdir()
        return made

    @cached_property
    def kubeconfig(self) -> Path:
        """Of a stand-in for Kubernetes, a process of its own, whose pods see ``programs`` and ``shared``."""
        path = self.directory / "kubeconfig"
        command = [sys.executable, "-m", "tests.everywhere.cluster", str(self.directory / "pods"), str(self.programs)]
        process = self._stack.enter_context(
            subprocess.Popen(
                [*command, str(self.shared)],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self._stack.callback(process.kill)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, "the stand-in for Kubernetes has ended"
        path.write_text(json.loads(said)["kubeconfig"], encoding="utf-8")
        return path


def lay_out_perl(root: Path) -> None:
    """What the package perl-base has, which is on every Debian."""
    perl = Path(shutil.which("perl") or "/usr/bin/perl")
    assert perl.exists(), "no perl: apt-get install perl-base"
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy2(perl.resolve(), root / "usr/bin/perl")
    lay_out_libraries(root, perl.resolve())
    asked = subprocess.run([perl, "-e", r'print join "\n", @INC'], capture_output=True, text=True, check=True).stdout
    for place in map(Path, asked.split()):
        if place.name == "perl-base":
            shutil.copytree(place, root / str(place).lstrip("/"))


def lay_out_programs(directory: Path) -> None:
    for program in (CATALOGUE, *(it for place in PROGRAMS for it in place.iterdir() if it.suffix)):
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(program, directory)
