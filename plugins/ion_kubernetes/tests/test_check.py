"""``ion-core check`` of a pipeline that runs on Kubernetes, with no cluster anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOBODY = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}
STORES = {
    "documents": {"provider": "fsspec", "url": "s3://bucket/documents"},
    "blobs": {"provider": "fsspec", "url": "s3://bucket/files"},
}
MODULE = {"image": "registry.example/shout:1", "subscribes": ["asked"], "runtime": "cluster"}


def ion(*arguments: str, home: Path, config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (home / "ion.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")
    ours = ("ION_", "KUBE")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"HOME": str(home)}
    command = [str(Path(sys.executable).with_name("ion-core")), *arguments]
    return subprocess.run(command, cwd=home, env=environ, capture_output=True, text=True, timeout=60, check=False)


def check(home: Path, *, storage: dict[str, Any], module: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (home / "kubeconfig").write_text(json.dumps(NOBODY), encoding="utf-8")
    cluster = {"provider": "kubernetes", "handler_image": "registry.example/ion:1", "kubeconfig": "kubeconfig"}
    return ion(
        "check", home=home, config={"storage": storage, "runtimes": {"cluster": cluster}, "modules": {"shout": module}}
    )


def test_stores_of_one_machine_are_refused_with_place_reason_and_cure(tmp_path: Path) -> None:
    done = check(tmp_path, storage={"documents": {"provider": "sqlite"}, "blobs": STORES["blobs"]}, module=MODULE)
    assert done.returncode == 78
    [said] = done.stderr.splitlines()
    assert said.startswith("ion.yaml:3:3: storage.documents: sqlite keeps documents for this machine alone (")
    assert 'jobs of runtime "cluster" (kubernetes) run on other machines: they would not find them.' in said
    assert said.endswith("Keep documents where they reach them, such as in a bucket (provider: fsspec).")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"resources": {"pids": 9}}, "cannot give or limit pids"),
        ({"network": "host"}, 'no network "host", only none, bridge'),
        ({"reuse": True}, "a module cannot call its handler"),
        ({"warm": 1}, "makes no jobs ahead of their events"),
    ],
)
def test_what_pods_do_not_offer_is_refused(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    done = check(tmp_path, storage=STORES, module={**MODULE, **more})
    assert done.returncode == 78
    assert words in done.stderr


@pytest.mark.parametrize("command", ["check", "serve --until-idle", "kubernetes manifests"])
def test_a_writable_root_of_no_module_is_refused_with_the_nearest_name(command: str, tmp_path: Path) -> None:
    allow = {"writable_root": ["shuot"]}
    cluster = {"provider": "kubernetes", "handler_image": "registry.example/ion:1", "allow": allow}
    config = {"runtimes": {"cluster": cluster}, "modules": {"shout": MODULE}, "storage": STORES}
    done = ion(*command.split(), home=tmp_path, config=config)
    assert done.returncode == 78
    where = "ion.yaml:8:6: runtimes.cluster.allow.writable_root[0]"
    assert f'{where}: there is no module "shuot". Did you mean "shout"?' in done.stderr


def test_a_cluster_that_does_not_answer_is_told_as_not_checked(tmp_path: Path) -> None:
    done = check(tmp_path, storage=STORES, module=MODULE)
    assert done.returncode == 0, done.stderr
    assert "runtimes.cluster: not checked: kubernetes: GET /version: no whole answer from" in done.stdout


def test_where_nothing_says_where_the_cluster_is_the_rest_is_checked_and_serve_ends_with_78(tmp_path: Path) -> None:
    cluster = {"provider": "kubernetes", "handler_image": "registry.example/ion:1"}
    config = {"storage": STORES, "runtimes": {"cluster": cluster}, "modules": {"shout": MODULE}}
    checked = ion("check", home=tmp_path, config=config)
    assert checked.returncode == 0, checked.stderr
    assert "runtimes.cluster: not checked: kubernetes: nothing says where the API server is" in checked.stdout
    served = ion("serve", "--until-idle", home=tmp_path, config=config)
    assert served.returncode == 78, served.stderr
    assert "runtimes.cluster: kubernetes: nothing says where the API server is" in served.stderr


@pytest.mark.parametrize("command", ["serve --until-idle", "kubernetes manifests"])
def test_stores_of_one_machine_are_refused_before_the_cluster_is_asked(command: str, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(json.dumps(NOBODY), encoding="utf-8")
    cluster = {"provider": "kubernetes", "handler_image": "registry.example/ion:1", "kubeconfig": "kubeconfig"}
    config = {"runtimes": {"cluster": cluster}, "modules": {"shout": MODULE}, "storage": {"blobs": STORES["blobs"]}}
    done = ion(*command.split(), home=tmp_path, config=config)
    assert done.returncode == 78, done.stderr
    assert "storage.documents: sqlite keeps documents for this machine alone (" in done.stderr
    assert "GET /version" not in done.stderr
    assert done.stdout == ""
