"""``deploy/Containerfile``: built, and run as pods run it. Its base is made of this machine's Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import uuid
import venv
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ion_core.contracts.executor import Ticket
from ion_podman.testing import BUSYBOX, PodmanService
from tests.containers.base_image import lay_out_libraries, lay_out_python

CHECKOUT = Path(__file__).resolve().parents[3]
BASE, IMAGE = "localhost/ion-test/python:latest", "localhost/ion-test/ion:latest"
PLUGINS = ["./plugins/ion_kubernetes", "./plugins/ion_rabbitmq", "./plugins/ion_fsspec_storage"]
"""Without the client of S3, which alone has 2,000 files."""
AS_IN_A_POD = [
    "--read-only",
    "--tmpfs",
    "/tmp:mode=1777",
    "--cap-drop=all",
    "--network=none",
    "--security-opt=no-new-privileges",
]

pytestmark = pytest.mark.timeout(400)  # one image, built once


def wheels_of(installed: Sequence[metadata.Distribution], directory: Path) -> Path:
    """What the image installs, packed up again from this environment, and what builds our own in it, from an index."""
    wheels = directory / "wheels"
    wheels.mkdir()
    for distribution in installed:
        pack(distribution, wheels)
    venv.create(directory / "env", with_pip=True)
    pip = [str(directory / "env/bin/python"), "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels)]
    command = [*pip, "hatchling", "uv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return wheels


def needed(*names: str) -> list[metadata.Distribution]:
    """All that these take, directly or not, but for what is ours."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(name.replace("_", "-")) for name in names]
    seen: set[str] = set()
    while waiting:
        asked = waiting.pop()
        if str(asked) in seen:
            continue
        seen.add(str(asked))
        distribution = metadata.distribution(asked.name)
        found[canonicalize_name(asked.name)] = distribution
        for line in distribution.requires or ():
            below = Requirement(line)
            if below.marker is None or any(below.marker.evaluate({"extra": it}) for it in ("", *asked.extras)):
                waiting.append(below)
    return [it for name, it in found.items() if not name.startswith("ion-")]


def pack(distribution: metadata.Distribution, directory: Path) -> None:
    """A wheel of what is installed, without its programs, which nothing here calls."""
    tags = [it.split("-") for it in re.findall(r"^Tag: (.+)$", distribution.read_text("WHEEL") or "", re.M)]
    tag = "-".join(".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))
    name = f"{re.sub('[-_.]+', '_', distribution.name)}-{distribution.version}"
    files = [it for it in distribution.files or () if it.parts[0] != ".." and "__pycache__" not in it.parts]
    with zipfile.ZipFile(directory / f"{name}-{tag}.whl", "w") as wheel:
        for file in files:
            if file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                wheel.write(str(file.locate()), str(file))
        [record] = [it for it in files if it.name == "RECORD"]
        wheel.writestr(str(record), "".join(f"{it},,\n" for it in wheel.namelist()))


@pytest.fixture(scope="module")
def image(images: PodmanService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    context = tmp_path_factory.mktemp("base")
    installed = needed("ion-core", *(name.rpartition("/")[2] for name in PLUGINS))
    lay_out_python(context / "root")
    (context / "root/tmp").mkdir()
    (context / "root/tmp").chmod(0o1777)
    compiled = [Path(str(it.locate())) for one in installed for it in one.files or () if it.name.endswith(".so")]
    lay_out_libraries(context / "root", *compiled, besides=Path(sys.prefix))
    (context / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY root /\n", encoding="utf-8")
    images.build(BASE, context)
    shutil.rmtree(context)
    wheels = wheels_of(installed, tmp_path_factory.mktemp("wheels"))
    options = ["--build-arg", f"BASE={BASE}", "--build-arg", "OPTIONS=--no-index --find-links=/wheels"]
    options += ["--build-arg", "UV_COMPILE_BYTECODE=0", "--build-arg", f"PLUGINS={' '.join(PLUGINS)}"]
    options += ["--volume", f"{wheels}:/wheels:ro", "--network=none", "--pull=never"]
    file = str(CHECKOUT / "deploy/Containerfile")
    images.podman("build", "--quiet", *options, "--file", file, "--tag", IMAGE, str(CHECKOUT))
    yield IMAGE
    images.podman("rmi", "--force", IMAGE, BASE)


def run(
    service: PodmanService, image: str, *command: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", "run", "--rm", *AS_IN_A_POD, *options, image, *command],
        env=service.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_runs_as_nobody_in_particular_and_writes_to_tmp_alone(service: PodmanService, image: str) -> None:
    [told] = json.loads(service.podman("image", "inspect", image))
    assert told["Config"]["User"] == "65532:65532"
    wrote = run(service, image, "sh", "-c", "id -u; touch /tmp/a && echo there; touch /opt/ion/a || echo not there")
    assert wrote.stdout.splitlines() == ["65532", "there", "not there"]


def test_it_has_the_providers_of_a_cluster_of_this_version(service: PodmanService, image: str) -> None:
    version = subprocess.check_output([sys.executable, "-m", "ion_core", "version"], text=True)
    assert run(service, image, "ion-core", "version").stdout == version
    listed = run(service, image, "ion-core", "plugins", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert {"kubernetes", "rabbitmq", "fsspec"} <= {word for it in json.loads(listed.stdout) for word in words(it)}


def words(value: object) -> Iterator[str]:
    if isinstance(value, dict | list):
        for it in value.values() if isinstance(value, dict) else value:
            yield from words(it)
    elif isinstance(value, str):
        yield from value.replace(",", " ").split()


def test_it_prepares_as_a_pods_first_container_does(service: PodmanService, image: str, tmp_path: Path) -> None:
    """With a ticket for an event that no store has, which is told by the exit code and the result."""
    config = {
        "version": 1,
        "state": "/tmp/state",
        "plugins": [],
        "storage": {"documents": {"provider": "memory"}, "blobs": {"provider": "memory"}},
        "modules": {"shout": {"command": ["true"], "subscribes": ["asked"]}},
    }
    ids = {name: str(uuid.uuid4()) for name in ("event_id", "correlation_id", "token")}
    (tmp_path / "ion.yaml").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "ticket").write_bytes(Ticket(module="shout", attempt=1, **ids).encode())
    tmp_path.chmod(0o755)  # it is not the user of the image who made them
    command = ["ion-core", "handler", "prepare", "--config", "/settings/ion.yaml", "--ticket", "/settings/ticket"]
    mounts = ("--volume", f"{tmp_path}:/settings:ro", "--tmpfs", "/ion:mode=1777")
    done = run(service, image, *command, "--result", "/ion/result", "--basedir", "/ion", options=mounts)
    assert done.returncode == 66, done.stderr
