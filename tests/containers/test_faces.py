"""The example in containers. Its base image is made of this machine's Python: no registry is needed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ion_podman.testing import BUSYBOX, PodmanService
from tests.containers.base_image import lay_out_libraries, lay_out_python, link
from tests.support.containers import RUNTIMES, RuntimeUnderTest, under_test

FACES = Path(__file__).resolve().parents[2] / "examples/faces"
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
def bases(images: PodmanService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the example's images begin with, or stands for it."""
    context = tmp_path_factory.mktemp("base")
    lay_out(context / "root")
    (context / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY root /\n", encoding="utf-8")
    images.build("localhost/ion-faces/base:latest", context)
    shutil.rmtree(context)
    images.podman("tag", BUSYBOX, DEBIAN)
    yield
    images.podman("untag", BUSYBOX, DEBIAN)
    images.podman("rmi", "--force", *(name for name in names(images) if "/ion/" in name or "/ion-faces/" in name))


def names(images: PodmanService) -> set[str]:
    return set(images.podman("images", "--format", "{{.Repository}}:{{.Tag}}").split())


DOCUMENTS = {"astronaut.jpg": 11, "cat.jpg": 4, "collage.jpg": 25}
_CHANGES = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # ids
    r"|(?<=:1-)[0-9a-f]{12}|(?<=/1-)[0-9a-f]{12}"  # tokens of attempts
)
_DIFFERS = {"startedAt", "finishedAt", "committedAt", "publishedAt", "seconds", "token", "image"}
"""Each runtime builds images of its own."""


def traces(home: Path, environ: Mapping[str, str]) -> Mapping[str, list[str]]:
    """The documents of each photograph's flow, without what differs between any two runs."""
    ion = [str(Path(sys.executable).with_name("ion-core"))]
    place = ["--config", str(home / "ion.yaml"), "--state-dir", str(home / ".ion-demo"), "--json"]

    def asked(*arguments: str) -> Any:
        return json.loads(subprocess.check_output([*ion, *arguments, *place], env=environ, text=True, timeout=60))

    found = {}
    for flow in asked("trace", "list"):
        documents = asked("trace", "flow", flow["correlationId"])
        kept = ({name: value for name, value in it.items() if name not in _DIFFERS} for it in documents)
        told = sorted(_CHANGES.sub("…", json.dumps(it, sort_keys=True)) for it in kept)
        (photo,) = (it["files"][0] for it in documents if it.get("type") == "photo.received")
        found[photo] = told
    return found


@pytest.mark.usefixtures("bases")
@pytest.mark.timeout(500)  # two demos of processes by the dozen
def test_the_example_gives_the_same_traces_in_containers_of_every_runtime_and_leaves_none(
    images: PodmanService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for provider in RUNTIMES:
        tested = under_test(provider, images, monkeypatch)
        home = tmp_path / provider / "faces"
        shutil.copytree(FACES, home, ignore=shutil.ignore_patterns(".ion*"))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ION_")}
        environ |= {f"ION_RUNTIMES__DEFAULT__{name.upper()}": value for name, value in tested.section().items()}
        demo = [sys.executable, str(home / "demo.py")]
        done = subprocess.run(demo, env=environ, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "As expected" in done.stdout
        assert "isolates nothing" not in done.stderr
        assert tested.containers() == []
        built = {name.partition(":")[0] for name in names(images)}
        assert built >= {f"localhost/ion/{module}" for module in ("detect", "blur", "catalogue")}
        seen.append(traces(home, environ))
    podman, oci = seen
    assert {photo: len(documents) for photo, documents in podman.items()} == DOCUMENTS
    for photo, documents in podman.items():
        assert [pair for pair in zip(documents, oci[photo], strict=True) if pair[0] != pair[1]] == [], photo


OLD = FACES.parents[1] / "tests/predecessor/modules/old_module.py"


@pytest.mark.usefixtures("bases")
def test_a_module_of_2018_runs_unchanged_without_a_network(tested: RuntimeUnderTest, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    shutil.copy(OLD, image)
    (image / "Containerfile").write_text(
        'FROM localhost/ion-faces/base:latest\nCOPY old_module.py /\nCMD ["python3", "/old_module.py"]\n',
        encoding="utf-8",
    )
    tested.images.build("localhost/ion-test/old:latest", image)
    module = {"image": "localhost/ion-test/old:latest", "subscribes": ["asked"], "publishes": ["files.listed"]}
    config = {
        "runtimes": {"default": tested.section()},
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
    assert tested.containers() == []
    tested.images.podman("rmi", "--force", "localhost/ion-test/old:latest")
