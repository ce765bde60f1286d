"""The example in containers. Its base image is made of this machine's Python: no registry is needed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_podman.testing import BUSYBOX, PodmanService
from plugins.ion_podman.tests.base_image import lay_out_libraries, lay_out_python, link

FACES = Path(__file__).resolve().parents[3] / "examples/faces"
DEBIAN = "docker.io/library/debian:bookworm-slim"
PACKAGES = ("cv2", "numpy", "numpy.libs", "opencv_python_headless.libs")


def lay_out(root: Path) -> None:
    """Python, its library and OpenCV below ``root``, as an image has them."""
    installed = lay_out_python(root)
    cv2 = importlib.util.find_spec("cv2")
    assert cv2 is not None
    assert cv2.origin is not None
    packages = Path(cv2.origin).parents[1]
    for name in PACKAGES:
        if (packages / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(packages / name, installed / name, ignore=ignored, copy_function=link)
    lay_out_libraries(root, *(packages / "cv2").glob("*.so"), besides=packages)


@pytest.fixture(scope="module")
def bases(service: PodmanService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the example's images begin with, or stands for it."""
    context = tmp_path_factory.mktemp("base")
    lay_out(context / "root")
    (context / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY root /\n", encoding="utf-8")
    service.build("localhost/ion-faces/base:latest", context)
    shutil.rmtree(context)
    service.podman("tag", BUSYBOX, DEBIAN)
    yield
    service.podman("untag", BUSYBOX, DEBIAN)
    service.podman("rmi", "--force", *(name for name in names(service) if "/ion/" in name or "/ion-faces/" in name))


def names(service: PodmanService) -> set[str]:
    return set(service.podman("images", "--format", "{{.Repository}}:{{.Tag}}").split())


@pytest.mark.usefixtures("bases")
def test_the_example_runs_in_containers_and_leaves_none(service: PodmanService, tmp_path: Path) -> None:
    home = tmp_path / "faces"
    shutil.copytree(FACES, home, ignore=shutil.ignore_patterns(".ion*"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
    environ |= {"ION_RUNTIMES__DEFAULT__PROVIDER": "podman", "ION_RUNTIMES__DEFAULT__URL": service.url}
    done = subprocess.run(
        [sys.executable, str(home / "demo.py")], env=environ, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "As expected" in done.stdout
    assert "isolates nothing" not in done.stderr
    assert service.containers() == []
    built = {name.partition(":")[0] for name in names(service)}
    assert built >= {f"localhost/ion/{module}" for module in ("detect", "blur", "catalogue")}


OLD = FACES.parents[1] / "tests/predecessor/modules/old_module.py"


@pytest.mark.usefixtures("bases")
def test_a_module_of_2018_runs_unchanged_without_a_network(service: PodmanService, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    shutil.copy(OLD, image)
    (image / "Containerfile").write_text(
        'FROM localhost/ion-faces/base:latest\nCOPY old_module.py /\nCMD ["python3", "/old_module.py"]\n',
        encoding="utf-8",
    )
    service.build("localhost/ion-test/old:latest", image)
    module = {"image": "localhost/ion-test/old:latest", "subscribes": ["asked"], "publishes": ["files.listed"]}
    config = {
        "runtimes": {"default": {"provider": "podman", "url": service.url}},
        "modules": {"old": {**module, "network": "none"}},
    }
    (tmp_path / "ion.yaml").write_text(json.dumps(config), encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
    ion = str(Path(sys.executable).with_name("ion-core"))
    flow = ""
    for arguments in (("event", "publish", "asked", "--json", "--file", "ion.yaml"), ("serve", "--until-idle")):
        done = subprocess.run(
            [ion, *arguments], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        flow = flow or json.loads(done.stdout)["context"]["correlationId"]
    shown = subprocess.check_output([ion, "trace", "flow", flow, "--json"], cwd=tmp_path, env=environ, text=True)
    documents = {document["context"]["documentType"]: document for document in json.loads(shown)}
    assert "done 1 files" in documents["modulelogs"]["logs"]
    assert service.containers() == []
    service.podman("rmi", "--force", "localhost/ion-test/old:latest")
