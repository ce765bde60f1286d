"""What may be set, and where the service is looked for."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from ion_core.containers.allow import AllowSettings, mount_parts
from ion_core.errors import ConfigError
from ion_podman.service import socket_of
from ion_podman.settings import PodmanSettings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "tcp://elsewhere:8080"}, "must be a unix socket of this machine"),
        ({"url": "ssh://root@elsewhere/run/podman/podman.sock"}, "must be a unix socket"),
        ({"pull": "newer"}, "missing"),
        ({"pids": 0}, "greater than 0"),
        ({"privileged": ["m"]}, "Extra inputs"),
        ({"allow": {"everything": ["m"]}}, "Extra inputs"),
        ({"allow": {"mounts": {"m": ["models:/models"]}}}, "must be /of/the/host"),
        ({"allow": {"mounts": {"m": ["/a:/b:exec"]}}}, "must be /of/the/host"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PodmanSettings.model_validate(given)


def test_a_mount_is_read_only_unless_it_says_otherwise() -> None:
    assert mount_parts("/of/the/host:/models") == ("/of/the/host", "/models", False)
    assert mount_parts("/of/the/host:/models:ro") == ("/of/the/host", "/models", False)
    assert mount_parts("/of/the/host:/models:rw") == ("/of/the/host", "/models", True)


def test_the_service_is_where_the_settings_say_or_the_environment_or_podman(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"CONTAINER_HOST": "unix:///run/mine.sock", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert socket_of("unix:///given.sock", environ) == "/given.sock"
    assert socket_of(None, environ) == "/run/mine.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert socket_of(None, {}) == "/run/podman/podman.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert socket_of(None, {"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/user/7/podman/podman.sock"


def test_a_service_on_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="CONTAINER_HOST"):
        socket_of(None, {"CONTAINER_HOST": "ssh://root@elsewhere/run/podman/podman.sock"})


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_module_that_is_allowed_something_is_told() -> None:
    """So that ``check`` knows a name of no module."""
    names = ["detect", "blur"]
    given = {**dict.fromkeys(AllowSettings.model_fields, names), "mounts": {"detect": ["/a:/b"], "blur": []}}
    told = PodmanSettings.model_validate({"allow": given}).modules()
    assert {key.split(".")[1].partition("[")[0] for key in told} == set(AllowSettings.model_fields)
    assert [*told.values()].count("detect") == [*told.values()].count("blur") == len(AllowSettings.model_fields)
    assert (told["allow.root[1]"], told["allow.mounts.detect"]) == ("blur", "detect")


def test_every_setting_is_in_the_readme() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", README, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(PodmanSettings.model_fields)
    allowed = re.search(r"^\| `allow` \| nothing \| ([^|]*)", README, re.M)
    assert allowed is not None
    assert set(re.findall(r"`(\w+)`", allowed[1])) == set(AllowSettings.model_fields)


def test_the_settings_shown_in_the_readme_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    for block in blocks:
        section = YAML(typ="safe").load(block)["runtimes"]["default"]
        assert section.pop("provider") == "podman"
        PodmanSettings.model_validate(section)
