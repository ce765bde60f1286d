"""What may be set."""

from __future__ import annotations

import re
from pathlib import Path

from ruamel.yaml import YAML

from ion_core.containers.allow import AllowSettings, mount_parts
from ion_oci.settings import OciSettings


def test_a_mount_is_read_only_unless_it_says_otherwise() -> None:
    assert mount_parts("/of/the/host:/models") == ("/of/the/host", "/models", False)
    assert mount_parts("/of/the/host:/models:ro") == ("/of/the/host", "/models", False)
    assert mount_parts("/of/the/host:/models:rw") == ("/of/the/host", "/models", True)


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_module_that_is_allowed_something_is_told() -> None:
    """So that ``check`` knows a name of no module."""
    names = ["detect", "blur"]
    given = {**dict.fromkeys(AllowSettings.model_fields, names), "mounts": {"detect": ["/a:/b"], "blur": []}}
    told = OciSettings.model_validate({"allow": given}).modules()
    assert {key.split(".")[1].partition("[")[0] for key in told} == set(AllowSettings.model_fields)
    assert [*told.values()].count("detect") == [*told.values()].count("blur") == len(AllowSettings.model_fields)
    assert (told["allow.root[1]"], told["allow.mounts.detect"]) == ("blur", "detect")


def test_every_setting_is_in_the_readme() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", README, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(OciSettings.model_fields)
    allowed = re.search(r"^\| `allow` \| nothing \| ([^|]*)", README, re.M)
    assert allowed is not None
    assert set(re.findall(r"`(\w+)`", allowed[1])) == set(AllowSettings.model_fields)


def test_the_settings_shown_in_the_readme_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    for block in blocks:
        section = YAML(typ="safe").load(block)["runtimes"]["default"]
        assert section.pop("provider") == "oci"
        OciSettings.model_validate(section)
