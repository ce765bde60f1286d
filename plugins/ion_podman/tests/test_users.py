"""Who a container runs as, as root and without, and what it may write to, as it is asked of Podman."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ion_core.containers.hardened import NOBODY
from ion_core.containers.images import Image
from ion_core.contracts.runtime import ContainerSpec
from ion_podman.interactive import foreground
from ion_podman.settings import PodmanSettings
from ion_podman.spec import Wanted

OURS = "1000:1000"


def wanted(user: str, *, own_user: str | None = OURS, **allow: Any) -> Wanted:
    image = Image(id="i", digest="d", user=user, labels={})
    settings = PodmanSettings.model_validate({"allow": allow})
    made = ContainerSpec(name="c", module="m", workspace=Path("/w"))
    return Wanted(spec=made, image=image, settings=settings, own_user=own_user)


@pytest.mark.parametrize("allow", [{"root": ["m"]}, {"privileged": ["m"]}])
@pytest.mark.parametrize("user", ["", "root", "0:0"])
def test_without_root_a_container_that_may_be_root_is_us(user: str, allow: dict[str, Any]) -> None:
    """Podman maps root inside to us by itself; with ``keep-id`` it sets our own user, which is not what was asked."""
    asked = wanted(user, **allow)
    assert asked.user == user
    assert "userns" not in asked.to_json()


@pytest.mark.parametrize("allow", [{}, {"root": ["m"]}, {"privileged": ["m"]}])
def test_without_root_all_others_are_us_by_number(allow: dict[str, Any]) -> None:
    """Also a user of the image: what another number writes would not be ours to remove."""
    asked = wanted("app", **allow)
    assert asked.user == OURS
    assert asked.to_json()["userns"] == {"nsmode": "keep-id"}
    assert wanted("").user == OURS


def test_as_root_users_are_what_they_were() -> None:
    assert wanted("", own_user=None).user == NOBODY
    assert wanted("app", own_user=None).user == "app"
    assert wanted("", own_user=None, root=["m"]).user == ""
    assert wanted("app", own_user=None, root=["m"]).user == "app"
    assert "userns" not in wanted("", own_user=None).to_json()


def test_without_root_a_terminal_has_the_same_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: "/bin/podman")
    keeps = foreground(wanted("app"), "/s", {"PATH": "/bin"}, terminal=False).argv
    assert "--userns=keep-id" in keeps
    is_root = foreground(wanted("", root=["m"]), "/s", {"PATH": "/bin"}, terminal=False).argv
    assert "--userns=keep-id" not in is_root


def test_volumes_under_what_is_mounted_anyway_are_left_out() -> None:
    image = Image(id="i", digest="d", user="", labels={}, volumes=("/", "/ion/x", "/tmp", "/tmpfiles", "data/", "/m/a"))
    asked = replace(wanted("", mounts={"m": ["/srv:/m"]}), image=image)
    assert asked.tmpfs() == ["/tmp", "/tmpfiles", "/data"]
